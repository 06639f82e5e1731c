"""Integrations with other packages; each is imported only if it is used."""
