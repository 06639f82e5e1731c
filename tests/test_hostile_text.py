"""What nodes and keys say moves no cursor, renames no window and reorders no text."""

from __future__ import annotations

import json
import logging
import socket
from base64 import b64decode
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from django_rb import clusters
from django_rb.checks import check_live_nodes
from django_rb.engine.wording import escaped, get_logger
from django_rb.management.base import NodesCommand, failure_of
from django_rb.management.output import as_json, painted
from django_rb.ratelimit import Limit, Limiter, parse_rate
from tests.engine.peer import Peer
from tests.helpers import make_cache
from tests.tables import for_each

# A window's title, clear screen in one byte, right-to-left, line and paragraph separators,
# another line break, "delete", a zero-width joiner, and a byte that is no UTF-8.
TEXT = "\x1b]0;owned\x07\x9b2J\u202egnp.exe\u2028\u2029\x85\x7f\u200d"
EVIL = TEXT.encode() + b"\x9b\xff"
SHOWN = r"\x1b]0;owned\x07\xc2\x9b2J\xe2\x80\xaegnp.exe"

INFO = b"# Server\r\nredis_version:6.%b\r\nrole:slave\r\nmaster_host:%b\r\n" % (EVIL, EVIL)


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


class Hostile:
    """Answers what a node would, and what it can name it names as it likes.

    Attributes:
        error: the code of an error that it answers with instead; nothing for none.
    """

    def __init__(self) -> None:
        self.error = b""

    def answer(self, peer: Peer, connection: socket.socket, command: list[bytes]) -> None:
        replies = {
            b"INFO": bulk(INFO),
            b"PING": b"+PONG\r\n",
            b"DBSIZE": b":1\r\n",
            b"SCAN": b"*2\r\n$1\r\n0\r\n*1\r\n" + bulk(EVIL),
            b"TYPE": b"+%b\r\n" % EVIL,
            b"PTTL": b":100000\r\n",
            b"TIME": b"*2\r\n$1\r\n0\r\n$1\r\n0\r\n",
            b"MEMORY": b":100\r\n",
            b"UNLINK": b":1\r\n",
        }
        failure = b"-%b %b\r\n" % (self.error or b"ERR", EVIL)
        connection.sendall(failure if self.error else replies.get(command[0], failure))


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    node = Hostile()
    with Peer(node.answer) as peer:
        with override_settings(RB_CLUSTERS={"default": {"HOSTS": [peer.host]}}):
            yield node
        clusters.reset()


def is_harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


COMMANDS = {
    "rb_status": [],
    "rb_scan": ["--with", "ttl,size,type"],
    "rb_get": ["key"],
    "rb_route": [TEXT],
    "rb_delete": ["*", "--no-input"],
    "rb_flushall": ["--no-input"],
    "rb_bench": ["--keys", "10"],
}


def said_by(name: str, *args: str, **options: Any) -> tuple[str, str]:
    """Return what a command writes to both its streams, and its error."""
    out = StringIO()
    try:
        call_command(name, *args, stdout=out, stderr=out, **options)
    except CommandError as error:
        return out.getvalue(), str(error)
    return out.getvalue(), ""


@pytest.mark.parametrize("error", [b"", b"ERR", b"LOADING", b"NOAUTH"])
@for_each("name", COMMANDS)
def test_commands_escape_what_a_node_says(hostile: Hostile, name: str, error: bytes) -> None:
    hostile.error = error
    out, failure = said_by(name, *COMMANDS[name], no_color=True)

    assert is_harmless(out)
    assert is_harmless(failure)
    shown = "".join((out + failure).split())
    if error or name not in {"rb_delete", "rb_bench"}:
        assert SHOWN in shown or r"\x1b]0;" in shown  # a table may break it


@for_each("name", COMMANDS)
def test_colours_are_the_commands_own(hostile: Hostile, name: str) -> None:
    hostile.error = b"ERR"
    out, failure = said_by(name, *COMMANDS[name], force_color=True)
    for text in (out, failure):
        assert "\x1b]" not in text
        assert "\x07" not in text
        assert "\u202e" not in text


class Forgetful(NodesCommand):
    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write("said: \x1b[31m\nas it is", self.style.SUCCESS)
        self.stdout.write(painted("\x07\n", self.style.SUCCESS))
        raise CommandError("failed:\n\x1b[31m")


def test_a_command_that_escapes_nothing_itself_shows_nothing_unescaped() -> None:
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(Forgetful(), stdout=out, no_color=True)
    assert out.getvalue() == "said: \\x1b[31m\nas it is\n\\x07\\n\n"
    assert str(caught.value) == "failed:\n\\x1b[31m"


