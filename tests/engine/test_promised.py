"""What type checkers are told of the clients of map() and fanout()."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import pytest
import redis

from scripts import make_promised_commands

ROOT = Path(__file__).parents[2]

SNIPPET = """
import asyncio

from django_rb.engine import Cluster, Promise

cluster = Cluster(["redis://10.0.0.1"])


async def on_a_loop() -> int:
    async with cluster.amap() as client:
        return await client.incr("hits")


with cluster.map() as client:
    hits: Promise[int] = client.incr("hits")
    client.set("key", 1.5, ex=60, nx=True)
    client.gte("key")  # error: "Mapped" has no attribute "gte"
    client.incr()  # error: Missing positional argument "name"
    client.pipeline()  # error: "Mapped" has no attribute "pipeline"
    hits + 1  # error: Unsupported operand types for +
with cluster.all() as everywhere:
    sizes: Promise[dict[int, int]] = everywhere.dbsize()
    plain: Promise[int] = everywhere.target_key("key").strlen("key")
    wrong: Promise[int] = everywhere.dbsize()  # error: Incompatible types in assignment
total: int = hits.value + sum(sizes.value.values()) + plain.value
"""


def test_mypy_knows_the_commands(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api", reason="only developers have mypy")
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)
    cache = ROOT / ".mypy_cache" / "promised"  # or each run would read all of redis-py again
    thresholds = gc.get_threshold()
    try:
        said, *_ = api.run(
            [str(file), f"--cache-dir={cache}", "--config-file=", "--follow-imports=silent"]
        )
    finally:
        gc.set_threshold(*thresholds)  # mypy lets garbage pile up
    found = dict(re.findall(r"snippet\.py:(\d+): error: (.*)", said))
    lines = enumerate(SNIPPET.splitlines(), 1)
    expected = {str(n): line.split("# error: ")[1] for n, line in lines if "# error" in line}
    assert found.keys() == expected.keys(), said
    assert all(found[number].startswith(text) for number, text in expected.items()), said


def test_the_stub_is_what_redis_py_has() -> None:
    stub = make_promised_commands.STUB.read_text()
    if f"from redis-py {redis.__version__}." not in stub:
        pytest.skip("the stub was made from another version of redis-py")
    assert stub == make_promised_commands.make()
