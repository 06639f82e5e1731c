"""Prevents a second run on the same old nodes if one of both deletes keys.

If one run deletes a key from an old node after it was copied, another one could mistake that
for a deletion by the site, and delete its copy: the key would be lost. So each run subscribes
to a channel on the old nodes while it lasts, and nodes count the subscribers. That leaves no
keys behind, and ends with the process, however it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic, sleep
from typing import Any

import redis

from .sides import Side

COPYING, DELETING = "django_rb:rb_migrate:copying", "django_rb:rb_migrate:deleting"

# A node detects shortly afterwards that a run was killed.
_PATIENCE_SECONDS = 3.0


class OtherRunError(Exception):
    """Another run has the same old nodes, and one of both deletes keys."""


@contextmanager
def alone(old: Side, deletes: bool) -> Iterator[None]:
    """Announce this run to others for the duration of a block, on old nodes that answer.

    Args:
        old: the nodes that have the keys.
        deletes: whether this run deletes keys from them.

    Raises:
        OtherRunError: there is another run, and one of both deletes keys.
    """
    with ExitStack() as listeners:
        clients: list[tuple[Any, Sequence[str]]] = []
        for host_id in old.cluster.hosts:
            # A failed node is reported when it is asked for keys; and users that may not
            # subscribe there may still copy.
            with suppress(redis.RedisError):
                if not old.has_failed(host_id):
                    client: Any = old.cluster.get_local_client(host_id)
                    listener = listeners.enter_context(client.pubsub())
                    # Nodes count subscribers for all their databases together.
                    database = old.cluster.hosts[host_id].db
                    channels = [f"{name}:{database}" for name in (COPYING, DELETING)]
                    subscribed = channels if deletes else channels[:1]
                    listener.subscribe(*subscribed)
                    for _ in subscribed:
                        listener.parse_response()
                    clients.append((client, channels))
        end = monotonic() + _PATIENCE_SECONDS
        while any(_has_another(*each, deletes) for each in clients):
            if monotonic() > end:
                raise OtherRunError
            sleep(0.05)
        yield


def _has_another(client: Any, channels: Sequence[str], deletes: bool) -> bool:
    with suppress(redis.RedisError):
        (_, copying), (_, deleting) = client.pubsub_numsub(*channels)
        return bool(copying > 1 if deletes else deleting)
    return False
