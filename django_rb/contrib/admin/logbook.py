"""Logs who changed what, in the logger `django_rb.admin` and in the admin's log."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.http import HttpRequest

from ...engine.wording import escaped, get_logger

logger = get_logger("django_rb.admin")

CHANGED, DELETED = 2, 3  # as in django.contrib.admin.models
_LONGEST_NAME = 200  # of LogEntry.object_repr


def note(request: HttpRequest, flag: int, where: str, name: str, message: str) -> None:
    """Log an action of a user.

    Args:
        flag: CHANGED or DELETED.
        where: a cluster's alias, or a node as in "default.0".
        name: the object that was changed.
        message: what was done.
    """
    user: Any = request.user
    logger.info("%s on %s by %s: %s", name, where, user, message)
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import LogEntry  # noqa: PLC0415 (may not be installed)
    from django.contrib.contenttypes.models import ContentType  # noqa: PLC0415

    from .models import Node  # noqa: PLC0415 (models can be imported once apps are ready)

    LogEntry.objects.create(
        user_id=user.pk,
        content_type=ContentType.objects.get_for_model(Node),
        object_id=where,
        object_repr=escaped(name)[:_LONGEST_NAME],
        action_flag=flag,
        change_message=escaped(message),
    )
