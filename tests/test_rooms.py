"""Which rooms of the package may know which: as drawn on docs/engine.md, top to bottom."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A room imports from lines below its own only. Rooms of one line do not know each other.
ROOMS = """
apps contrib
management
testing checks
cache ratelimit
registry
signals conf
conf_for_tests
configured
slow
paths times callers
engine
version
"""
ENGINE_ROOMS = """
cluster
clients
threads loops
topology
rounds
routing
nodes
near
spinning
sockets
protocol
guarding lookups polling
errors
wording secrecy forks
"""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in (ROOT / "django_rb").rglob("*.py")}


def imports_of(module: str) -> Iterator[str]:
    """Yield the modules of the package that a module imports, for type checkers too."""
    is_package = FILES[module].name == "__init__.py"
    parents = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            names = (f"{source}.{alias.name}" for alias in node.names)
            yield from {name if name in FILES else source for name in names} & FILES.keys()


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """What each module imports; read by one worker, not by all that collect this file."""
    return {module: set(imports_of(module)) for module in FILES}


def upward(imports: dict[str, set[str]], rooms: str, package: str) -> list[str]:
    """Return the imports between rooms of a package that do not go down."""
    lines = [line.split() for line in rooms.split("\n") if line]
    line_of = {room: number for number, line in enumerate(lines) for room in line}

    def room_of(module: str) -> str:
        return module.removeprefix(package + ".").split(".")[0]

    return [
        f"{module} imports {other}"
        for module, others in imports.items()
        for other in others
        if module.startswith(package + ".") and other.startswith(package + ".")
        if room_of(module) != room_of(other)
        if line_of[room_of(module)] >= line_of[room_of(other)]
    ]


@pytest.mark.parametrize(
    ("rooms", "package"), [(ROOMS, "django_rb"), (ENGINE_ROOMS, "django_rb.engine")]
)
def test_rooms_import_only_downwards(
    rooms: str, package: str, imports: dict[str, set[str]]
) -> None:
    assert upward(imports, rooms, package) == []


def circle(imports: dict[str, set[str]]) -> Sequence[str]:
    try:
        list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        found: Sequence[str] = error.args[1]
        return found
    return []


def test_no_files_import_each_other_in_a_circle(imports: dict[str, set[str]]) -> None:
    assert circle(imports) == []


def test_an_import_that_goes_up_is_seen(imports: dict[str, set[str]]) -> None:
    low, high = "django_rb.engine.nodes.node", "django_rb.engine.cluster"
    changed = {**imports, low: imports[low] | {high}}
    assert upward(changed, ENGINE_ROOMS, "django_rb.engine") == [f"{low} imports {high}"]
    assert {low, high} <= set(circle(changed))
