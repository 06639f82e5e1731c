"""The Django app: registers the system checks."""

from django.apps import AppConfig


class DjangoRBConfig(AppConfig):
    """Put "django_rb" into INSTALLED_APPS for its checks and management commands."""

    name = "django_rb"
    verbose_name = "django-rb"

    def ready(self) -> None:
        """Register the checks."""
        from . import checks  # noqa: F401, PLC0415