def test_a_watched_screen_is_escaped(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("django_rb.management.commands.rb_status.time.sleep", interrupt)
    hostile.error = b"ERR"
    out, _ = said_by("rb_status", "--watch", "1", no_color=True)
    assert is_harmless(out)
    assert SHOWN in out


class TestPrograms:
    def read(self, name: str) -> Any:
        out, _ = said_by(name, *COMMANDS[name], "--format", "json", no_color=True)
        assert is_harmless(out)
        return json.loads(out)

    def test_an_error_is_exact(self, hostile: Hostile) -> None:
        hostile.error = b"ERR"
        (node,) = self.read("rb_status")["nodes"]
        assert TEXT in node["error"]
        assert TEXT in self.read("rb_flushall")["nodes"][0]["error"]

    def test_a_field_of_info_is_exact(self, hostile: Hostile) -> None:
        (node,) = self.read("rb_status")["nodes"]
        assert "\x1b]0;owned\x07" in node["version"]

    def test_keys_and_types_are_exact(self, hostile: Hostile) -> None:
        found = self.read("rb_scan")
        assert b64decode(found["key"]["base64"]) == EVIL
        assert b64decode(found["type"]["base64"]) == EVIL
        (entry,) = self.read("rb_get")["entries"]
        assert b64decode(entry["type"]["base64"]) == EVIL

    def test_json_is_printable_and_decodes_to_the_same(self) -> None:
        document = {TEXT: [TEXT, "\x00\n\udc9b"]}
        assert as_json(document).isprintable()
        assert json.loads(as_json(document)) == document


@pytest.mark.parametrize("error", [b"", b"ERR", b"NOPERM"])
def test_findings_of_checks_are_escaped(hostile: Hostile, error: bytes) -> None:
    hostile.error = error
    messages = check_live_nodes()

    assert messages
    assert all(is_harmless(f"{message.msg}{message.hint}") for message in messages)
    assert any(r"\x1b]0;owned" in str(message) for message in messages)


class TestLogs:
    def test_health(self, hostile: Hostile, caplog: pytest.LogCaptureFixture) -> None:
        hostile.error = b"LOADING"
        with pytest.raises(Exception, match="owned"):
            make_cache().get("key")
        (record,) = caplog.records
        assert record.name == "django_rb.health"
        assert is_harmless(record.getMessage())
        assert SHOWN in record.getMessage()

    def test_cache(self, hostile: Hostile, caplog: pytest.LogCaptureFixture) -> None:
        hostile.error = b"ERR"
        make_cache(OPTIONS={"ON_NODE_ERROR": "miss"}).get("key")
        (record,) = caplog.records
        assert record.name == "django_rb.cache"
        assert is_harmless(record.getMessage())
        assert SHOWN in record.getMessage()

    def test_limits(self, hostile: Hostile, caplog: pytest.LogCaptureFixture) -> None:
        hostile.error = b"ERR"
        rate = parse_rate("1/m")
        assert rate is not None
        Limiter().check([Limit("key", rate, 1, "fixed-window")])
        (record,) = caplog.records
        assert record.name == "django_rb.ratelimit"
        assert is_harmless(record.getMessage())
        assert SHOWN in record.getMessage()

    def test_a_callback_that_fails_with_what_a_node_said(
        self, hostile: Hostile, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(change: Any) -> None:
            raise change.error

        hostile.error = b"LOADING"
        clusters["default"].on_health_change(fail)
        with pytest.raises(Exception, match="owned"):
            make_cache().get("key")
        record = caplog.records[-1]
        assert "BusyLoadingError" in caplog.text
        assert is_harmless(logging.Formatter().format(record))

    def test_an_argument_keeps_what_it_is(self, caplog: pytest.LogCaptureFixture) -> None:
        logger = get_logger("django_rb.test")
        get_logger("django_rb.test").warning("%d of %r: %s", 5, b"\x1b", ValueError("\x1b"))
        assert caplog.records[0].args == (5, b"\x1b", r"\x1b")
        assert len(logger.filters) == 1


@for_each(
    ("text", "shown"),
    [
        ("plain, ü and 世界 \\ 👍", "plain, ü and 世界 \\ 👍"),
        ("a\tb\r\nc", r"a\tb\r\nc"),
        ("\x00\x1b\x7f\x80\x9f", r"\x00\x1b\x7f\xc2\x80\xc2\x9f"),
        ("\u200b\u202a\u2066\ufeff\u061c", None),
        ("\u2028\u2029\x85", r"\xe2\x80\xa8\xe2\x80\xa9\xc2\x85"),
        ("\udc9b", r"\x9b"),
        ("\ud800", r"\xed\xa0\x80"),
        (ValueError("\x07"), r"\x07"),
    ],
)
def test_escaped(text: object, shown: str | None) -> None:
    assert escaped(text).isprintable()
    assert escaped(escaped(text)) == escaped(text)
    assert shown is None or escaped(text) == shown


def test_an_error_forges_no_line() -> None:
    assert failure_of(("default", 0), "a\ndefault 1: ok") == r"default 0: a\ndefault 1: ok"


def test_line_breaks_may_be_kept() -> None:
    assert escaped("a\nb\x1b\u2028", keep="\n") == "a\nb\\x1b\\xe2\\x80\\xa8"
