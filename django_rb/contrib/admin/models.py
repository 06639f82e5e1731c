"""The model for permissions. There is no table: nodes are in settings.RB_CLUSTERS."""

from __future__ import annotations

from django.db import models


class Node(models.Model):
    """A node of a cluster, for permissions and the admin's log."""

    class Meta:  # noqa: D106 (Django's)
        managed = False
        default_permissions = ()
        permissions = [
            ("view_node", "Can see nodes, slow logs, and all keys and values"),
            ("change_node", "Can change when keys expire"),
            ("delete_node", "Can delete keys"),
            ("flush_node", "Can empty nodes"),
        ]
