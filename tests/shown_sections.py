"""The Python that a section of a page shows, also as a program that runs it.

python -m tests.shown_sections docs/telemetry.md Prometheus
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def sections(page: str) -> dict[str, list[str]]:
    """Return the Python blocks of a page by the heading of their section."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"(?m)^(?=## )", (ROOT / page).read_text()):
        if blocks := re.findall(r"(?sm)^```python\n(.*?)^```$", part):
            found[part.splitlines()[0].strip("# ")] = blocks
    return found


def main(page: str, section: str) -> None:
    import django
    from django.conf import settings

    settings.configure(INSTALLED_APPS=["django_rb"], RB_CLUSTERS={"default": {"HOSTS": []}})
    django.setup()
    names: dict[str, Any] = {"__name__": "shown"}
    for block in sections(page)[section]:
        exec(block, names)


if __name__ == "__main__":
    main(*sys.argv[1:])
