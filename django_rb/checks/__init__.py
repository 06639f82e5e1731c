"""What `manage.py check` can say. Each id is described in docs/checks.md, with its cure.

E001 to W011 and, with --deploy, W101 to W104 are read off the settings and connect to
nothing. E201 to W207 are what nodes say when `manage.py check --tag rb_connect` asks them.
"""

from .connecting import ask_nodes
from .deployment import check_deployment
from .from_settings import (
    check_caches,
    check_clusters,
    check_per_site_cache,
    check_routers,
    check_sessions,
    check_shared_databases,
    check_shared_keys,
    check_times,
)
from .limits import (
    check_limit_settings,
    check_limited_views,
    check_proxies,
    check_unread_settings,
)

__all__ = [
    "ask_nodes",
    "check_caches",
    "check_clusters",
    "check_deployment",
    "check_limit_settings",
    "check_limited_views",
    "check_per_site_cache",
    "check_proxies",
    "check_routers",
    "check_sessions",
    "check_shared_databases",
    "check_shared_keys",
    "check_times",
    "check_unread_settings",
]
