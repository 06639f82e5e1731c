"""The algorithms by name."""

from __future__ import annotations

SLIDING_WINDOW = "sliding-window"
FIXED_WINDOW = "fixed-window"
TOKEN_BUCKET = "token-bucket"  # noqa: S105 (no password)

ALGORITHMS = (SLIDING_WINDOW, FIXED_WINDOW, TOKEN_BUCKET)
