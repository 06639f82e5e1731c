"""Management commands: what an operator types."""
