"""The Django app: counts from the start of the process."""

from django.apps import AppConfig


class PrometheusConfig(AppConfig):
    """Put "django_rb.contrib.prometheus" into INSTALLED_APPS."""

    name = "django_rb.contrib.prometheus"
    label = "django_rb_prometheus"
    verbose_name = "django-rb for Prometheus"

    def ready(self) -> None:
        """Start counting."""
        from . import start  # noqa: PLC0415

        start()
