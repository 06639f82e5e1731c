"""The benchmark does what it says, with few contestants and tiny numbers."""

from __future__ import annotations

import json
import pickle
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import plan, report
from benchmarks.bars import BARS, Bar, NotMeasured, Run, judge
from benchmarks.conductor import Lane, Race, Result, Timing
from benchmarks.contestants import CONTESTANTS, DJANGO_RB, HAND_WRITTEN
from benchmarks.environments import REQUIREMENTS, ROOT
from benchmarks.proxy import ProxyProcess
from benchmarks.worker import Worker
from benchmarks.workloads import OPERATIONS, Workload
from django_rb.testing import LocalNodes

PAGE = ROOT / "docs" / "performance.md"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of three contestants saved, one of which cannot take part here."""
    path = tmp_path_factory.mktemp("benchmarks") / "run.json"
    chosen = "--only get --nodes 2 --rounds 2"
    who = f"--contestants {HAND_WRITTEN},{DJANGO_RB},rb"
    assert command.main([*f"{chosen} {who} --here --save".split(), str(path)]) == 0
    return path


def test_a_run_tells_what_each_call_costs(saved: Path) -> None:
    run = json.loads(saved.read_text())
    [race] = run["races"]
    assert race["name"] == "get, 2 nodes, 60 B"
    assert race["on_one_core"]
    assert [lane["contestant"] for lane in race["lanes"]] == [HAND_WRITTEN, DJANGO_RB]
    for lane in race["lanes"]:
        assert lane["rounds"] == 2
        for clock in ("cpu", "wall"):
            seconds = lane["seconds"][clock]
            assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"] < 1
    floor, ours = race["lanes"]
    assert floor["ratio"]["cpu"]["median"] == floor["ratio"]["wall"]["median"] == 1
    assert ours["ratio"]["cpu"]["low"] <= ours["ratio"]["cpu"]["high"]
    assert run["about"]["versions"]["redis"]


def test_who_cannot_take_part_is_named_with_the_reason(saved: Path) -> None:
    run = json.loads(saved.read_text())
    assert run["races"][0]["left_out"] == {"rb": "No module named 'rb'"}
    assert "rb 1.11, redis-py 4.6 is not among them" in report.for_terminal(run)


def test_tables_fit_a_terminal(
    saved: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    again = tmp_path / "again.json"
    command.main(["--from", str(saved), "--save", str(again)])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= report.WIDTH
    assert re.search(r"^hand-written loop +[\d.,]+ +\d+% +1\.00", shown, re.MULTILINE)
    assert json.loads(again.read_text()) == json.loads(saved.read_text())


def timing(contestant: str, workload: Workload, *cpus: float) -> Timing:
    turns = {n: {"cpu": cpu, "wall": 2 * cpu} for n, cpu in enumerate(cpus) if cpu}
    return Timing(Lane(contestant, workload), 1, turns)  # type: ignore[arg-type]


def test_a_ratio_is_the_median_of_the_rounds_in_which_both_had_a_turn() -> None:
    floor = timing(HAND_WRITTEN, Workload(), 1, 10, 100, 7)
    ours = timing(DJANGO_RB, Workload(), 2, 30, 400, 0)
    assert ours.over(floor, "cpu").median == 3
    assert floor.over(ours, "wall").median == pytest.approx(1 / 3)


def run_of(race: str, *timings: Timing, **left_out: str) -> Run:
    lanes = {one.lane: one for one in timings}
    return Run({race: Result(Race(list(lanes)), lanes, left_out)})


def bar_about(words: str) -> Bar:
    [bar] = [bar for bar in BARS if words in bar.what]
    return bar


def test_a_bar_is_judged_by_its_worst_figure() -> None:
    workload = Workload()
    ours, peer = timing(DJANGO_RB, workload, 1), timing("rb", workload, 2)
    assert bar_about("against rb").judge(run_of("get_many peers", ours, peer))["met"]
    peer.turns[0]["wall"] = 3
    told = bar_about("against rb").judge(run_of("get_many peers", ours, peer))
    assert (told["met"], told["figure"], told["why"]) == (False, "0.667", "wall")


def test_a_bar_may_be_the_least_that_is_asked_for() -> None:
    one = timing(DJANGO_RB, Workload(keys=100), 1)
    for seconds, met in ((1.0, True), (1.1, False)):
        many = timing(DJANGO_RB, Workload(keys=100, threads=16), seconds)
        assert bar_about("16 threads").judge(run_of("threads", one, many))["met"] is met


def test_cost_per_key_is_compared_per_key() -> None:
    few, many = Workload(keys=1000), Workload(keys=100_000)
    run = run_of("per key", timing(DJANGO_RB, few, 1), timing(DJANGO_RB, many, 110))
    assert bar_about("cost per key").judge(run)["figure"] == "1.1"


def test_what_was_not_measured_is_not_met_and_says_why() -> None:
    ours = timing(DJANGO_RB, Workload(), 1)
    told = bar_about("against rb").judge(run_of("get_many peers", ours, rb="no such Python"))
    assert (told["met"], told["why"]) == (None, "rb 1.11, redis-py 4.6: no such Python")
    assert all(bar["met"] is None for bar in judge(Run({})))


def test_the_races_are_those_that_the_bars_need() -> None:
    results = {}
    for name, race in plan.judged().items():
        timings = {lane: timing(lane.contestant, lane.workload, 1.0) for lane in race.lanes}
        results[name] = Result(race, timings, {})
    measured_once = {"first_batch", "peak_memory", "import"}
    for bar in BARS:
        try:
            assert list(bar.parts(Run(results)))
        except NotMeasured:
            measured_once.pop()
    assert not measured_once


def test_the_page_takes_a_runs_figures(saved: Path, tmp_path: Path) -> None:
    run = json.loads(saved.read_text())
    run["bars"] = judge(Run({}))
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    report.rewrite(page, run)
    once = page.read_text()
    assert "| … against rb | at most 1/2 |" in once
    assert "## How it is measured" in once
    report.rewrite(page, run)
    assert page.read_text() == once
    page.write_text("no markers")
    with pytest.raises(ValueError, match="figures: about"):
        report.rewrite(page, run)


def test_only_the_judged_run_goes_to_the_page(saved: Path) -> None:
    before = PAGE.read_text()
    with pytest.raises(SystemExit, match="goes without --only"):
        command.main(["--from", str(saved), "--docs"])
    assert PAGE.read_text() == before


def test_a_mistake_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--only", "get_all"])
    assert "there is no 'get_all', only get_many," in capsys.readouterr().err


@pytest.mark.parametrize("size", plan.SIZES)
def test_values_are_as_large_as_they_are_called(size: int) -> None:
    workload = Workload(keys=1000, size=size)
    sizes = {len(pickle.dumps(value, 5)) for value in workload.data().values()}
    assert max(sizes) - min(sizes) <= 1
    assert abs(max(sizes) - size) <= 2


def test_the_grid_has_every_circumstance_and_stays_within_the_memory() -> None:
    lanes = [lane for race in plan.full().values() for lane in race.lanes]
    for name, wanted in (
        ("keys", plan.KEYS),
        ("nodes", plan.NODES),
        ("size", plan.SIZES),
        ("threads", plan.THREADS),
        ("tasks", (0, *plan.TASKS)),
        ("rtt", (0, 1)),
        ("hits", (False, True)),
    ):
        assert {getattr(lane.workload, name) for lane in lanes} >= set(wanted), name
    assert {lane.contestant for lane in lanes} == set(CONTESTANTS)
    assert max(lane.workload.keys * lane.workload.size for lane in lanes) <= plan.MOST_STORED


def test_every_contestant_has_pinned_requirements() -> None:
    for name in {one.environment for one in CONTESTANTS.values()} | {"plots"}:
        lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        assert all("==" in line for line in lines if not line.startswith("#")), name


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_call_that_does_not_do_its_work_is_not_timed(
    operation: str, nodes: LocalNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = [[host["host"], host["port"]] for host in nodes.hosts.values()]
    worker = Worker(HAND_WRITTEN, hosts, "00", Workload(operation, keys=10).as_json())
    try:
        worker.seed()
        worker.check()
        assert worker.run(3)["wall"] > 0
        nodes.flush()
        monkeypatch.setattr(worker, "call", lambda *_: None)
        monkeypatch.setattr(worker, "_operation", lambda _: worker.call)
        if operation == "delete_many":
            worker.seed()
        with pytest.raises(AssertionError, match="hand-written loop got"):
            worker.check()
    finally:
        for sock in worker.player.sockets:
            sock.close()


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that says one connection's bytes back."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[:2]
        thread.join()


def test_the_proxy_keeps_bytes_for_the_round_trip(echo: Any) -> None:
    with (
        ProxyProcess([echo], rtt=100) as proxy,
        socket.create_connection(proxy.hosts[0]) as peer,
    ):

        def seconds_for(data: bytes) -> float:
            before = perf_counter()
            sender = threading.Thread(target=peer.sendall, args=(data,))
            sender.start()
            got = bytearray()
            while len(got) < len(data):
                got += peer.recv(1 << 16)
            sender.join()
            assert got == data
            return perf_counter() - before

        assert seconds_for(b"hello") >= 0.15  # with the rest of the handshake's
        assert seconds_for(b"again") >= 0.1
        assert seconds_for(bytes(range(256)) * 20_000) >= 0.1
        proxy.set_rtt(0)
        assert min(seconds_for(b"quick") for _ in range(20)) < 0.1
