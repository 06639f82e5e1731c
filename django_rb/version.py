"""The version of django-rb."""

__version__ = "0.1.0"
