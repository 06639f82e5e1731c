"""Settings of the bookshop. It has no database: what it remembers is in the cache."""

DEBUG = True
SECRET_KEY = "an example's key is no secret"
ROOT_URLCONF = "bookshop.urls"
WSGI_APPLICATION = "bookshop.wsgi.application"
INSTALLED_APPS = [
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_rb",
    "bookshop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django_rb.ratelimit.middleware.RatelimitMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]
STATIC_URL = "static/"
TIME_ZONE = "UTC"
USE_TZ = True

# Four nodes. `manage.py rb_nodes` puts local ones in their place, so they need not exist.
NODES = [{"host": "127.0.0.1", "port": port} for port in (6379, 6380, 6381, 6382)]

RB_CLUSTERS = {
    "default": {"HOSTS": NODES},
    # A database of their own, so that emptying the cache empties no basket.
    "sessions": {"HOSTS": NODES, "HOST_DEFAULTS": {"db": 1}},
}
CACHES = {
    "default": {
        "BACKEND": "django_rb.cache.RBCache",
        "LOCATION": "default",
        # Without one of its nodes the shop is slower, and open.
        "OPTIONS": {"ON_NODE_ERROR": "miss"},
    },
    "sessions": {
        "BACKEND": "django_rb.cache.RBCache",
        "LOCATION": "sessions",
    },
}
# Not with the cache, for whoever empties that would have five more tries to log in.
RATELIMIT_CLUSTER = "sessions"
RATELIMIT_VIEW = "bookshop/too_many.html"
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
SESSION_CACHE_ALIAS = "sessions"
