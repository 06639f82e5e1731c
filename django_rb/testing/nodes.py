"""Real servers on this machine, for tests and experiments."""

import contextlib
import os
import secrets
import socket
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .discovery import NodesError, check_program, find_server
from .supervising.sentinels import name_of
from .supervising.supervisor import CONTROL
from .supervision import DIRECTORY_PREFIX, Supervisor

START_SECONDS = 10.0
FAILOVER_SECONDS = 1.0
SOCKET_SECONDS = 10.0
# LocalNodes depends on these, including the log level, as the log shows when a server is
# ready.
OWN_OPTIONS = {"bind", "daemonize", "dir", "logfile", "loglevel", "port", "unixsocket"}
OWN_CLUSTER_OPTIONS = {"cluster-enabled", "cluster-config-file", "cluster-port"}
TOPOLOGIES = ("static", "sentinel", "redis-cluster")
LOGIN_OPTIONS = {"requirepass", "aclfile"}
# The longest path of a unix socket on every platform (macOS: 104 bytes with the final NUL).
MAX_SOCKET_PATH = 103

Options = Mapping[str, str | Sequence[str]] | Iterable[tuple[str, str | Sequence[str]]]


class LocalNodes:
    """A few servers on 127.0.0.1: empty at the start, removed at the end.

    ::

        with LocalNodes(4) as nodes:
            cluster = Cluster(nodes.hosts)
            nodes.kill(2)

    `program` is the server to run, by default that of find_server(). `options` are
    further options of the server by name: ``{"maxmemory": "10mb"}``. A value of several
    words is a sequence: ``{"rename-command": ["KEYS", ""]}``. For an option that is used more
    than once, pass pairs: ``[("user", ["ann", "on"]), ("user", ["bob", "on"])]``.
    With `unix_sockets` each node has a unix socket and no port. Nodes that are not ready
    within `start_seconds` have failed. The ports are free ones, or `first_port` and the
    following ones. The data of nodes is deleted at the end, unless it is kept in the directory
    `keep`.

    ::

        with LocalNodes(3, topology="redis-cluster", replicas=1) as nodes:
            cluster = Cluster(nodes.hosts, topology="redis-cluster")
            nodes.kill(0)

    starts a Redis Cluster: `count` primaries that share the slots evenly, each with `replicas`.
    Primaries are 0 to `count` - 1, and only they are in `hosts` and `urls`. The replicas are
    numbered after them: the first one of each primary, then the second ones. Here the replica
    of 0 is 3. A node that restarts still belongs to its cluster, as a primary or a replica.

    ::

        with LocalNodes(2, topology="sentinel", replicas=1) as nodes:
            cluster = Cluster(nodes.hosts, topology="sentinel", sentinels=nodes.sentinels)
            nodes.kill(0)

    starts primaries, their replicas and three Sentinels that monitor them: numbers 4, 5 and 6
    here. If a primary does not answer for `failover_seconds`, Sentinels promote a replica,
    which takes one to two seconds more. Sentinels have the same password. Independent nodes
    may have replicas without Sentinels.

    Other users of the machine cannot use them: the sockets are in a directory of mode 0700,
    and a node with a port requires a password, which is generated for each LocalNodes and is
    in `hosts` and `urls`. If `options` say who may log in (``requirepass``, ``aclfile`` or
    a ``user`` named default), none is generated. ``{"requirepass": ""}`` allows everybody.

    The servers store nothing on disk, and clients may not use DEBUG, modules or protected
    options, unless `options` allow it. They end with this process, however it ends. After a
    fork they belong to the parent: a child may connect to them, but its stop() does nothing,
    and it cannot cause faults. Threads may share a LocalNodes.

    Raises ServerNotFoundError if there is no such program, and ValueError for a `count`
    below 1, an option that LocalNodes sets itself (port, bind, dir, …), and arguments that
    exclude each other.
    """

    def __init__(
        self,
        count: int = 4,
        *,
        topology: str = "static",
        replicas: int = 0,
        program: str | None = None,
        options: Options = (),
        unix_sockets: bool = False,
        start_seconds: float = START_SECONDS,
        first_port: int | None = None,
        keep: str | os.PathLike[str] | None = None,
        failover_seconds: float = FAILOVER_SECONDS,
    ) -> None:
        if count < 1:
            raise ValueError(f"LocalNodes requires a count of at least 1, not {count}.")
        if topology not in TOPOLOGIES:
            raise ValueError(
                f"topology={topology!r} is not one of {', '.join(map(repr, TOPOLOGIES))}."
            )
        if replicas < 0:
            raise ValueError(f"replicas={replicas!r}: give 0 or more.")
        if (topology != "static" or replicas) and (unix_sockets or keep is not None):
            raise ValueError(
                f"Nodes of topology={topology!r} with replicas={replicas!r} support neither "
                "unix sockets nor keep."
            )
        self._place = {
            "first_port": first_port or 0,
            "keep": None if keep is None else os.path.abspath(keep),  # noqa: PTH100
        }
        self.count = count
        self.topology = topology
        self.replicas = replicas
        self._failover_seconds = failover_seconds
        self.program = check_program(program, "program") if program else find_server()
        self._unix_sockets = unix_sockets
        self._start_seconds = start_seconds
        self._options: list[list[str]] = []
        self._password: str | None = None  # of the default user
        self._login: dict[str, str] = {}  # as part of a host
        says_who_may_log_in = unix_sockets
        for name, value in options.items() if isinstance(options, Mapping) else options:
            if name.lower() in OWN_OPTIONS | OWN_CLUSTER_OPTIONS:
                raise ValueError(
                    f"LocalNodes sets the server option {name!r} itself: leave it out."
                )
            words = [value] if isinstance(value, str) else list(value)
            self._options.append([name, *words])
            if name.lower() == "requirepass":
                self._password = "".join(words) or None
            if name.lower() in LOGIN_OPTIONS or (name.lower(), words[:1]) == (
                "user",
                ["default"],
            ):
                says_who_may_log_in = True
        if not says_who_may_log_in:
            self._password = secrets.token_hex(16)
            self._login = {"password": self._password}
            self._options.append(["requirepass", self._password])
        if (
            topology != "static" or replicas
        ) and self._password:  # for replicas, and for the migration of slots
            self._options.append(["masterauth", self._password])
        self._supervisor: Supervisor | None = None
        self._server = ""
        self._addresses: list[dict[str, Any]] = []
        self._pids: list[int] = []

    def __repr__(self) -> str:
        where = self._make_urls("") if self._supervisor else "not running"
        cluster = "" if self.topology == "static" else f", {self.topology}"
        return f"<LocalNodes({self.count}{cluster}): {where}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Start all nodes in parallel, wait until each accepts connections, return self.

        Does nothing if they are running. Raises NodesError, with the end of the server's log,
        if one is not ready in time; then all are stopped.
        """
        if self._supervisor is not None:
            return self
        supervisor = Supervisor()
        try:
            started = supervisor.request(
                "start",
                program=self.program,
                count=self.count,
                options=self._options,
                start_seconds=self._start_seconds,
                unix_sockets=self._unix_sockets,
                topology=self.topology,
                replicas=self.replicas,
                password=self._password,
                failover_seconds=self._failover_seconds,
                **self._place,
            )
        except BaseException:
            supervisor.stop()
            raise
        self._server = started["server"]
        self._addresses = started["addresses"]
        self._pids = started["pids"]
        self._supervisor = supervisor
        _started.add(self)
        # Stops a LocalNodes without a call of stop(): at the latest when Python exits.
        weakref.finalize(self, supervisor.stop)
        return self

    def stop(self) -> None:
        """Kill all nodes and remove their directory. Does nothing the second time."""
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None

    @property
    def hosts(self) -> dict[int, dict[str, Any]]:
        """The nodes by host id, in the form of HOSTS in RB_CLUSTERS.

        With the password that LocalNodes generated, but without one from `options`.
        """
        self._running()
        if self.topology == "sentinel":
            return {n: {"master_name": name_of(n), **self._login} for n in range(self.count)}
        return {
            host_id: {**address, **self._login}
            for host_id, address in enumerate(self._addresses[: self.count])
        }

    @property
    def sentinels(self) -> list[str]:
        """The URLs of the Sentinels, in the form of SENTINELS in RB_CLUSTERS."""
        self._running()
        login = "".join(f":{password}@" for password in self._login.values())
        return [f"redis://{login}{place['host']}:{place['port']}" for place in self._watchers]

    @property
    def _watchers(self) -> list[dict[str, Any]]:
        return self._addresses[self.count * (1 + self.replicas) :]

    @property
    def urls(self) -> list[str]:
        """The nodes' URLs in the order of their host ids, with passwords as in `hosts`."""
        self._running()
        return self._make_urls("".join(f":{password}@" for password in self._login.values()))

    def _make_urls(self, login: str) -> list[str]:
        if self.topology == "sentinel":
            places = ",".join(f"{place['host']}:{place['port']}" for place in self._watchers)
            names = map(name_of, range(self.count))
            return [f"redis+sentinel://{login}{places}/{name}/0" for name in names]
        return [
            f"unix://{address['unix_socket_path']}?db=0"
            if self._unix_sockets
            else f"redis://{login}{address['host']}:{address['port']}/0"
            for address in self._addresses[: self.count]
        ]

    def address(self, host_id: int) -> dict[str, Any]:
        """Return the address of a node, a replica or a Sentinel; see `hosts`."""
        self._running()
        return {**self._addresses[self._known(host_id)], **self._login}

    @property
    def server(self) -> str:
        """The server and version that the nodes run, as in "valkey 8.1.8"."""
        self._running()
        return self._server

    @property
    def control(self) -> str:
        """The path of the socket for requests of other processes; see `testing.control`."""
        return os.path.join(self._running().directory, CONTROL)  # noqa: PTH118

    def pid(self, host_id: int) -> int:
        """Return the process id of a node; after kill(), that of the killed process."""
        self._running()
        return self._pids[self._known(host_id)]

    def states(self) -> dict[int, str]:
        """Return "running", "paused" or "dead" by node, including replicas and Sentinels."""
        return dict(enumerate(self._running().request("states")))

    def kill(self, host_id: int) -> None:
        """Kill a node (SIGKILL) and wait for its end. Its port stays reserved (Linux)."""
        self._running().request("kill", node=self._known(host_id))

    def pause(self, host_id: int) -> None:
        """Pause a node (SIGSTOP): connections to it are accepted, but it does not answer.

        Raises NodesError if the node is dead.
        """
        self._running().request("pause", node=self._known(host_id))

    def resume(self, host_id: int) -> None:
        """Resume a paused node (SIGCONT). Raises NodesError if it is dead."""
        self._running().request("resume", node=self._known(host_id))

    def restart(self, host_id: int) -> None:
        """Replace a node, dead or not, by one at the same address; empty without `keep`.

        Returns when it accepts connections. Raises NodesError if it does not start. In a
        Redis Cluster it may not accept commands yet, and if it is a replica, it soon has data
        again. A node that Sentinels monitor starts in its original role, and a Sentinel with
        the state it had.
        """
        self._pids[host_id] = self._running().request("restart", node=self._known(host_id))

    def flush(self) -> None:
        """Empty all nodes that are not dead (FLUSHALL), in parallel; replicas follow.

        Raises NodesError if a node is paused, as it would keep its data, or refuses; OSError
        if one does not answer.
        """
        states = self.states()
        if paused := [host_id for host_id, state in states.items() if state == "paused"]:
            raise NodesError(f"Nodes {paused} are paused; resume them before flush().")
        commands = [["AUTH", self._password]] if self._password else []
        commands.append(["FLUSHALL"])
        request = b"".join(_encode(*command) for command in commands)
        with contextlib.ExitStack() as stack:
            replies = {}
            for host_id, state in states.items():
                if state == "running" and self._addresses[host_id] not in self._watchers:
                    node = stack.enter_context(_connect(self._addresses[host_id]))
                    node.sendall(request)
                    replies[host_id] = stack.enter_context(node.makefile("rb"))
            for host_id, reply in replies.items():
                lines = [reply.readline() for _ in commands]
                if not lines[-1].startswith((b"+OK", b"-READONLY")):
                    said = lines[-1].decode(errors="replace").strip()
                    raise NodesError(f"Node {host_id} could not be flushed: {said!r}")

    def is_at(self, address: Mapping[str, Any]) -> bool:
        """Whether an address, in the form of `hosts`, is that of a node, even a dead one."""
        return self._supervisor is not None and address in self._addresses

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise NodesError("The nodes are not running: use `with`, or call start().")
        return self._supervisor

    def _known(self, host_id: int) -> int:
        total = len(self._addresses)
        if host_id not in range(total):
            raise NodesError(f"There is no node {host_id!r}. The nodes are 0 to {total - 1}.")
        return host_id


def can_have_unix_sockets() -> bool:
    """Whether the platform has unix sockets, and their paths would not be too long."""
    path = Path(tempfile.gettempdir(), f"{DIRECTORY_PREFIX}12345678", "1000.sock")
    return hasattr(socket, "AF_UNIX") and len(os.fsencode(path)) <= MAX_SOCKET_PATH


_started: "weakref.WeakSet[LocalNodes]" = weakref.WeakSet()


def is_local_node(*, host: str, port: int, path: str | None) -> bool:
    """Whether this process, or one that it was forked from, started a node there."""
    address = {"unix_socket_path": path} if path else {"host": host, "port": port}
    return any(nodes.is_at(address) for nodes in list(_started))


def _connect(address: dict[str, Any]) -> socket.socket:
    if "port" in address:
        return socket.create_connection(
            (address["host"], address["port"]), timeout=SOCKET_SECONDS
        )
    node = socket.socket(socket.AF_UNIX)
    node.settimeout(SOCKET_SECONDS)
    try:
        node.connect(address["unix_socket_path"])
    except BaseException:
        node.close()
        raise
    return node


def _encode(*words: str) -> bytes:
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in map(str.encode, words)]
    return b"*%d\r\n" % len(words) + b"".join(parts)
