"""A reader who does what docs/tutorial.md says sees what it shows."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from django_rb.engine import Cluster, SlotRouter
from tests.as_a_reader import Different, Reader
from tests.management import forkserver
from tests.test_readme import ROOT


class Quick(Reader):
    """Starts Python where its imports are done."""

    def begin(self, command: Sequence[str], said: IO[str]) -> forkserver.Process:
        with Path(os.devnull).open() as nothing:
            streams = [nothing.fileno(), said.fileno(), said.fileno()]
            return forkserver.start(command[1:], self.env, streams, cwd=self.folder)


def test_the_tutorial_works(tmp_path: Path) -> None:
    Quick(tmp_path, sys.executable).follow((ROOT / "docs/tutorial.md").read_text())


def test_the_tutorial_shows_the_nodes_keys_as_they_are() -> None:
    text = (ROOT / "docs/tutorial.md").read_text()
    shown = re.search(r"NODE   KEYS .*\n((?:\d .*\n)+)total +(\d+) ", text)
    assert shown
    cluster = Cluster([{}, {}, {}, {}], router_cls=SlotRouter)  # which opens no connection
    prices = [cluster.get_host_for_key(f":1:price:{number}") for number in range(100)]
    counters = [
        cluster.get_host_for_key(f"visits:{page}") for page in ("all", "books", "music")
    ]
    routed = re.search(r"(?m)^(:1:price:\d+) +default (\d) .* (\d+)  alive$", text)
    assert routed
    assert cluster.get_host_for_key(routed[1]) == int(routed[2])
    keys = Counter(prices + counters)
    keys[0] += 100 - prices.count(0)  # those that it no longer owns
    assert f'{{"cached": {prices.count(0)}, "computed": {100 - prices.count(0)}}}' in text
    assert {int(n): int(k) for n, k in re.findall(r"(\d) +(\d+) .*\n", shown[1])} == keys
    assert int(shown[2]) == sum(keys.values())


@pytest.mark.parametrize("shown", ["0 files", "2 files …", "{}"])
def test_a_wrong_output_is_seen(tmp_path: Path, shown: str) -> None:
    page = f"```console\n$ python -c 'print(7, \"nodes\")'\n{shown}\n```\n"
    with pytest.raises(Different, match="7 nodes"):
        Reader(tmp_path, sys.executable).follow(page)
