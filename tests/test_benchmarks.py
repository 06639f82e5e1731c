"""The benchmark does what it says, with few contestants and tiny numbers."""

from __future__ import annotations

import json
import pickle
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import conductor as conducting
from benchmarks import plan, report
from benchmarks.bars import BARS, Bar, NotMeasured, Run, judge
from benchmarks.conductor import (
    Arena,
    Conductor,
    Lane,
    Race,
    Result,
    Timing,
    TooSlow,
    WorkerFailed,
)  # fmt: skip
from benchmarks.contestants import CONTESTANTS, DJANGO_RB, HAND_WRITTEN
from benchmarks.environments import REQUIREMENTS, ROOT
from benchmarks.proxy import ProxyProcess
from benchmarks.worker import CannotDo, Worker
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
    with pytest.raises(SystemExit, match="the judged run, and this is none"):
        command.main(["--from", str(saved), "--docs"])
    assert PAGE.read_text() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--only get_all", "--only: there is no 'get_all', only get_many,"),
        ("--contestants rbb", "--contestants: there is no 'rbb', only handwritten,"),
        ("--contestants django-rb-amap", "django-rb-amap has no part in this run; see --only"),
        ("--keys 10", "--keys: it goes with --only, as in --only get_many"),
        ("--only get_many --keys 1,x", "--keys: 'x' is no whole number, 1 or more"),
        ("--only get_many --nodes 257", "--nodes: '257' is no whole number, from 1 to 256"),
        ("--only get_many --size 59", "--size: '59' is no whole number, 60 or more"),
        ("--only get --rtt nan", "--rtt: 'nan' is no number of milliseconds, 0 or more"),
        ("--only set,incr --misses", "--misses: set, incr reads nothing; get and get_many do"),
        ("--only get --tasks 1 --threads 2", "--tasks: an event loop has one thread"),
        ("--only get_many --keys 3000 --size 102400", "292 MiB, at most 256 are stored"),
        ("--full --only get", "--only: not allowed with argument --full"),
        ("--full --docs", "it goes without --only and --full"),
        ("--rounds 0", "--rounds: '0' is no whole number, 1 or more"),
        ("--patience 0", "--patience: '0' is no number of seconds, more than 0"),
        ("--from no.json", "--from: 'no.json' cannot be read: No such file"),
        ("--from setup.cfg", "--from: 'setup.cfg' is not what --save has written"),
        ("--save setup.cfg/run.json", "--save: setup.cfg/run.json cannot be written: "),
    ],
)
def test_a_mistake_is_told_with_the_way_out(
    words: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        command.main([*words.split(), "--here"])
    assert told in f"{capsys.readouterr().err}{ended.value}"


ONLY = "--only get_many --keys 1,10,100 --rounds 3 --here --contestants handwritten,django-rb"


def played(race: Race, *_: object) -> Result:
    return Result(
        race, {lane: timing(lane.contestant, lane.workload, 1) for lane in race.lanes}, {}
    )


def test_what_was_measured_before_an_interruption_is_saved_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"

    def run(_: Conductor, race: Race) -> Result:
        if race.lanes[0].workload.keys == 100:
            [race, _] = json.loads(path.read_text())["races"]  # saved as it goes along
            raise KeyboardInterrupt
        return played(race)

    monkeypatch.setattr(Conductor, "run", run)
    assert command.main([*ONLY.split(), "--format", "json", "--save", str(path)]) == 130
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert [len(race["lanes"]) for race in told["races"]] == [2, 2]
    assert told["not_run"] == ["get_many of 100, 8 nodes, 60 B"]
    assert json.loads(path.read_text()) == told
    assert "NOT MEASURED to its end: get_many of 100" in report.for_terminal(told)
    assert "2 of 3: get_many of 10, 8 nodes, 60 B, 2 lanes; some " in shown.err


class StandIn:
    """A worker of which only the turns count."""

    def __init__(self, contestant: str) -> None:
        self.lane = Lane(contestant, Workload())


class Turns(Conductor):
    """Plays turns of 30 ms, one after the other; an event is raised in place of one."""

    def __init__(self, **events: BaseException) -> None:
        super().__init__(Arena(), {}, {}, print)
        self.events = events
        self.count = 0

    def _turn(self, worker: Any, calls: int) -> dict[str, float]:
        self.count += 1
        if event := self.events.get(f"{worker.lane.contestant}_{self.count}"):
            raise event
        return {"cpu": 0.03, "wall": 0.03, "aside": 0}


def turns_of(conductor: Conductor, rounds: int = 3) -> tuple[dict[str, int], dict[str, str]]:
    left_out: dict[str, str] = {}
    workers: Any = [StandIn("handwritten"), StandIn("rb")]
    timings = conductor._take_turns(workers, rounds, left_out)
    return {one.lane.contestant: len(one.turns) for one in timings}, left_out


def test_who_fails_in_the_middle_of_a_race_costs_the_others_nothing() -> None:
    assert turns_of(Turns()) == ({"handwritten": 3, "rb": 3}, {})
    for turn in (2, 4, 6, 8):  # the first of them warms up
        counts, left_out = turns_of(Turns(**{f"rb_{turn}": TooSlow("too slow")}))
        assert (counts, left_out) == ({"handwritten": 3}, {"rb": "too slow"})


def test_the_rounds_before_an_interruption_count() -> None:
    conductor = Turns(handwritten_7=KeyboardInterrupt())
    assert turns_of(conductor, 9)[0] == {"handwritten": 2, "rb": 2}
    assert conductor.interrupted


@pytest.fixture
def silence() -> Iterator[tuple[str, int]]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[:2]


def test_who_does_not_answer_in_time_is_ended(silence: tuple[str, int]) -> None:
    arena = Arena()
    conductor = Conductor(arena, {"common": Path(sys.executable)}, {}, print)
    with conductor.open(Lane(HAND_WRITTEN, Workload("get", 1)), [silence]) as worker:
        conductor.patience = 0.1
        with pytest.raises(TooSlow, match=r"more than 0.5 s to store its keys"):
            conductor.prepare(worker)
        with pytest.raises(WorkerFailed, match="its process ended with status -9"):
            worker.ask("about", within=10)


def test_a_race_for_which_there_is_no_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conducting, "free_memory", lambda: 1 << 30)
    race = Race([Lane(HAND_WRITTEN, Workload(keys=3000, size=100 << 10))])
    result = Conductor(Arena(), {}, {}, print).run(race)
    assert result.left_out == {
        HAND_WRITTEN: "the race takes some 1.1 GiB of memory, 1.0 are free"
    }


