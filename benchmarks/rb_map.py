"""Time map() with 1,000 GETs beside rb 1.11's, on the same nodes in one run.

python -m benchmarks.rb_map [--nodes 8] [--keys 1000] [--rounds 60] [--format json]

rb works with redis-py below 5 only. It gets a virtual environment of its own under .venvs/
(made at the first run, with hiredis, as django-rb has it) and each contestant a process of
its own. They run in turn: A B A B …; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).parent.parent
VENV = ROOT / ".venvs" / "rb-1.11"
REQUIREMENTS = ["rb==1.11.0", "redis==4.6.0", "hiredis==3.2.0"]
OURS, THEIRS = "django-rb", "rb"
CALLS = 20  # map() blocks per round


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rb_map", description=__doc__)
    parser.add_argument("--nodes", type=int, default=8, help="local nodes (default 8)")
    parser.add_argument("--keys", type=int, default=1000, help="GETs per block (default 1000)")
    parser.add_argument(
        "--rounds", type=int, default=60, help="interleaved rounds (default 60)"
    )
    parser.add_argument("--format", choices=["table", "json"], default="table")
    parser.add_argument("--work", nargs=3, metavar=("NAME", "HOSTS", "KEYS"), help="(internal)")
    options = parser.parse_args()
    if options.work:
        name, hosts, keys = options.work
        work(name, json.loads(hosts), int(keys))
        return
    about, samples = run(options.nodes, options.keys, options.rounds)
    results = {
        name: {clock: summary(values) for clock, values in clocks.items()}
        for name, clocks in samples.items()
    }
    ratios = {
        clock: results[OURS][clock]["median"] / results[THEIRS][clock]["median"]
        for clock in ("cpu", "wall")
    }
    if options.format == "json":
        print(json.dumps({"about": about, "seconds": results, "ratio": ratios}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"map() with {options.keys} GETs, in ms (spread: interquartile range)")
    for name, clocks in results.items():
        cpu, wall = clocks["cpu"], clocks["wall"]
        print(
            f"{name:10} CPU {cpu['median'] * 1e3:6.2f} ± {cpu['spread'] * 1e3:4.2f}"
            f"   wall {wall['median'] * 1e3:6.2f} ± {wall['spread'] * 1e3:4.2f}"
        )
    print(f"{OURS} takes {ratios['cpu']:.2f} of {THEIRS}'s CPU time")


def run(nodes: int, keys: int, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    from django_rb.testing import LocalNodes  # noqa: PLC0415 (rb's environment lacks it)

    theirs = make_environment()
    with LocalNodes(nodes) as local:
        hosts = json.dumps(local.hosts)
        contestants = {
            name: subprocess.Popen(
                [python, __file__, "--work", name, hosts, str(keys)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, python in ((THEIRS, theirs), (OURS, sys.executable))
        }
        try:
            about = {"server": local.server, "nodes": nodes}
            for contestant in contestants.values():
                about.update(ask(contestant))  # it has warmed up
            samples: dict[str, Any] = {name: {"cpu": [], "wall": []} for name in contestants}
            for _ in range(rounds):
                for name, contestant in contestants.items():
                    for clock, seconds in ask(contestant).items():
                        samples[name][clock].append(seconds)
        finally:
            for contestant in contestants.values():
                contestant.communicate("")
    return about, samples


def ask(contestant: subprocess.Popen[str]) -> Any:
    assert contestant.stdin is not None
    assert contestant.stdout is not None
    contestant.stdin.write("go\n")
    contestant.stdin.flush()
    return json.loads(contestant.stdout.readline())


def work(name: str, hosts: dict[str, Any], count: int) -> None:
    """Be a contestant: one round for each line that comes in."""
    if name == THEIRS:
        import rb as package  # type: ignore[import-not-found]  # noqa: PLC0415
    else:
        sys.path[0] = str(ROOT)
        import django_rb.engine as package  # noqa: PLC0415
    import redis  # noqa: PLC0415

    cluster = package.Cluster({int(host_id): host for host_id, host in hosts.items()})
    keys = [f"key:{n}" for n in range(count)]
    values = [f"value of {key}".encode() for key in keys]

    def get_all() -> list[bytes]:
        with cluster.map() as client:
            promises = [client.get(key) for key in keys]
        return [promise.value for promise in promises]

    with cluster.map() as client:
        for key, value in zip(keys, values):  # noqa: B905 (rb's Python may be old)
            client.set(key, value)
    for _ in range(10):
        assert get_all() == values
    sys.stdin.readline()
    print(json.dumps({f"redis-py of {name}": redis.__version__}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(CALLS):
            get_all()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu": cpu / CALLS, "wall": wall / CALLS}), flush=True)


def make_environment() -> str:
    """Return a Python that has rb."""
    python = VENV / "bin" / "python"
    stamp = VENV / "installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(REQUIREMENTS):
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             *REQUIREMENTS],
            check=True,
        )  # fmt: skip
        stamp.write_text("\n".join(REQUIREMENTS))
    return str(python)


def summary(values: list[float]) -> dict[str, float]:
    low, _, high = quantiles(values, n=4)
    return {"median": median(values), "spread": high - low}


if __name__ == "__main__":
    main()
