"""Batches, and the rounds in which they run. No I/O."""
