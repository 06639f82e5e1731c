"""Settings of a site that keeps pickles on an open node, and one behind a password."""

from tests.settings import *  # noqa: F403

RB_CLUSTERS = {
    "default": {"HOSTS": [{"host": "10.0.0.1"}, {"host": "10.0.0.2", "password": "hunter2"}]}
}
