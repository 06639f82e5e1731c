"""Registers the pages with `admin.site`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern

from .models import Node
from .pages import Pages, may

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Node]
else:
    ModelAdmin = admin.ModelAdmin


@admin.register(Node)
class NodeAdmin(ModelAdmin):
    """Replaces the pages of a model by ours, which check permissions themselves."""

    def get_urls(self) -> list[URLPattern]:
        """Return the routes of the pages."""
        from .routes import make_urls  # noqa: PLC0415 (and with it redis-py)

        return make_urls(Pages(self.admin_site))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may see the pages."""
        return may(request, "view")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: nodes are added in the settings."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: nodes are changed in the settings."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: nodes are removed in the settings."""
        return False
