"""Nodes: addresses, options and health."""
