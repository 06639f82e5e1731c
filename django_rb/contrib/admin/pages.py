"""The URLs of the pages, in an admin site or without one, and the permissions for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite

View = Callable[..., HttpResponse]

# The names of routes that the admin itself looks for.
_IN_ADMIN = {"overview": "changelist", "node": "change"}

PERMISSIONS = ("view", "change", "delete", "flush")


class Pages:
    """The pages of an admin site, or those without one.

    Args:
        site: the admin site; None for pages without one, for staff.
    """

    def __init__(self, site: AdminSite | None = None) -> None:
        self.site = site

    def route(self, name: str) -> str:
        """Return the name of a page's route."""
        return name if self.site is None else f"rb_admin_node_{_IN_ADMIN.get(name, name)}"

    def url(self, request: HttpRequest, name: str, *args: Any, **query: Any) -> str:
        """Return the URL of another page for links in the requested one."""
        match = request.resolver_match
        assert match is not None
        found = reverse(f"{match.namespace}:{self.route(name)}", args=args)
        return f"{found}?{urlencode(query)}" if query else found

    def _tab(self, request: HttpRequest) -> str:
        """Return which of the main pages is requested, or is the parent of it."""
        match = request.resolver_match
        name = "" if match is None else match.url_name or ""
        if name in map(self.route, ("overview", "node", "flush")):
            return "overview"
        own = ("slow_log", "hot_keys", "large_keys")
        return next((page for page in own if name == self.route(page)), "keys")

    def guarded(self, view: View, permission: str) -> View:
        """Return a view for staff with a permission.

        Args:
            view: called with these pages and the arguments of a view.
            permission: "view", "change", "delete" or "flush".
        """

        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if self.site is None and not may_enter(request):
                return redirect_to_login(request.get_full_path())
            if not may(request, permission):
                raise PermissionDenied
            return view(self, request, *args, **kwargs)

        if self.site is None:
            return never_cache(csrf_protect(guarded))
        return self.site.admin_view(guarded)

    def render(
        self, request: HttpRequest, template: str, title: str, **context: Any
    ) -> HttpResponse:
        """Return a page from a template in `rb_admin/`."""
        base, shared = "rb_admin/standalone.html", {}
        if self.site is not None:
            base, shared = "admin/base_site.html", self.site.each_context(request)
        links = [
            (name, self.url(request, route), route)
            for name, route in (
                ("Nodes", "overview"),
                ("Slow log", "slow_log"),
                ("Keys", "keys"),
                ("Hot keys", "hot_keys"),
                ("Large keys", "large_keys"),
            )
        ]
        return render(
            request,
            f"rb_admin/{template}",
            {
                **shared,
                "base": base,
                "title": title,
                "links": links,
                "tab": self._tab(request),
                "may": {name: may(request, name) for name in PERMISSIONS},
                **context,
            },
        )


def may_enter(request: HttpRequest) -> bool:
    """Whether the user is staff."""
    user: Any = getattr(request, "user", None)
    return bool(user is not None and user.is_active and user.is_staff)


def may(request: HttpRequest, permission: str) -> bool:
    """Whether the user has a permission."""
    user: Any = request.user
    return bool(user.has_perm(f"rb_admin.{permission}_node"))
