"""The bookshop's pages, and those about its nodes once more without the admin."""

from bookshop.urls import urlpatterns as shop
from django.urls import include, path

from django_rb.contrib.admin import rankings

rankings.SECONDS = 0.5  # nobody uses keys meanwhile

urlpatterns = [*shop, path("nodes/", include("django_rb.contrib.admin.urls"))]
