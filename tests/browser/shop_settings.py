"""The bookshop's settings, with more caches, the pages by themselves, and a strict policy."""

from bookshop.settings import *  # noqa: F403
from bookshop.settings import CACHES, MIDDLEWARE

ROOT_URLCONF = "tests.browser.shop_urls"
LOGIN_URL = "/admin/login/"
MIDDLEWARE = ["tests.browser.policy.strict", *MIDDLEWARE]
CACHES = {
    **CACHES,
    "json": {
        "BACKEND": "django_rb.cache.RBCache",
        "KEY_PREFIX": "json",
        "OPTIONS": {"SERIALIZER": "json"},
    },
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # a quick one
RB_ADMIN = {"TIMEOUT": 0.5, "REFRESH": 0.5}
