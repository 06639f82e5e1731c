"""The benchmarks do what they say, with few contestants and tiny numbers."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import checkouts, plan, table, turns
from benchmarks.checkouts import lay_out
from benchmarks.contestants import BEFORE, CONTESTANTS, DJANGO_RB, HAND_WRITTEN, RB
from benchmarks.contestants.maps import COMMANDS
from benchmarks.environments import REQUIREMENTS, ROOT
from benchmarks.proxy import ProxyProcess
from benchmarks.table import judge
from benchmarks.turns import Conductor, Race, Result, Timing, WorkerFailed
from benchmarks.turns import Worker as WorkerProcess
from benchmarks.worker import CannotDo, Work, Worker
from benchmarks.workloads import MAP, Workload
from django_rb.testing import LocalNodes

GET, BATCH = Workload("get", nodes=2), Workload("get_many", 10, nodes=2)
BESIDE = Workload("get_many", 10, nodes=2, computing=1)
AGETS = Workload("get", nodes=2, tasks=20)
COLD = Workload("get_many", 10, nodes=2, cold=True)


def row(workload: Workload, *peers: str, **options: Any) -> plan.Row:
    sides = [(peer, workload) for peer in peers or (HAND_WRITTEN,)]
    return plan.Row("table", workload.title, "tiny", (DJANGO_RB, workload), sides, **options)


@pytest.fixture(scope="module", autouse=True)
def short_turns() -> Iterator[None]:
    """What is told of a turn does not depend on how long it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "TURN_SECONDS", 0.001)
        patch.setattr(turns, "SAMPLED", 2)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of a tiny race saved. One of its contestants cannot take part here."""
    path = tmp_path_factory.mktemp("benchmarks") / "run.json"
    tiny = Race((HAND_WRITTEN, DJANGO_RB, RB), [GET, BATCH, BESIDE], 2)
    alone = Race((DJANGO_RB,), [AGETS, COLD], 1)
    rows = [
        row(GET, bars=(1e6, None), headline=True),
        row(BATCH, bars=(0.0, None)),
        row(BESIDE, measures=plan.SAMPLES, bars=(None, None, 1e6)),
        row(GET, RB, bars=(1.0, 1.0)),
        plan.Row("table", "agets", "alone", (DJANGO_RB, AGETS), [(DJANGO_RB, COLD)]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "RACES", {"tiny": tiny, "alone": alone})
        patch.setattr(plan, "rows", lambda: rows)
        assert command.main(["--here", "--save", str(path)]) == 0
    return {"path": str(path), **json.loads(path.read_text())}


def test_a_run_judges_what_each_call_costs(run: dict[str, Any]) -> None:
    get, batch, beside, missing, alone = run["rows"]
    assert [told["met"] for told in run["rows"]] == [True, False, True, None, None]
    for told in (get, batch, beside, alone):
        assert all(0 < seconds < 5 for seconds in (*told["ours"], *told["theirs"]))
        assert all(ratio > 0 for ratio in told["ratio"])
    assert get["peers"] == ["hand-written"] * 2
    assert beside["measures"] == ["mean", "median", "p99"]
    assert alone["peers"] == ["django-rb"] * 2
    assert missing["why"] == "rb: No module named 'rb'"
    assert run["about"]["versions"]["redis"]


def test_a_saved_run_is_shown_again(
    run: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--from", run["path"]]) == 0
    shown = capsys.readouterr().out
    assert "2 of 3 bars are met." in shown
    assert "not measured: rb: No module named 'rb'" in shown


def timing(*cpus: float, samples: tuple[float, ...] = ()) -> Timing:
    turns = {n: {"cpu": cpu, "wall": 2 * cpu} for n, cpu in enumerate(cpus) if cpu}
    return Timing(turns, list(samples))


def test_a_ratio_is_the_median_of_the_rounds_in_which_both_had_a_turn() -> None:
    peer, ours = timing(1, 10, 100, 7), timing(2, 30, 400, 0)
    assert ours.over(peer, "cpu") == (3, 2.5, 3.5)
    assert peer.over(ours, "wall")[0] == pytest.approx(1 / 3)


def test_calls_that_are_timed_one_by_one_are_compared_by_all_of_them() -> None:
    peer = timing(samples=tuple(range(1, 101)))
    ours = timing(samples=(2.0,) * 99 + (4,))
    figures = [peer.figure(measure) for measure in plan.SAMPLES]
    assert figures == [50.5, 50.5, 99]
    assert ours.over(peer, "mean")[0] == 2.02 / 50.5


def judge_one(one: plan.Row, **timings: Timing) -> dict[str, Any]:
    sides = {(name.replace("_", "-"), GET): timing for name, timing in timings.items()}
    [told] = judge([one], {"tiny": Result(sides, {"vcache": "no such Python"})})
    return told


def test_the_quickest_peer_counts() -> None:
    both = row(GET, HAND_WRITTEN, RB, bars=(1.0, 1.0))
    told = judge_one(both, django_rb=timing(2), handwritten=timing(4), rb=timing(1))
    assert (told["peers"], told["ratio"], told["met"]) == (["rb"] * 2, [2, 2], False)


def test_a_bar_may_allow_seconds_more() -> None:
    for allowance, met in ((1.0, True), (0.5, False)):
        one = row(GET, bars=(1.0, None), allowance=allowance)
        assert judge_one(one, django_rb=timing(2), handwritten=timing(1))["met"] is met


def test_who_did_not_take_part_is_named_with_the_reason() -> None:
    told = judge_one(row(GET, "vcache", bars=(1.0, None)), django_rb=timing(2))
    assert (told["met"], told["why"]) == (None, "django-vcache: no such Python")


def test_the_races_are_those_that_the_table_needs() -> None:
    lines = [*plan.rows(), *plan.rows_beside()]
    for one in lines:
        race = plan.RACES[one.race]
        for contestant, workload in (one.ours, *one.peers):
            assert workload in race.workloads, one.what
            assert contestant.removesuffix(f"-{BEFORE}") in race.contestants, one.what
        assert len(one.bars) >= len(one.measures)
    for race in plan.RACES.values():
        assert len({(one.nodes, one.rtt) for one in race.workloads}) == 1
    assert len(COMMANDS) == 19
    assert {one.race for one in lines} == set(plan.RACES)


def test_the_pages_show_the_saved_run(tmp_path: Path) -> None:
    saved = json.loads(command.SAVED.read_text(encoding="utf-8"))
    shown = [one.what for one in plan.rows() if one.race not in plan.NOT_ON_THE_PAGE]
    assert [one["what"] for one in saved["rows"]] == shown
    for page in command.PAGES:
        copy = tmp_path / page.name
        shutil.copy(page, copy)
        table.rewrite(copy, saved)
        text = page.read_text(encoding="utf-8")
        assert copy.read_text(encoding="utf-8") == text
        assert "| ratio |" in text
    assert len(command.PAGES[0].read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--only gets", "--only: there is no race 'gets', only beside, beside-loop,"),
        ("--docs --only map", "--docs shows a whole run: it goes without --only and --before"),
        ("--from no.json", "--from: 'no.json' is not what --save has written ([Errno 2]"),
        ("--from setup.cfg", "--from: 'setup.cfg' is not what --save has written"),
        ("--before yesterday", "--before: 'yesterday' is no commit of this repository"),
    ],
)
def test_a_mistake_is_told_with_the_way_out(
    words: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        command.main(words.split())
    assert told in capsys.readouterr().err


def test_an_interrupted_run_keeps_the_races_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    races = {name: Race((DJANGO_RB,), [GET], 1) for name in ("tiny", "next")}

    def play(_: Conductor, race: Race) -> Result:
        if race.contestants is races["next"].contestants:
            raise KeyboardInterrupt
        return Result({(DJANGO_RB, GET): timing(2)})

    races["next"] = Race((DJANGO_RB, RB), [GET], 1)
    monkeypatch.setattr(plan, "RACES", races)
    monkeypatch.setattr(plan, "rows", lambda: [row(GET, DJANGO_RB)])
    monkeypatch.setattr(Conductor, "run", play)
    assert command.main(["--here", "--format", "json"]) == 130
    shown = capsys.readouterr()
    assert json.loads(shown.out)["rows"][0]["ours"] == [2, 4]
    assert "interrupted; missing: next" in shown.err


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_an_older_commit_runs_its_own_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        done = subprocess.run(
            ["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    package = tmp_path / "django_rb" / "__init__.py"
    package.parent.mkdir()
    package.write_text('raise ImportError("an older one")\n')
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "An older one")
    monkeypatch.setattr(checkouts, "ROOT", tmp_path)
    monkeypatch.setattr(plan, "RACES", {"tiny": Race((DJANGO_RB,), [GET], 2)})
    monkeypatch.setattr(plan, "STARTS", 2)
    assert command.main(["--before", "HEAD", "--here", "--format", "json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["before"].endswith(" An older one")
    [told] = run["rows"]
    assert "django-rb, before: " in told["why"]
    assert "an older one" in told["why"]
    with lay_out("HEAD", Path(sys.executable)) as place:
        assert (place / "benchmarks" / "worker.py").exists()
    assert len(git("worktree", "list").splitlines()) == 1


def test_every_contestant_has_pinned_requirements() -> None:
    for name in {one.environment for one in CONTESTANTS.values()} - {BEFORE}:
        lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        assert all("==" in line for line in lines if not line.startswith("#")), name


@pytest.fixture
def make_worker(open_nodes: LocalNodes) -> Iterator[Callable[[str], Worker]]:
    """Return what makes a worker of this process; its connections end with the test."""
    workers: list[Worker] = []
    hosts = [[host["host"], host["port"]] for host in open_nodes.hosts.values()]

    def make(contestant: str) -> Worker:
        workers.append(Worker(contestant, hosts, f"{len(workers):02}"))
        return workers[-1]

    yield make
    for worker in workers:
        worker.runner.close()
        if hasattr(worker.player, "sockets"):
            for sock in worker.player.sockets:
                sock.close()
        else:
            worker.player.cluster.close()


@pytest.mark.parametrize("operation", ["get", "set", "get_many", "set_many"])
def test_a_call_that_does_not_do_its_work_is_not_timed(
    operation: str, make_worker: Callable[[str], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker(HAND_WRITTEN)
    workload = Workload(operation, 1 if operation in {"get", "set"} else 10)
    worker.prepare(workload.as_json())
    assert worker.turn(workload.as_json(), 3)["wall"] > 0
    for name in workload.data():
        worker.player.set(name, None)
    monkeypatch.setattr(Work, "operation", lambda *_: lambda *_: None)
    with pytest.raises(CannotDo, match=f"{operation}.* did not do its work: it gave"):
        Work(worker, workload).check()


def test_every_command_of_a_map_does_its_work(
    make_worker: Callable[[str], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker("django-rb-map")
    for name in COMMANDS:
        worker.prepare(Workload(MAP + name, 3).as_json())
    monkeypatch.setattr(worker.player, "map_seed", lambda *_: None)
    with pytest.raises(CannotDo, match=r"map\(\) of 4 hgetall did not do its work"):
        worker.prepare(Workload(f"{MAP}hgetall", 4).as_json())


def test_threads_compute_while_calls_are_made_and_no_longer(
    make_worker: Callable[[str], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, counts = make_worker(HAND_WRITTEN), []
    before = threading.active_count()
    workload = Workload("get", computing=3)
    worker.prepare(workload.as_json())

    def count(_: str) -> None:
        counts.append(threading.active_count() - before)

    monkeypatch.setattr(Work, "operation", lambda *_: count)
    assert len(worker.turn(workload.as_json(), 4)["samples"]) == 4
    assert counts == [3] * 5  # the first of them does not count
    assert threading.active_count() == before


def test_who_does_not_answer_in_time_is_ended() -> None:
    worker = WorkerProcess(Path(sys.executable), ROOT)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        worker.ask(
            "open", contestant=HAND_WRITTEN, hosts=[silent.getsockname()[:2]], prefix="00"
        )
        with pytest.raises(WorkerFailed, match=r"it took more than 0.1 s for 'prepare'"):
            worker.ask("prepare", within=0.1, workload=GET.as_json())
        with pytest.raises(WorkerFailed, match="its process ended with status -9"):
            worker.ask("prepare", workload=GET.as_json())
    worker.close()


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


def test_the_proxy_keeps_bytes_for_the_round_trip(echo: tuple[str, int]) -> None:
    with (
        ProxyProcess([echo], rtt=50) as proxy,
        socket.create_connection(proxy.hosts[0]) as peer,
    ):
        for said in (b"hello", bytes(range(256)) * 1000):
            before = perf_counter()
            sender = threading.Thread(target=peer.sendall, args=(said,))
            sender.start()
            got = bytearray()
            while len(got) < len(said):
                got += peer.recv(1 << 16)
            sender.join()
            assert got == said
            assert perf_counter() - before >= 0.05
