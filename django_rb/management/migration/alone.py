"""One run at a time where one deletes.

What one run deletes from old nodes after it was copied, another could take for a deletion by
the site, and take its copy back: the key would be lost. So each run listens to a channel on the
old nodes for as long as it lasts, and nodes count who listens. That leaves no keys behind, and
ends with the process, in whatever way that ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic, sleep
from typing import Any

import redis

from .sides import Side

COPYING, DELETING = "django_rb:rb_migrate:copying", "django_rb:rb_migrate:deleting"

# A node takes note a moment later that a run was killed.
_PATIENCE_SECONDS = 3.0


class OtherRunError(Exception):
    """Another run has the same old nodes, and one of both deletes."""


@contextmanager
def alone(old: Side, deletes: bool) -> Iterator[None]:
    """Let other runs know of this one meanwhile, on those old nodes that can be asked.

    Args:
        old: the nodes that have the keys.
        deletes: whether this run deletes keys from them.

    Raises:
        OtherRunError: another run is there, and one of both deletes.
    """
    channels = (COPYING, DELETING) if deletes else (COPYING,)
    with ExitStack() as listeners:
        clients: list[Any] = []
        for host_id in old.cluster.hosts:
            # A node that fails is named where it is asked for keys; and who must not listen
            # there is not kept from copying.
            with suppress(redis.RedisError):
                if not old.has_failed(host_id):
                    client: Any = old.cluster.get_local_client(host_id)
                    listener = listeners.enter_context(client.pubsub())
                    listener.subscribe(*channels)
                    for _ in channels:
                        listener.parse_response()
                    clients.append(client)
        end = monotonic() + _PATIENCE_SECONDS
        while any(_has_another(client, deletes) for client in clients):
            if monotonic() > end:
                raise OtherRunError
            sleep(0.05)
        yield


def _has_another(client: Any, deletes: bool) -> bool:
    with suppress(redis.RedisError):
        (_, copying), (_, deleting) = client.pubsub_numsub(COPYING, DELETING)
        return bool(copying > 1 if deletes else deleting)
    return False
