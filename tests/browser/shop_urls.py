"""The bookshop's pages, and those about its nodes once more without the admin."""

from bookshop.urls import urlpatterns as shop
from django.urls import include, path

urlpatterns = [*shop, path("nodes/", include("django_rb.contrib.admin.urls"))]
