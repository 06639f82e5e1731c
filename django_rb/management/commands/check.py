"""manage.py check: Django's own, and `--tag rb_connect`, which connects to the nodes."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

from django.core.checks import register
from django.core.management.commands import check

from ...checks.connecting import RB_CONNECT, check_nodes, connecting


class Command(check.Command):
    def handle(self, *app_labels: Any, **options: Any) -> None:
        # Not in ready(): if another app's `check` replaces this one, the tag should be
        # unknown there, and not without effect.
        register(check_nodes, RB_CONNECT)
        is_named = RB_CONNECT in (options["tags"] or ())
        if is_named:
            # The messages report it. Handlers that the site has configured still log it.
            logging.getLogger("django_rb.health").addHandler(logging.NullHandler())
        with connecting() if is_named else nullcontext():
            super().handle(*app_labels, **options)
