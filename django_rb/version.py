"""The version of django-rb."""

__version__ = "1.0.0"
