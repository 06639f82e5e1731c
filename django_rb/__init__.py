"""django-rb: a Django site over many Redis or Valkey nodes."""

__version__ = "0.1.0"
