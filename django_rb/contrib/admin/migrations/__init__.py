"""Migrations of the app; its only model has no table."""
