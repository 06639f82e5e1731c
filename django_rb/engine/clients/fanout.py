"""The client whose commands go to chosen hosts, in parallel."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Self, cast

import redis

from ..protocol.encoding import with_text_for_numbers
from .base import words_apart
from .managers import Hosts
from .mapping import MappingClient
from .port import ClientPort
from .promise import Promise


class FanoutClient(MappingClient):
    """Each command goes to all chosen hosts; its value is ``{host id: result}``.

    with cluster.fanout(hosts=[0, 1]) as client:
        infos = client.info()
    infos.value[0]["redis_version"]

    Commands go where they are sent, not where the router would place their keys.
    """

    def __init__(
        self,
        cluster: ClientPort,
        hosts: Hosts | None = None,
        max_concurrency: int | None = 64,
        *,
        auto_batch: bool = True,
        like: redis.Redis | None = None,
    ) -> None:
        super().__init__(cluster, max_concurrency, auto_batch=auto_batch, like=like)
        # "all" stands for the hosts that exist when a command is called.
        self._hosts: str | list[int] | None = None
        if hosts is not None:
            self._hosts = "all" if hosts == "all" else checked_hosts(cluster, hosts)
        self._is_single = False
        self._is_retargeted = False

    def target(self, hosts: Hosts) -> Self:
        """Return a client for other hosts; its commands run in the same batch.

        client.target([0, 3]).ping()

        Raises:
            TypeError: the client was retargeted before.
        """
        return self._retargeted(hosts, is_single=False)

    def target_key(self, key: Any) -> Self:
        """Return a client for the host that owns a key; its results are not dictionaries."""
        return self._retargeted([self._cluster.get_host_for_key(key)], is_single=True)

    def _retargeted(self, hosts: Hosts, *, is_single: bool) -> Self:
        if self._is_retargeted:
            raise TypeError(
                "Cannot use target more than once: the hosts of this client are already chosen "
                "by target() or target_key(). Use the client that the `with` block has given."
            )
        targeted = copy.copy(self)  # both share the lists of pending commands
        vars(targeted).update(
            _hosts=checked_hosts(self._cluster, hosts),
            _is_retargeted=True,
            _is_single=is_single,
        )
        return targeted

    def execute_command(self, *args: Any, **options: Any) -> Promise[Any]:
        """Return a promise for ``{host id: result}``.

        Raises:
            RuntimeError: no hosts were chosen.
            UnroutableCommand: it changes the connection it is sent on.
        """
        if self._hosts is None:
            raise RuntimeError(
                "The fanout client was given no hosts. Use cluster.fanout(hosts=[0, 1]), "
                "cluster.all() or client.target([0, 1])."
            )
        words = words_apart(with_text_for_numbers(self._sendable(args)))
        self._check(words)
        name = args[0] if isinstance(args[0], str) else cast(str, words[0])
        hosts = self._hosts
        chosen = checked_hosts(self._cluster, hosts) if isinstance(hosts, str) else hosts
        promises = {host_id: Promise[Any](self._unhandled) for host_id in chosen}
        is_bound = not self._is_single  # target_key() follows redirects, target() does not
        for host_id, promise in promises.items():
            route = ((host_id,), (words,), None)
            self._add(promise, route, name, options, None, is_bound=is_bound)
        if self._is_single:
            (promise,) = promises.values()
            return promise
        return Promise.all(promises)

    def script_load(self, script: Any) -> Promise[Any]:  # type: ignore[override]
        """Load a script on the chosen hosts; other nodes load it when it is first used."""
        self._keep_script(script)
        return self.execute_command("SCRIPT LOAD", script)


def checked_hosts(cluster: ClientPort, hosts: Hosts) -> list[int]:
    """Return host ids without duplicates; raise ValueError if the cluster lacks one."""
    cluster.learn()
    if isinstance(hosts, str):
        if hosts != "all":
            raise ValueError(f"hosts={hosts!r}: give a list of host ids, or 'all'.")
        return list(cluster.nodes)
    if not isinstance(hosts, Iterable):
        raise TypeError(f"hosts={hosts!r}: give a list of host ids, or 'all'.")
    chosen = list(dict.fromkeys(hosts))
    unknown = [host_id for host_id in chosen if host_id not in cluster.nodes]
    if unknown:
        raise ValueError(
            f"hosts={chosen!r}: there is no host {unknown[0]!r} in {cluster!r}. Choices are: "
            f"{', '.join(map(str, cluster.nodes))}."
        )
    return chosen
