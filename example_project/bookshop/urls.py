"""The pages of the bookshop."""

from django.apps import apps
from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

from . import views
from .reading_room import reading_room, turn_page

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("", views.front, name="front"),
    path("bestsellers/", views.bestsellers, name="bestsellers"),
    path("almanac/", views.almanac, name="almanac"),
    path("reading-room/", reading_room, name="reading_room"),
    path("reading-room/<slug:slug>/<uuid:reader>/", turn_page, name="turn_page"),
    path("books/<slug:slug>/", views.book, name="book"),
    path("basket/", views.basket, name="basket"),
    path("forget/", views.forget, name="forget"),
    path("login/", views.log_in, name="login"),
    path("logout/", views.log_out, name="logout"),
    path("limits/", views.limits, name="limits"),
]
if apps.is_installed("debug_toolbar"):
    urlpatterns.append(path("__debug__/", include("debug_toolbar.urls")))
