"""Metrics for prometheus_client, from the start of the process if it is in INSTALLED_APPS."""

from .exporting import Exporting, start

__all__ = ["Exporting", "start"]
