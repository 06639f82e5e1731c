"""The pages in the admin, where `admin.site` finds them."""

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
    """Puts the pages in place of those that models have. What may be done, pages say."""

    def get_urls(self) -> list[URLPattern]:
        """Return the routes of the pages."""
        from .routes import make_urls  # noqa: PLC0415 (and with it redis-py)

        return make_urls(Pages(self.admin_site))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether somebody may see the pages."""
        return may(request, "view")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return that nodes are added in the settings."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return that nodes are changed in the settings."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return that nodes are removed in the settings."""
        return False
