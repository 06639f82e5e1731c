"""Settings of the bookshop, which stays open while one of its nodes is dead."""

import os
from importlib.util import find_spec
from pathlib import Path

DEBUG = True
SECRET_KEY = "an example's key is no secret"
ROOT_URLCONF = "bookshop.urls"
WSGI_APPLICATION = "bookshop.wsgi.application"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_rb",
    "django_rb.contrib.admin",
    "bookshop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django_rb.ratelimit.middleware.RatelimitMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "bookshop.nodes.nodes_away",
            ]
        },
    }
]
STATIC_URL = "static/"
TIME_ZONE = "UTC"
USE_TZ = True

# For sessions, and for the admin's users. `manage.py serve` makes the tables, and a user.
DATABASE = Path(__file__).parents[1] / "db.sqlite3"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("BOOKSHOP_DATABASE", DATABASE),
    }
}

# Four nodes. `manage.py rb_nodes` puts local ones in their place, so they need not exist.
NODES = [{"host": "127.0.0.1", "port": port} for port in (6379, 6380, 6381, 6382)]

RB_CLUSTERS = {
    "default": {"HOSTS": NODES},
    # A database of their own: emptying the cache must not give five more tries to log in.
    "limits": {"HOSTS": NODES, "HOST_DEFAULTS": {"db": 1}},
}
CACHES = {
    "default": {
        "BACKEND": "django_rb.cache.RBCache",
        "LOCATION": "default",
        # Without one of its nodes the shop is slower, and open.
        "OPTIONS": {"ON_NODE_ERROR": "miss"},
    },
}
# The database has what a dead node or an emptied cache forgets.
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
RATELIMIT_CLUSTER = "limits"
RATELIMIT_VIEW = "bookshop/too_many.html"

# The panel "django-rb" shows what a page asked its nodes for. A crowd is served without it.
if find_spec("debug_toolbar") and os.environ.get("BOOKSHOP_TOOLBAR") != "off":
    INSTALLED_APPS += ["debug_toolbar"]
    MIDDLEWARE.insert(0, "debug_toolbar.middleware.DebugToolbarMiddleware")
    INTERNAL_IPS = ["127.0.0.1"]
    DEBUG_TOOLBAR_PANELS = [
        "debug_toolbar.panels.history.HistoryPanel",
        "django_rb.contrib.debug_toolbar.RBPanel",
        "debug_toolbar.panels.timer.TimerPanel",
        "debug_toolbar.panels.sql.SQLPanel",
        "debug_toolbar.panels.templates.TemplatesPanel",
    ]
    DEBUG_TOOLBAR_CONFIG = {
        "SHOW_TOOLBAR_CALLBACK": "bookshop.nodes.shows_toolbar",
        # The toolbar would keep what each template was given: 90 MB for the front page.
        "SHOW_TEMPLATE_CONTEXT": False,
    }