def test_a_race_that_breaks_off_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conductor = Conductor(Arena(), {}, {}, print)
    monkeypatch.setattr(Conductor, "_run", lambda *_: 1 / 0)
    result = conductor.run(Race([Lane(HAND_WRITTEN, Workload())]))
    assert result.left_out == {
        HAND_WRITTEN: "the race broke off: ZeroDivisionError('division by zero')"
    }
    assert "Traceback" in capsys.readouterr().err


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
    operation: str, open_nodes: LocalNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = [[host["host"], host["port"]] for host in open_nodes.hosts.values()]
    worker = Worker(HAND_WRITTEN, hosts, "00", Workload(operation, keys=10).as_json())
    try:
        worker.seed()
        worker.check()
        assert worker.run(3)["wall"] > 0
        open_nodes.flush()
        monkeypatch.setattr(worker, "call", lambda *_: None)
        monkeypatch.setattr(worker, "_operation", lambda _: worker.call)
        worker.seed()
        with pytest.raises(AssertionError, match="hand-written loop got"):
            worker.check()
    finally:
        for sock in worker.player.sockets:
            sock.close()


@pytest.fixture
def open_worker(open_nodes: LocalNodes) -> Iterator[Callable[..., Worker]]:
    """Return what makes a worker of this process; its connections end with the test."""
    workers: list[Worker] = []
    hosts = [[host["host"], host["port"]] for host in open_nodes.hosts.values()]

    def open_one(contestant: str, workload: Workload) -> Worker:
        workers.append(Worker(contestant, hosts, f"{len(workers):02}", workload.as_json()))
        return workers[-1]

    yield open_one
    for worker in workers:
        worker.runner.close()
        if worker.in_turn:
            for sock in worker.player.sockets:
                sock.close()
        else:
            worker.player.cluster.close()


@pytest.mark.parametrize("contestant", ["django-rb-amap", "django-rb-aio", HAND_WRITTEN])
@pytest.mark.parametrize("tasks", [1, 20])
def test_event_loops_do_the_work_that_is_timed(
    contestant: str, tasks: int, open_worker: Callable[..., Worker]
) -> None:
    for operation in ("get", "set", "incr", "get_many", "set_many"):
        if (contestant, operation) == ("django-rb-aio", "set_many"):
            continue
        worker = open_worker(contestant, Workload(operation, keys=3, tasks=tasks))
        worker.seed()
        worker.check()
        assert worker.run(2)["cpu"] > 0


def test_what_is_for_event_loops_takes_no_part_elsewhere(
    open_worker: Callable[..., Worker],
) -> None:
    with pytest.raises(CannotDo, match="for event loops: see --tasks"):
        open_worker("django-rb-amap", Workload())
    for cell, names in ((Workload(), plan.BLOCKING), (Workload(tasks=1), plan.ASYNC)):
        chosen = plan.chosen([], {"tasks": [cell.tasks]}, 1)
        assert tuple(lane.contestant for lane in chosen[cell.title].lanes) == names


def test_a_call_of_very_many_keys_is_tried_with_few(open_worker: Callable[..., Worker]) -> None:
    for operation in ("get_many", "set_many"):
        worker = open_worker(HAND_WRITTEN, Workload(operation, keys=10_000))
        worker.rehearse(60)
        with pytest.raises(CannotDo, match=r"a call would take some \d+ s"):
            worker.rehearse(1e-6)
    open_worker(HAND_WRITTEN, Workload(keys=1000)).rehearse(1e-6)  # is simply made


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
