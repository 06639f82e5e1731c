"""One page: sign the book."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from .book import sign


def signed(request: HttpRequest, name: str) -> HttpResponse:
    """Say how often someone was here."""
    return HttpResponse(str(sign(name)))


urlpatterns = [path("sign/<name>", signed)]
