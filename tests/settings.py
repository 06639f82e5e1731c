"""Settings of the test project; tests/conftest.py points the cluster at running nodes."""

SECRET_KEY = "tests"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.admin",
    "django_rb",
    "django_rb.contrib.admin",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
RB_CLUSTERS = {"default": {"HOSTS": [{"host": "127.0.0.1", "port": 4}]}}  # no test uses it
CACHES = {"default": {"BACKEND": "django_rb.cache.RBCache"}}
USE_TZ = True
# What the admin needs beside, tests of its pages have.
SILENCED_SYSTEM_CHECKS = ["admin.E403", "admin.E408", "admin.E409", "admin.E410"]
