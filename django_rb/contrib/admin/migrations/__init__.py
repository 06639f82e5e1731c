"""Migrations of the app; its one model has no table."""
