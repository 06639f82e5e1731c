"""A site with the pages in its admin, and once more by themselves; and who uses it."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.http import HttpResponse
from django.test import Client
from django.urls import include, path

from django_rb.contrib.admin.where import to_text

IN_ADMIN = "/admin/rb_admin/node/"
ALONE = "/nodes/"
SECRET = "a key that nobody guesses"

urlpatterns = [
    path("admin/", admin.site.urls),
    path("nodes/", include("django_rb.contrib.admin.urls")),
]

SETTINGS: dict[str, Any] = {
    "ROOT_URLCONF": __name__,
    "ALLOWED_HOSTS": ["*"],
    "STATIC_URL": "static/",
    "LOGIN_URL": "/admin/login/",
    "MIDDLEWARE": [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    "CACHES": {
        "default": {"BACKEND": "django_rb.cache.RBCache"},
        "json": {
            "BACKEND": "django_rb.cache.RBCache",
            "KEY_PREFIX": "json",
            "OPTIONS": {"SERIALIZER": "json"},
        },
        "signed": {
            "BACKEND": "django_rb.cache.RBCache",
            "KEY_PREFIX": "signed",
            "OPTIONS": {"SIGNING_KEY": SECRET},
        },
        "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    },
}


def log_in(*permissions: str, staff: bool = True, csrf: bool = False) -> Client:
    """Return the browser of a new user with some of the permissions."""
    number = User.objects.count()
    user = User.objects.create(username=f"user{number}", is_staff=staff)
    names = [f"{name}_node" for name in permissions]
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client = Client(enforce_csrf_checks=csrf)
    client.force_login(user)
    return client


def key_url(page: str, where: str, key: bytes, base: str = IN_ADMIN) -> str:
    """Return the address of a page about a key."""
    return f"{base}keys/{page}?where={where}&key={to_text(key)}"


def text_of(response: Any) -> str:
    """Return what people read on a page, in one line."""
    assert isinstance(response, HttpResponse)
    html = re.sub(r"(?s)<(head|script)\b.*?</\1>", "", response.content.decode())
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())
