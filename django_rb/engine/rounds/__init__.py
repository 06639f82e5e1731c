"""Batches and their rounds. No I/O."""
