"""Metrics for prometheus_client. In INSTALLED_APPS it counts from the start of the process."""

from .exporting import Exporting, start

__all__ = ["Exporting", "start"]
