"""Signals that django-rb sends."""

from __future__ import annotations

from django.dispatch import Signal

# A cluster of settings.RB_CLUSTERS was made, which happens when it is first asked for. The
# sender is the class Cluster; the arguments are `alias` and `cluster`.
cluster_made = Signal()

# This process saw a node of a cluster change its state, or the node has a complaint. The
# sender is the class Cluster; the arguments are `alias` and the attributes of
# django_rb.engine.HealthChange. Sent at the end of the call that saw it, by its thread.
node_health_changed = Signal()

# Sentinels gave a shard another primary, and this process has learned of it. The sender is the
# class Cluster; the arguments are `alias` and the attributes of django_rb.engine.PrimaryChange.
# Sent once per process, at the end of the call that learned of it, by its thread.
primary_changed = Signal()
