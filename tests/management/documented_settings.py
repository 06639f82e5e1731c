"""The project whose commands docs/commands.md shows."""

from tests.management.settings import *  # noqa: F403

RB_CLUSTERS = {
    "default": {"HOSTS": [{"host": "10.0.0.1"}, {"host": "10.0.0.2"}]},
    "sessions": {"HOSTS": [{"host": "10.0.0.1", "db": 1}, {"host": "10.0.0.2", "db": 1}]},
}
