"""The pages of the bookshop."""

from django.urls import path

from . import views

urlpatterns = [
    path("", views.front, name="front"),
    path("bestsellers/", views.bestsellers, name="bestsellers"),
    path("books/<slug:slug>/", views.book, name="book"),
    path("basket/", views.basket, name="basket"),
    path("forget/", views.forget, name="forget"),
    path("login/", views.log_in, name="login"),
    path("limits/", views.limits, name="limits"),
]
