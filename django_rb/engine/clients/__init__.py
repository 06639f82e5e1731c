"""The clients over many nodes, and the promises of their commands."""
