"""The Django app: pages about the nodes, and their permissions."""

from django.apps import AppConfig


class RBAdminConfig(AppConfig):
    """Put "django_rb.contrib.admin" into INSTALLED_APPS."""

    name = "django_rb.contrib.admin"
    label = "rb_admin"
    verbose_name = "django-rb"
    default_auto_field = "django.db.models.BigAutoField"
