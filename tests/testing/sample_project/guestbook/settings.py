"""Settings as in production: nodes that tests must not touch, with weights and a password."""

import json
import os

SECRET_KEY = "sample"
ALLOWED_HOSTS = ["*"]
STATIC_URL = "static/"
ROOT_URLCONF = "guestbook.urls"
INSTALLED_APPS = ["django_rb"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True

RB_CLUSTERS = {
    "default": {
        "HOSTS": json.loads(
            os.environ.get(
                "GUESTBOOK_HOSTS",
                '["redis://127.0.0.1:1", "redis://127.0.0.1:2", "redis://127.0.0.1:3"]',
            )
        ),
        "ROUTER_OPTIONS": {"weights": {2: 3}},
        "POOL_OPTIONS": {"password": "secret", "socket_timeout": 5.0},
        "TEST": json.loads(os.environ.get("GUESTBOOK_TEST", "{}")),
    },
    "archive": {
        "HOSTS": ["redis://127.0.0.1:4"],
        "ROUTER": "django_rb.engine.ConsistentHashingRouter",
    },
}
if "GUESTBOOK_TOPOLOGY" in os.environ:
    RB_CLUSTERS["default"]["TOPOLOGY"] = os.environ["GUESTBOOK_TOPOLOGY"]
    del RB_CLUSTERS["default"]["ROUTER_OPTIONS"]
    if os.environ["GUESTBOOK_TOPOLOGY"] == "sentinel":
        RB_CLUSTERS["default"]["HOSTS"] = [{"master_name": "a"}, {"master_name": "b"}]
        RB_CLUSTERS["default"]["SENTINELS"] = ["redis://127.0.0.1:5"]

CACHES = {
    "default": {"BACKEND": "django_rb.cache.RBCache"},
    "archive": {"BACKEND": "django_rb.cache.RBCache", "LOCATION": "archive"},
}

TEST_RUNNER = "django_rb.testing.RBDiscoverRunner"
