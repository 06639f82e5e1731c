"""Signals that django-rb sends."""

from __future__ import annotations

from django.dispatch import Signal

# A cluster of settings.RB_CLUSTERS was created, which happens when it is first used. The
# sender is the class Cluster; the arguments are `alias` and `cluster`.
cluster_made = Signal()

# The state of a cluster's node has changed for this process, or the node reported a problem.
# The sender is the class Cluster; the arguments are `alias` and the attributes of
# django_rb.engine.HealthChange. Sent at the end of the call that detected it, in its thread.
node_health_changed = Signal()

# A shard has another primary, and this process has learned of it. The sender is the class
# Cluster; the arguments are `alias` and the attributes of django_rb.engine.PrimaryChange. Sent
# once per process, at the end of the call that learned of it, in its thread.
primary_changed = Signal()
