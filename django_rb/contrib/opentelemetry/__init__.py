"""Spans and metrics for OpenTelemetry: `RBInstrumentor`."""

from .instrumentor import RBInstrumentor

__all__ = ["RBInstrumentor"]
