"""What callers do, as a table, and the one place that does it.

A `Caller` runs operations: in the calling thread, or awaited on an event loop that runs in
a thread of its own, as that of a server does. The table is the same for both.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from django_rb.engine import Cluster, Promise
from django_rb.engine.clients.managers import Fanned, Mapped
from tests.helpers import make_cache

T = TypeVar("T")

Mode = Literal["raise", "miss"]


@dataclass
class Outcome:
    """What became of an operation.

    Attributes:
        value: what it returned; of commands their results, exceptions where one failed.
        error: what it raised.
        seconds: how long it took.
    """

    value: Any = None
    error: Exception | None = None
    seconds: float = 0.0


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self.loop = self._runner.get_loop()
        self._over = asyncio.Event()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self._thread = threading.Thread(target=self._run, name="loop")
        self._thread.start()

    def _run(self) -> None:
        with self._runner as runner:
            runner.run(self._wait())

    async def _wait(self) -> None:
        await self._over.wait()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def close(self) -> None:
        """End it, and fail if there was anything that nobody caught."""
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        assert self.complaints == []


class Caller:
    """Runs operations, in the calling thread or on an event loop.

    Attributes:
        loop: the event loop, for all callers; None for the calling thread.
    """

    loop: ClassVar[Loop | None] = None

    def __init__(self, mode: Mode = "raise", deadline: float | None = None) -> None:
        self._deadline = deadline
        self._cache = make_cache(OPTIONS={"ON_NODE_ERROR": mode, "DEADLINE": deadline})

    @property
    def cluster(self) -> Cluster:
        return self._cache.cluster

    def disconnect(self) -> None:
        """Close idle connections."""
        self.cluster.close()
        if self.loop is not None:
            self.loop.run(self.cluster.aclose())

    def cache(self, method: str, *args: Any) -> Outcome:
        """Call a method of the cache."""

        def call() -> Any:
            if self.loop is not None:
                return self.loop.run(getattr(self._cache, f"a{method}")(*args))
            return getattr(self._cache, method)(*args)

        return self._time(call, lambda value: value)

    def map(self, *commands: Sequence[Any]) -> Outcome:
        """Run commands where their keys live; the value is the list of their results."""
        promises: list[Promise[Any]] = []

        def ask(client: Mapped) -> None:
            promises.extend(client.execute_command(*command) for command in commands)

        def call() -> None:
            self._join(self.cluster.map, self.cluster.amap, ask)

        return self._time(call, lambda _: [_result(promise) for promise in promises])

    def fanout(self, commands: Mapping[int, Sequence[Any]]) -> Outcome:
        """Run a command on each of some hosts; the value is the list of their results."""
        promises: dict[int, Promise[Any]] = {}

        def ask(client: Fanned) -> None:
            for host_id, command in commands.items():
                target: Any = client.target([host_id])
                promises[host_id] = target.execute_command(*command)

        def call() -> None:
            self._join(self.cluster.fanout, self.cluster.afanout, ask)

        return self._time(call, lambda _: [_result(promise) for promise in promises.values()])

    def _join(
        self, make: Callable[..., Any], amake: Callable[..., Any], ask: Callable[[Any], None]
    ) -> None:
        async def join() -> None:
            async with amake(timeout=self._deadline) as client:
                ask(client)

        if self.loop is not None:
            self.loop.run(join())
        else:
            with make(timeout=self._deadline) as client:
                ask(client)

    @staticmethod
    def _time(call: Callable[[], Any], look: Callable[[Any], Any]) -> Outcome:
        outcome = Outcome()
        value = None
        began = time.perf_counter()
        try:
            value = call()
        except Exception as error:  # noqa: BLE001 (it is the outcome)
            outcome.error = error
        outcome.seconds = time.perf_counter() - began
        outcome.value = look(value)
        return outcome


def _result(promise: Promise[Any]) -> Any:
    return promise.value if promise.reason is None else promise.reason


@dataclass
class Data:
    """What is stored before a fault, by the node it lives on.

    Attributes:
        faulty: the node with the fault.
        names: names of cache keys; each holds `own(name)`.
        counters: likewise; each holds `COUNT`.
        unused: likewise; nothing is stored under them.
    """

    faulty: int
    names: dict[int, list[str]] = field(default_factory=dict)
    counters: dict[int, list[str]] = field(default_factory=dict)
    unused: dict[int, list[str]] = field(default_factory=dict)

    @property
    def all(self) -> list[str]:
        """All names, those of all nodes mixed."""
        longest = max(map(len, self.names.values()))
        return [
            names[place]
            for place in range(longest)
            for names in self.names.values()
            if place < len(names)
        ]

    @property
    def lost(self) -> list[str]:
        """The names on the faulty node, in the order of `all`."""
        return self.names[self.faulty]

    @property
    def kept(self) -> list[str]:
        """The names on the other nodes, in the order of `all`."""
        lost = set(self.lost)
        return [name for name in self.all if name not in lost]

    def node_of(self, name: str) -> int:
        """Return the node that a name lives on."""
        return next(
            host_id
            for kind in (self.names, self.counters, self.unused)
            for host_id, names in kind.items()
            if name in names
        )

    @property
    def one(self) -> str:
        """A name on the faulty node."""
        return self.lost[0]

    @property
    def hosts(self) -> list[int]:
        return list(self.names)


COUNT = 10


def own(name: str) -> str:
    """Return the value that a key holds; it says whose it is."""
    return f"the value of {name}"


def new(name: str) -> str:
    """Return another value that says whose it is."""
    return f"the new value of {name}"


def stored(name: str) -> str:
    """Return a key of the cache as it is sent."""
    return f":1:{name}"


def as_stored(value: object) -> bytes:
    """Return a value as the cache stores it."""
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


Effect = Literal["reads", "stores", "changes"]


@dataclass(frozen=True)
class Operation:
    """Something that a caller does.

    Attributes:
        run: does it.
        effect: "reads" only; "stores", which takes memory; "changes" what is there.
        well: what it returns on a good day.
        missed: what it returns with ON_NODE_ERROR "miss"; None where it raises even so.
        keys: the names of the keys that its failure carries.
        left: what the other nodes hold afterwards, as ``{name: value or None}``.
        by_node: for operations that say what became of each command even if they raise:
            the nodes of the commands.
    """

    run: Callable[[Caller, Data], Outcome]
    effect: Effect
    well: Callable[[Data], Any]
    missed: Callable[[Data], Any] | None = None
    keys: Callable[[Data], list[str]] = lambda data: []
    left: Callable[[Data], dict[str, Any]] = lambda data: owns(data.kept)
    by_node: Callable[[Data], list[int]] | None = None


def owns(names: list[str]) -> dict[str, str]:
    return {name: own(name) for name in names}


def news(names: list[str]) -> dict[str, str]:
    return {name: new(name) for name in names}


def nothing(names: list[str]) -> dict[str, None]:
    return dict.fromkeys(names)


CACHE_OPERATIONS: dict[str, Operation] = {
    "get": Operation(
        lambda caller, data: caller.cache("get", data.one, "default"),
        "reads",
        well=lambda data: own(data.one),
        missed=lambda data: "default",
        keys=lambda data: [data.one],
    ),
    "get_many": Operation(
        lambda caller, data: caller.cache("get_many", data.all),
        "reads",
        well=lambda data: owns(data.all),
        missed=lambda data: owns(data.kept),
        keys=lambda data: data.lost,
    ),
    "set": Operation(
        lambda caller, data: caller.cache("set", data.one, new(data.one)),
        "stores",
        well=lambda data: None,
        missed=lambda data: None,
        keys=lambda data: [data.one],
    ),
    "set_many": Operation(
        lambda caller, data: caller.cache("set_many", news(data.all)),
        "stores",
        well=lambda data: [],
        missed=lambda data: data.lost,
        keys=lambda data: data.lost,
        left=lambda data: news(data.kept),
    ),
    "add": Operation(
        lambda caller, data: caller.cache(
            "add", data.unused[data.faulty][0], own(data.unused[data.faulty][0])
        ),
        "stores",
        well=lambda data: True,
        missed=lambda data: False,
        keys=lambda data: [data.unused[data.faulty][0]],
    ),
    "touch": Operation(
        lambda caller, data: caller.cache("touch", data.one, 100),
        "changes",
        well=lambda data: True,
        missed=lambda data: False,
        keys=lambda data: [data.one],
    ),
    "incr": Operation(
        lambda caller, data: caller.cache("incr", data.counters[data.faulty][0]),
        "stores",
        well=lambda data: COUNT + 1,
        keys=lambda data: [data.counters[data.faulty][0]],
    ),
    "delete_many": Operation(
        lambda caller, data: caller.cache("delete_many", data.all),
        "changes",
        well=lambda data: None,
        missed=lambda data: None,
        keys=lambda data: data.lost,
        left=lambda data: nothing(data.kept),
    ),
    "clear": Operation(
        lambda caller, data: caller.cache("clear"),
        "changes",
        well=lambda data: True,
        missed=lambda data: False,
        left=lambda data: nothing(data.kept),
    ),
}

ENGINE_OPERATIONS: dict[str, Operation] = {
    "map of reads": Operation(
        lambda caller, data: caller.map(*(("GET", stored(name)) for name in data.all)),
        "reads",
        well=lambda data: [as_stored(own(name)) for name in data.all],
        keys=lambda data: data.lost,
        by_node=lambda data: [data.node_of(name) for name in data.all],
    ),
    "map of writes": Operation(
        lambda caller, data: caller.map(
            *(("SET", stored(name), COUNT, "EX", 100) for name in data.all)
        ),
        "stores",
        well=lambda data: [True for _ in data.all],
        keys=lambda data: data.lost,
        left=lambda data: dict.fromkeys(data.kept, COUNT),
        by_node=lambda data: [data.node_of(name) for name in data.all],
    ),
    "fanout": Operation(
        lambda caller, data: caller.fanout(
            {host_id: ("GET", stored(names[0])) for host_id, names in data.names.items()}
        ),
        "reads",
        well=lambda data: [
            {host_id: as_stored(own(names[0]))} for host_id, names in data.names.items()
        ],
        keys=lambda data: [data.one],
        by_node=lambda data: data.hosts,
    ),
}

OPERATIONS = {**CACHE_OPERATIONS, **ENGINE_OPERATIONS}
