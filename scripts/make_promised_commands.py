"""Write what type checkers and editors are told of the commands of map() and fanout().

    .venv/bin/python scripts/make_promised_commands.py

reads the signatures of redis-py's commands from its source and writes them, with promises as
results, to ``django_rb/engine/clients/promised.pyi``. Run it with the newest redis-py; a test
fails where that version is installed and the file is not what this makes of it.

Types of redis-py that are not in every supported version become `Any`. So do results that
are bytes or text, since which of them it is depends on the client's options.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path

import redis

from django_rb.engine import MappingClient

STUB = Path(__file__).parents[1] / "django_rb" / "engine" / "clients" / "promised.pyi"

HEAD = '''\
"""The commands of map() and fanout(), as type checkers and editors see them. GENERATED.

Do not edit: scripts/make_promised_commands.py wrote this from redis-py {version}.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from .promise import Promise

_Text = bytes | memoryview | str | int  # numbers are sent as their digits
_Value = Any  # the client of a cache takes whatever its serializer does
_Set = set

'''
# Not commands, or refused on many nodes, or declared by hand in managers.py.
NOT_COMMANDS = frozenset(
    {
        *("close", "from_pool", "from_url", "get_cache", "get_connection_kwargs"),
        *("get_encoder", "get_retry", "load_external_module", "parse_response"),
        *("register_script", "set_response_callback"),
    }
)
# What gives an object with commands of its own.
MODULES = frozenset(
    {"bf", "cf", "cms", "ft", "json", "sentinel", "tdigest", "topk", "ts", "vset"}
)

# redis-py's names of types, in terms that need no redis-py.
ALIASES = {
    "AbsExpiryT": "int | datetime",
    "AnyKeyT": "_Text",
    "BitfieldOffsetT": "int | _Text",
    "ChannelT": "_Text",
    "ConsumerT": "_Text",
    "Dict": "dict",
    "EncodableT": "_Value",
    "ExpiryT": "int | timedelta",
    "FieldT": "_Value",
    "GroupT": "_Text",
    "KeyT": "_Text",
    "KeysT": "_Text | Iterable[_Text]",
    "List": "list",
    "Number": "int | float",
    "PatternT": "_Text",
    "ScriptTextT": "_Text",
    "Set": "_Set",
    "StreamIdT": "int | _Text",
    "TimeoutSecT": "int | float | _Text",
    "Tuple": "tuple",
    "ZScoreBoundT": "float | _Text",
    "set": "_Set",
}
# Arguments are taken more broadly than redis-py declares them: text may be bytes.
OF_ARGUMENTS = {
    "List": "Sequence",
    "list": "Sequence",
    "Dict": "Mapping",
    "dict": "Mapping",
    "str": "_Text",
}
KNOWN = frozenset(
    {
        *("Any", "Awaitable", "Callable", "Iterable", "Iterator", "Literal", "Mapping", "None"),
        *("Sequence", "_Set", "_Text", "_Value", "bool", "bytes", "datetime", "dict", "float"),
        *("frozenset", "int", "list", "memoryview", "str", "timedelta", "tuple"),
    }
)
GENERIC = {
    "Sequence": "Any",
    "_Set": "Any",
    "list": "Any",
    "dict": "Any, Any",
    "Mapping": "Any, Any",
    "Iterable": "Any",
}
ANY = ast.Name("Any")


@cache
def bodies(module: str) -> dict[str, ast.ClassDef]:
    """Return the classes of a module, as its source has them."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def definitions(name: str) -> list[ast.FunctionDef]:
    """Return how redis-py defines a command: its overloads, and what it runs."""
    for cls in redis.Redis.__mro__:
        if name not in vars(cls):
            continue
        body = bodies(cls.__module__)[cls.__name__].body
        for node in body:  # incr = incrby
            if isinstance(node, ast.Assign) and name in (
                target.id for target in node.targets if isinstance(target, ast.Name)
            ):
                assert isinstance(node.value, ast.Name)
                return definitions(node.value.id)
        return [n for n in body if isinstance(n, ast.FunctionDef) and n.name == name]
    return []


def is_overload(node: ast.FunctionDef) -> bool:
    """Return whether a definition is for type checkers only."""
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)


def is_for_threads(node: ast.FunctionDef) -> bool:
    """Return whether an overload is that of the client which waits."""
    first = node.args.args[0].annotation
    return first is not None and "Sync" in ast.unparse(first)


class Types:
    """Turns redis-py's annotations into types of the standard library.

    Args:
        names: what to call a type, by redis-py's name.
    """

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def plain(self, node: ast.expr | None) -> str:
        """Return a type; `Any` for what the standard library does not have."""
        if node is None:
            return "Any"
        members = dict.fromkeys(self._members(node))
        # Which of the two it is depends on the client's options.
        is_undecided = {"bytes", "str"} <= members.keys()
        return "Any" if "Any" in members or is_undecided else " | ".join(members)

    def _members(self, node: ast.expr) -> Iterator[str]:  # noqa: PLR0912 (one for each form)
        match node:
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                yield from self._members(left)
                yield from self._members(right)
            case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=elts)):
                for element in elts:
                    yield from self._members(element)
            case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
                yield from self._members(inner)
                yield "None"
            case ast.Constant(value=str(text)):
                yield from self._members(ast.parse(text, mode="eval").body)
            case ast.Constant(value=None) | ast.Subscript(value=ast.Name(id="Literal")):
                yield ast.unparse(node)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                name = self._names.get(name, name)
                if "|" in name:
                    yield from self._members(ast.parse(name, mode="eval").body)
                elif name in GENERIC:
                    yield f"{name}[{GENERIC[name]}]"
                else:
                    yield name if name in KNOWN else "Any"
            case ast.Subscript(value=ast.Name(id=name), slice=inside):
                name = self._names.get(name, name)
                nodes = inside.elts if isinstance(inside, ast.Tuple) else [inside]
                parts = [*map(self._part, nodes)]
                if name == "Mapping":  # which is invariant in its keys
                    parts[0] = "Any"
                yield f"{name}[{', '.join(parts)}]" if name in KNOWN else "Any"
            case _:
                yield "Any"

    def _part(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=value) if value is ...:
                return "..."
            case ast.List(elts=elts):
                return f"[{', '.join(map(self.plain, elts))}]"
        return self.plain(node)


ARGUMENTS = Types(ALIASES | OF_ARGUMENTS)
RESULTS = Types(ALIASES)


def signature(name: str) -> tuple[str, str]:
    """Return a command's parameters, and the type of its result."""
    if name in MODULES or not (found := definitions(name)):
        return "self, *args: Any, **options: Any", "Any"
    chosen = [node for node in found if is_overload(node) and is_for_threads(node)]
    whole = [node for node in found if not is_overload(node)]
    node = deepcopy(chosen[0] if len(chosen) == 1 else whole[-1])
    parameters = node.args
    parameters.args[0].annotation = None
    for parameter in (
        *(*parameters.posonlyargs, *parameters.args[1:], *parameters.kwonlyargs),
        *filter(None, (parameters.vararg, parameters.kwarg)),
    ):
        kind = ARGUMENTS.plain(parameter.annotation)
        if parameter.arg in ("member", "members", "value", "values") and kind == "_Text":
            kind = "_Value"
        parameter.annotation = ast.Name(kind)
    some = ast.Constant(...)
    parameters.defaults = [some for _ in parameters.defaults]
    parameters.kw_defaults = [default and some for default in parameters.kw_defaults]
    value = RESULTS.plain(node.returns)
    return ast.unparse(parameters), "Any" if "Awaitable" in value else value


def commands() -> list[str]:
    """Return the names of the commands that the client has, and does not refuse."""
    refused = {"_not_promised", "method"}
    return [
        name
        for name in sorted(set(dir(MappingClient)) & set(dir(redis.Redis)))
        if not name.startswith("_") and name not in NOT_COMMANDS
        if inspect.isfunction(found := getattr(MappingClient, name))
        if found.__name__ not in refused and not name.endswith("_internal")
    ]


def make() -> str:
    """Return the stub."""
    promised, fanned = [], []
    for name in commands():
        parameters, value = signature(name)
        is_module = name in MODULES
        if name == "execute_command":
            parameters, value = "self, *args: Any, **options: Any", "Any"
        elif name == "script_load":
            value = "str"
        one = value if is_module else f"Promise[{value}]"
        each = value if is_module else f"Promise[dict[int, {value}]]"
        promised.append(f"    def {name}({parameters}) -> {one}: ...\n")
        fanned.append(f"    def {name}({parameters}) -> {each}: ...\n")
    return (
        HEAD.format(version=redis.__version__)
        + "class PromisedCommands(Protocol):\n"
        + "".join(promised)
        + "\n\nclass FannedCommands(Protocol):\n"
        + "".join(fanned)
    )


if __name__ == "__main__":
    STUB.write_text(make())
