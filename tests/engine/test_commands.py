"""Every command's keys, as the table tells them and as a live server does."""

import inspect
import re
import runpy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.utils import str_if_bytes

from django_rb.engine.errors import UnroutableCommand
from django_rb.engine.protocol import commands
from django_rb.engine.protocol.command_table import TABLE
from django_rb.engine.protocol.commands import (
    SPLITTABLE,
    MalformedCommand,
    is_read_only,
    key_positions,
    keys_of,
    name_of,
    refusal,
    register_command,
)
from django_rb.engine.protocol.encoding import Arg
from django_rb.engine.protocol.further_commands import LATER, QUESTIONS
from django_rb.engine.protocol.key_finders import BY_HAND
from django_rb.engine.protocol.refusals import REFUSALS
from django_rb.testing import LocalNodes
from tests.tables import for_each

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_command_table.py"

# At least one call of every command with keys. The words that start with k. are the keys.
CALLS = """
APPEND k.a value
ARCOUNT k.a
ARDEL k.a 1 2
ARDELRANGE k.a 1 2
ARGET k.a 1
ARGETRANGE k.a 1 2
ARGREP k.a 0 9 EXACT word
ARINFO k.a FULL
ARINSERT k.a value value
ARLASTITEMS k.a 3
ARLEN k.a
ARMGET k.a 1 2
ARMSET k.a 1 value 2 value
ARNEXT k.a
AROP k.a 0 9 SUM
ARRING k.a 3 value
ARSCAN k.a 0 9
ARSEEK k.a 5
ARSET k.a 1 value
BITCOUNT k.a 0 1
BITFIELD k.a GET u4 0
BITFIELD_RO k.a GET u4 0
BITOP AND k.dest k.a k.b
BITOP NOT k.dest k.a
BITPOS k.a 1
BLMOVE k.a k.b LEFT RIGHT 0.1
BLMOVEM k.a k.b LEFT RIGHT 0.1 COUNT 2 BULK
BLMPOP 0.1 2 k.a k.b LEFT
BLPOP k.a 0.1
BLPOP k.a k.b k.c 0.1
BRPOP k.a k.b 0.1
BRPOPLPUSH k.a k.b 0.1
BZMPOP 0.1 2 k.a k.b MIN
BZPOPMAX k.a k.b 0.1
BZPOPMIN k.a k.b 0.1
CLUSTERSCAN k.cursor
COPY k.a k.b REPLACE
DEBUG OBJECT k.a
DECR k.a
DECRBY k.a 2
DEL k.a
DEL k.a k.b k.c
DELEX k.a IFEQ value
DELIFEQ k.a value
DIGEST k.a
DUMP k.a
EVAL script 0 arg
EVAL script 2 k.a k.b arg
EVALSHA sha 1 k.a arg
EVALSHA_RO sha 1 k.a arg
EVAL_RO script 1 k.a arg
EXISTS k.a k.b
EXPIRE k.a 10
EXPIREAT k.a 10
EXPIRETIME k.a
FCALL function 0
FCALL function 2 k.a k.b arg
FCALL_RO function 1 k.a
GEOADD k.a 1 2 member
GEODIST k.a one two
GEOHASH k.a member
GEOPOS k.a member
GEORADIUS k.a 1 2 3 km
GEORADIUS k.a 1 2 3 km COUNT 3 STORE k.dest
GEORADIUS k.a 1 2 3 km STOREDIST k.dest ASC
GEORADIUSBYMEMBER k.a member 3 km
GEORADIUSBYMEMBER k.a STORE 3 km WITHDIST STORE k.dest
GEORADIUSBYMEMBER_RO k.a member 3 km
GEORADIUS_RO k.a 1 2 3 km
GEOSEARCH k.a FROMMEMBER member BYRADIUS 3 km
GEOSEARCHSTORE k.dest k.a FROMMEMBER member BYRADIUS 3 km
GET k.a
GETBIT k.a 0
GETDEL k.a
GETEX k.a EX 10
GETRANGE k.a 0 1
GETSET k.a value
HDEL k.a field
HEXISTS k.a field
HEXPIRE k.a 10 FIELDS 1 field
HEXPIREAT k.a 10 FIELDS 1 field
HEXPIRETIME k.a FIELDS 1 field
HGET k.a field
HGETALL k.a
HGETDEL k.a FIELDS 1 field
HGETEX k.a EX 10 FIELDS 1 field
HIMPORT SET k.a fieldset value
HINCRBY k.a field 1
HINCRBYFLOAT k.a field 1
HKEYS k.a
HLEN k.a
HMGET k.a field
HMSET k.a field value
HPERSIST k.a FIELDS 1 field
HPEXPIRE k.a 10 FIELDS 1 field
HPEXPIREAT k.a 10 FIELDS 1 field
HPEXPIRETIME k.a FIELDS 1 field
HPTTL k.a FIELDS 1 field
HRANDFIELD k.a 2
HSCAN k.a 0
HSET k.a field value
HSETEX k.a EX 10 FIELDS 1 field value
HSETNX k.a field value
HSTRLEN k.a field
HTTL k.a FIELDS 1 field
HVALS k.a
INCR k.a
INCRBY k.a 2
INCRBYFLOAT k.a 2
INCREX k.a BYINT 2 EX 10
LCS k.a k.b LEN
LINDEX k.a 0
LINSERT k.a BEFORE pivot value
LLEN k.a
LMOVE k.a k.b LEFT RIGHT
LMOVEM k.a k.b LEFT RIGHT COUNT 2 BULK
LMPOP 2 k.a k.b LEFT COUNT 2
LPOP k.a
LPOS k.a value
LPUSH k.a value value
LPUSHX k.a value
LRANGE k.a 0 1
LREM k.a 1 value
LSET k.a 0 value
LTRIM k.a 0 1
MEMORY USAGE k.a SAMPLES 0
MGET k.a
MGET k.a k.b k.c
MIGRATE host 6379 k.a 0 1000
MIGRATE host 6379 k.a 0 1000 COPY REPLACE
MIGRATE host 6379 "" 0 1000 COPY AUTH KEYS KEYS k.a k.b
MIGRATE host 6379 "" 0 1000 REPLACE AUTH2 user KEYS keys k.a
MOVE k.a 1
MSET k.a value
MSET k.a value k.b value
MSETEX 2 k.a value k.b value EX 10
MSETNX k.a value k.b value
OBJECT ENCODING k.a
OBJECT FREQ k.a
OBJECT IDLETIME k.a
OBJECT REFCOUNT k.a
PERSIST k.a
PEXPIRE k.a 10
PEXPIREAT k.a 10
PEXPIRETIME k.a
PFADD k.a value
PFCOUNT k.a k.b
PFDEBUG ENCODING k.a
PFMERGE k.dest
PFMERGE k.dest k.a k.b
PSETEX k.a 10 value
PTTL k.a
RENAME k.a k.b
RENAMENX k.a k.b
RESTORE k.a 0 value
RESTORE-ASKING k.a 0 value
RPOP k.a
RPOPLPUSH k.a k.b
RPUSH k.a value value
RPUSHX k.a value
SADD k.a member
SCARD k.a
SDIFF k.a k.b
SDIFFCARD 2 k.a k.b LIMIT 3
SDIFFSTORE k.dest k.a k.b
SET k.a value
SET k.a value EX 10 NX GET
SETBIT k.a 0 1
SETEX k.a 10 value
SETNX k.a value
SETRANGE k.a 0 value
SINTER k.a k.b
SINTERCARD 2 k.a k.b LIMIT 3
SINTERSTORE k.dest k.a k.b
SISMEMBER k.a member
SMEMBERS k.a
SMISMEMBER k.a member member
SMOVE k.a k.b member
SORT k.a
SORT k.a ASC STORE k.dest
SORT k.a BY STORE GET STORE LIMIT 0 STORE ALPHA store k.dest
SORT k.a BY STORE ASC
SORT k.a GET STORE GET BY ASC
SORT k.a LIMIT STORE STORE ALPHA
SORT k.a STORE first STORE k.dest
SORT_RO k.a BY pattern GET pattern LIMIT 0 1
SPOP k.a
SPUBLISH k.channel message
SRANDMEMBER k.a 2
SREM k.a member
SSCAN k.a 0
SSUBSCRIBE k.channel k.channel2
STRLEN k.a
SUBSTR k.a 0 1
SUNION k.a k.b
SUNIONCARD 2 k.a k.b LIMIT 3
SUNIONSTORE k.dest k.a k.b
SUNSUBSCRIBE k.channel
TOUCH k.a k.b
TTL k.a
TYPE k.a
UNLINK k.a k.b
VADD k.a VALUES 2 1 1 element
VCARD k.a
VDIM k.a
VEMB k.a element
VGETATTR k.a element
VINFO k.a
VISMEMBER k.a element
VLINKS k.a element
VRANDMEMBER k.a 2
VREM k.a element
VSETATTR k.a element {}
VSIM k.a ELE element COUNT 2
WATCH k.a k.b
XACK k.a group 1-1
XACKDEL k.a group KEEPREF IDS 1 1-1
XADD k.a * field value
XAUTOCLAIM k.a group consumer 0 0
XCFGSET k.a IDMP-DURATION 10
XCLAIM k.a group consumer 0 1-1
XDEL k.a 1-1
XDELEX k.a KEEPREF IDS 1 1-1
XGROUP CREATE k.a group $ MKSTREAM
XGROUP CREATECONSUMER k.a group consumer
XGROUP DELCONSUMER k.a group consumer
XGROUP DESTROY k.a group
XGROUP SETID k.a group $
XINFO CONSUMERS k.a group
XINFO GROUPS k.a
XINFO STREAM k.a FULL
XLEN k.a
XNACK k.a group FAIL 1-1
XPENDING k.a group
XRANGE k.a - +
XREAD COUNT 2 BLOCK 10 STREAMS k.a k.b 0 0
XREAD streams k.a 0
XREADGROUP GROUP STREAMS STREAMS NOACK STREAMS k.a k.b > >
XREVRANGE k.a + -
XSETID k.a 1-1
XTRIM k.a MAXLEN 10
ZADD k.a 1 member
ZCARD k.a
ZCOUNT k.a 0 1
ZDIFF 2 k.a k.b WITHSCORES
ZDIFFSTORE k.dest 2 k.a k.b
ZINCRBY k.a 1 member
ZINTER 2 k.a k.b WEIGHTS 1 2
ZINTERCARD 2 k.a k.b LIMIT 3
ZINTERSTORE k.dest 2 k.a k.b AGGREGATE MIN
ZLEXCOUNT k.a - +
ZMPOP 2 k.a k.b MIN COUNT 2
ZMSCORE k.a member
ZPOPMAX k.a
ZPOPMIN k.a 2
ZRANDMEMBER k.a 2
ZRANGE k.a 0 1
ZRANGEBYLEX k.a - +
ZRANGEBYSCORE k.a 0 1
ZRANGESTORE k.dest k.a 0 1
ZRANK k.a member
ZREM k.a member
ZREMRANGEBYLEX k.a - +
ZREMRANGEBYRANK k.a 0 1
ZREMRANGEBYSCORE k.a 0 1
ZREVRANGE k.a 0 1
ZREVRANGEBYLEX k.a + -
ZREVRANGEBYSCORE k.a 1 0
ZREVRANK k.a member
ZSCAN k.a 0
ZSCORE k.a member
ZUNION 2 k.a k.b AGGREGATE MAX
ZUNIONSTORE k.dest 2 k.a k.b WEIGHTS 1 2
"""

# Calls that COMMAND GETKEYS gives no keys for, and why they have keys all the same.
NOT_COMPARED = {
    "CLUSTERSCAN k.cursor": "the cursor names a slot: routed like a key, and is none",
    "DEBUG OBJECT k.a": "servers do not list DEBUG's subcommands",
    "PFMERGE k.dest": "the server runs it; GETKEYS stumbles over the empty list of sources",
    "SPUBLISH k.channel message": "a channel is routed like a key, and is none",
    "SSUBSCRIBE k.channel k.channel2": "a channel is routed like a key, and is none",
    "SUNSUBSCRIBE k.channel": "a channel is routed like a key, and is none",
}


def words(call: str) -> list[str]:
    return [word.strip('"') for word in call.split()]


def keys_in(call: str) -> list[str]:
    return [word for word in words(call) if word.startswith("k.")]


def rows(*tables: str) -> dict[str, list[str]]:
    split = [line.split() for table in tables for line in table.splitlines()]
    return {name.replace("|", " "): rest for name, *rest in split}


ROWS = rows(TABLE, LATER)
SAMPLES = CALLS.strip().splitlines()


def name_in(call: str) -> str:
    one, *others = call.split()
    two = f"{one} {others[0]}"
    return two if two in ROWS else one


@pytest.fixture(scope="module")
def server() -> Iterator[redis.Redis]:
    with LocalNodes(1) as nodes:
        client = redis.Redis(**nodes.hosts[0], protocol=3)
        yield client
        client.close()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test register commands, and forget them after it."""
    containers = {name: dict(of) for name, of in commands._CONTAINERS.items()}
    monkeypatch.setattr(commands, "_COMMANDS", dict(commands._COMMANDS))
    monkeypatch.setattr(commands, "_CONTAINERS", containers)
    monkeypatch.setattr(commands, "_ONE_KEY", set(commands._ONE_KEY))


# --- The table -----------------------------------------------------------------------


def test_every_command_with_keys_has_a_sample_call() -> None:
    with_keys = {name for name, (_, keys, _) in ROWS.items() if keys != "-"}
    assert with_keys == {name_in(call) for call in SAMPLES}


@for_each("call", SAMPLES)
def test_keys_of_finds_the_keys_of(call: str) -> None:
    args = words(call)
    assert keys_of(args) == keys_in(call)
    assert [args[position] for position in key_positions(args)] == keys_in(call)


def test_the_server_finds_the_same_keys(
    server: redis.Redis, record_property: Callable[[str, object], None]
) -> None:
    compared, unknown, differences = 0, [], []
    for call in SAMPLES:
        if call in NOT_COMPARED:
            continue
        try:
            reply = server.command_getkeys(*words(call))
        except redis.ResponseError as error:
            if "Invalid command" in str(error):
                unknown.append(name_in(call))
                continue
            reply = [str(error)]
        compared += 1
        if list(map(str_if_bytes, reply)) != keys_of(words(call)):
            differences.append((call, reply))
    record_property("compared", compared)
    record_property("unknown to this server", ", ".join(unknown))
    print(f"COMMAND GETKEYS agrees on {compared} calls; unknown here: {', '.join(unknown)}")
    assert not differences
    assert compared > 200
    # A server of the table knows what the table says it does.
    assert not [name for name in unknown if ROWS[name][2] == "all"]


def test_the_reasons_for_not_comparing_still_hold(server: redis.Redis) -> None:
    assert NOT_COMPARED.keys() <= set(SAMPLES)
    for call in NOT_COMPARED:
        with pytest.raises(redis.ResponseError, match=r"no key arguments|Invalid"):
            server.command_getkeys(*words(call))
    assert server.pfmerge("k.dest")


def test_the_table_says_what_the_generator_reads_from_a_server(server: redis.Redis) -> None:
    generator = runpy.run_path(str(SCRIPT))
    table = rows(TABLE)
    differences = {}
    for name, row in generator["rows_of"](generator["command_reply"](server)):
        known = table.get(name.replace("|", " "))
        # A newer server may know more; what it shares with the table's is the same.
        if known and known[:2] != [row.access, row.keys]:
            differences[name] = (known, row)
    assert not differences


def test_the_table_is_as_the_generator_writes_it() -> None:
    generator = runpy.run_path(str(SCRIPT))
    labels = tuple(server.label for server in generator["SERVERS"])
    again = {}
    for line in TABLE.splitlines():
        name, access, keys, servers = line.split()
        by = labels if servers == "all" else tuple(servers.split(","))
        again[name] = generator["Row"](access, keys, by)
    assert generator["render"](again, labels) == generator["TABLE_FILE"].read_text()


def test_the_generator_stops_where_servers_disagree() -> None:
    generator = runpy.run_path(str(SCRIPT))

    def says(flag: str) -> list[list[Any]]:
        return [["get", 2, [flag], 1, 1, 1, [], [], [], []]]

    with pytest.raises(SystemExit, match="GET: two says"):
        generator["merge"]({"one": says("readonly"), "two": says("write")})


def test_commands_added_by_hand_are_still_missing_from_the_generated_table() -> None:
    assert not rows(TABLE).keys() & rows(LATER).keys()


def test_redis_py_has_no_method_for_a_command_that_is_missing_here() -> None:
    source = inspect.getsource(redis.commands.core)
    sent = set(re.findall(r'execute_command\(\s*"([A-Z. -]+)"', source))
    assert len(sent) > 200
    first_words = {name.split()[0] for name in ROWS}
    retired = {"STRALGO", "TFCALL", "TFCALLASYNC"}
    retired |= {f"TFUNCTION {word}" for word in ("LOAD", "DELETE", "LIST")}
    # VERSION is an argument of LOLWUT, as redis-py sends it.
    assert sent - ROWS.keys() - first_words - retired <= {"LOLWUT VERSION"}


def test_functions_by_hand_are_those_the_table_asks_for() -> None:
    assert BY_HAND.keys() == {name for name, (_, keys, _) in rows(TABLE).items() if keys == "*"}


def test_hand_written_names_are_in_the_table() -> None:
    questions = {name.replace("|", " ") for name in QUESTIONS.split()}
    assert questions <= ROWS.keys()
    assert {name for name in questions if ROWS[name][0] == "write"} == set()
    assert REFUSALS.keys() <= ROWS.keys()
    assert SPLITTABLE.keys() <= ROWS.keys()


# --- Names ---------------------------------------------------------------------------


@for_each("name", ["GET", "get", "Get", b"GET", b"get", " GET "])
def test_a_name_is_found_in_any_case_as_str_or_bytes(name: str | bytes) -> None:
    assert keys_of((name, "key")) == ["key"]
    assert key_positions([name, "key"]) == [1]
    assert is_read_only((name, "key"))


@for_each(
    "args",
    [
        ("OBJECT FREQ", "key"),
        (b"object freq", "key"),
        ("OBJECT  FREQ", "key"),
        ("OBJECT", "FREQ", "key"),
        (b"Object", b"freq", "key"),
        ("OBJECT", b"FREQ", "key"),
        ("XINFO STREAM", "key", "FULL"),
        ("XGROUP CREATE", "key", "group", "$"),
        ("MEMORY USAGE", "key", "SAMPLES", 0),
        ("memory", "usage", "key"),
        ("DEBUG OBJECT", "key"),
    ],
)
def test_a_name_of_two_words_may_be_one_argument_or_two(args: Sequence[Arg]) -> None:
    assert keys_of(args) == ["key"]
    assert key_positions(args) == [args.index("key")]
    assert is_read_only(args) is (b"XGROUP CREATE" != args[0] != "XGROUP CREATE")


@for_each(
    "args",
    [
        ("PING",),
        ("CLIENT SETNAME", "key"),
        ("CLIENT", "SETNAME", "key"),
        ("COMMAND",),
        ("COMMAND", "DOCS", "GET"),
        ("COMMAND DOCS", "GET"),
        ("CONFIG GET", "maxmemory"),
        ("DEBUG", "SLEEP", 0),
        ("DEBUG SLEEP", 0),
        ("LOLWUT VERSION", 5),
        ("SCAN", 0, "MATCH", "key"),
        ("PUBLISH", "channel", "key"),
        ("EVAL", "return 1", 0, "key"),
    ],
)
def test_a_command_without_keys_has_none(args: Sequence[Arg]) -> None:
    assert keys_of(args) == []
    assert key_positions(args) == []


def test_name_of_is_one_spelling_of_a_name() -> None:
    for args in [("object freq", "k"), (b"OBJECT", b"FREQ", b"k"), ("Object", "Freq", "k")]:
        assert name_of(args) == "OBJECT FREQ"
    assert name_of((b"mget", "a")) == "MGET"
    assert name_of(("COMMAND", "DOCS")) == name_of(("COMMAND DOCS",)) == "COMMAND DOCS"
    with pytest.raises(UnroutableCommand, match="Unknown command 'JSON"):
        name_of(("JSON.GET", "k"))


def test_keys_come_back_as_given() -> None:
    args = ("MGET", b"a", "b", 3, b"\xff")
    assert keys_of(args) == [b"a", "b", 3, b"\xff"]
    assert keys_of(list(args)) == keys_of(args)
    assert (
        keys_of(("EVAL", "x", b"2", "a", 7)) == keys_of(("EVAL", "x", "2", "a", 7)) == ["a", 7]
    )
    assert keys_of((b"XREAD", b"COUNT", 1, b"streams", b"s", 0)) == [b"s"]


def test_an_unknown_command_says_how_to_describe_it() -> None:
    for name in ("JSON.GET", b"json.get"):
        with pytest.raises(UnroutableCommand, match=r"'JSON\.GET'.*register_command") as caught:
            keys_of((name, "key"))
        assert not isinstance(caught.value, MalformedCommand)
    with pytest.raises(UnroutableCommand, match="'OBJECT COLOUR'"):
        keys_of(("OBJECT", "COLOUR", "key"))
    with pytest.raises(UnroutableCommand, match="'OBJECT COLOUR'"):
        keys_of(("OBJECT COLOUR", "key"))
    assert not is_read_only(("JSON.GET", "key"))
    assert refusal(("JSON.GET", "key")) is None


@for_each(
    ("args", "message"),
    [
        ((), "The command is empty"),
        (("",), "The command is empty"),
        ((" ", "key"), "The command is empty"),
        ((1, "key"), "A command's name must be a str or bytes, not int"),
        ((bytearray(b"GET"), "key"), "A command's name must be a str or bytes, not bytearray"),
        (("GET",), "GET is missing a key"),
        (("get",), "GET is missing a key"),
        (("GET key",), "GET contains a key in its name; pass each argument separately"),
        (("MGET a", "b"), "MGET contains a key in its name; pass each argument separately"),
        (("OBJECT",), "OBJECT requires one of ENCODING, FREQ, HELP, IDLETIME, REFCOUNT"),
        (("OBJECT FREQ",), "OBJECT FREQ is missing a key"),
        (("OBJECT", "FREQ"), "OBJECT FREQ is missing a key"),
        (("MGET",), "MGET has no keys"),
        (("DEL",), "DEL has no keys"),
        (("BLPOP", 1), "BLPOP has no keys"),
        (("RENAME", "key"), "RENAME is missing a key"),
        (("LCS", "key"), "LCS is missing a key"),
        (("BITOP", "AND"), "BITOP is missing a key"),
        (("MSET",), "MSET has no keys"),
        (("MSET", "key"), "MSET takes 2 arguments for each key"),
        (("MSET", "a", 1, "b"), "MSET takes 2 arguments for each key"),
        (("EVAL", "x"), "EVAL is missing its number of keys"),
        (("EVAL", "x", "key"), "EVAL requires a number of keys, not 'key'"),
        (("EVAL", "x", 1.0, "key"), "EVAL requires a number of keys, not 1.0"),
        (("EVAL", "x", -1, "key"), "EVAL requires a number of keys, not -1"),
        (("EVAL", "x", b"", "key"), "EVAL requires a number of keys, not b''"),
        (("EVAL", "x", 2, "key"), "EVAL declares 2 keys, but only 1 follow"),
        (("FCALL", "f", 10**9), "FCALL declares 1000000000 keys, but only 0 follow"),
        (("ZUNION", 0, "key"), "ZUNION requires a number of keys, not 0"),
        (("ZUNION", 3, "a", "b"), "ZUNION declares 3 keys, but only 2 follow"),
        (("ZUNIONSTORE", "dest"), "ZUNIONSTORE is missing its number of keys"),
        (("ZUNIONSTORE",), "ZUNIONSTORE is missing a key"),
        (("MSETEX", 2, "a", 1, "b"), "MSETEX declares 2 keys, but only 1 follow"),
        (("XREAD", "s", "0"), "XREAD is missing the word STREAMS before its keys"),
        (("XREAD", "STREAMS"), "XREAD requires 2 lists of the same length after STREAMS"),
        (
            ("XREAD", "STREAMS", "a", "b", "0"),
            "XREAD requires 2 lists of the same length after STREAMS",
        ),
        (("SORT",), "SORT is missing a key"),
        (("SORT", "key", "STORE"), "SORT is missing the key after STORE"),
        (
            ("GEORADIUS", "k", 1, 2, 3, "m", "STOREDIST"),
            "GEORADIUS is missing the key after STOREDIST",
        ),
        (("MIGRATE", "host", 1), "MIGRATE is missing a key"),
        (("MIGRATE", "host", 1, "", 0, 9, "KEYS"), "MIGRATE has no keys"),
        (
            ("MIGRATE", "host", 1, "key", 0, 9, "KEYS", "a"),
            "MIGRATE requires an empty key if the word KEYS follows",
        ),
    ],
)
def test_a_malformed_command_says_what_is_wrong(args: Sequence[Any], message: str) -> None:
    with pytest.raises(MalformedCommand) as caught:
        keys_of(args)
    assert str(caught.value) == message
    assert isinstance(caught.value, UnroutableCommand)


def test_a_large_argument_does_not_make_a_large_message() -> None:
    for args in [("EVAL", "x", "v" * 10**6), ("N" * 10**6, "key")]:
        with pytest.raises(UnroutableCommand) as caught:
            keys_of(args)
        assert len(str(caught.value)) < 500


# --- Reads and writes ----------------------------------------------------------------


READS = """
GET k
MGET k
EVAL_RO x 0
EVALSHA_RO x 0
FCALL_RO f 0
PING
INFO
TIME
CONFIG GET x
CLIENT LIST
SCAN 0
DBSIZE
XINFO STREAM k
TTL k
COMMAND
OBJECT FREQ k
ACL WHOAMI
SCRIPT EXISTS x
SORT_RO k
COMMAND DOCS
"""


@for_each("call", READS.strip().splitlines())
def test_reads_may_be_sent_twice(call: str) -> None:
    assert is_read_only(call.split())


WRITES = """
SET k v
EVAL x 0
EVALSHA x 0
FCALL f 0
INCR k
GETEX k
GETDEL k
SPOP k
XREADGROUP GROUP g c STREAMS s >
PUBLISH c m
SPUBLISH c m
CONFIG SET x y
SORT k
FLUSHALL
SLOWLOG RESET
SCRIPT FLUSH
XGROUP CREATE k g $
OBJECT
WATCH k
SUBSCRIBE c
SHUTDOWN
DEBUG SLEEP 1
ACL LOG RESET
LMPOP 1 k LEFT
"""


@for_each("call", WRITES.strip().splitlines())
def test_the_rest_may_not(call: str) -> None:
    assert not is_read_only(call.split())


# --- Splitting and refusing ----------------------------------------------------------


def test_commands_that_are_split_take_their_keys_step_by_step() -> None:
    assert set(SPLITTABLE) == {"MGET", "MSET", "DEL", "UNLINK", "EXISTS", "TOUCH"}
    for name, split in SPLITTABLE.items():
        args = [name, *map(str, range(3 * split.step))]
        assert key_positions(args) == list(range(1, len(args), split.step))


@for_each(
    ("call", "instead"),
    [
        ("SUBSCRIBE c", "get_local_client(host_id).pubsub()"),
        ("subscribe c", "get_local_client(host_id).pubsub()"),
        ("SSUBSCRIBE c", "get_local_client_for_key(channel).pubsub()"),
        ("MULTI", "get_local_client_for_key(key).pipeline()"),
        ("EXEC", "get_local_client_for_key(key).pipeline()"),
        ("WATCH k", "get_local_client_for_key(key).pipeline()"),
        ("SELECT 1", '"db" in the cluster\'s HOSTS'),
        ("AUTH x", '"username" and "password" in the cluster\'s HOSTS'),
        ("MONITOR", "get_local_client(host_id).monitor()"),
        ("CLIENT REPLY OFF", "get_local_client(host_id).client()"),
        ("client tracking ON", "get_local_client(host_id).client()"),
        ("QUIT", "cluster.close()"),
        ("SHUTDOWN NOSAVE", "get_local_client(host_id).shutdown()"),
    ],
)
def test_what_needs_a_connection_of_its_own_names_the_client_that_has_it(
    call: str, instead: str
) -> None:
    args = call.split()
    reason = refusal(args)
    assert reason is not None
    assert reason.startswith(args[0].upper())
    assert instead in reason
    assert refusal([" ".join(args[:2]), *args[2:]]) == reason


@for_each("call", ["GET k", "CLIENT ID", "CLIENT", "PUBLISH c m", "INFO", "SPUBLISH c m"])
def test_other_commands_are_not_refused(call: str) -> None:
    assert refusal(call.split()) is None


def test_local_clients_have_what_the_reasons_name() -> None:
    for method in ("pubsub", "pipeline", "client", "monitor", "shutdown"):
        assert callable(getattr(redis.Redis, method))


# --- Commands described by callers ---------------------------------------------------


@pytest.mark.usefixtures("registry")
class TestRegisterCommand:
    def test_one_key_after_the_name_is_the_default(self) -> None:
        register_command("json.get", read_only=True)
        for name in ("JSON.GET", "json.get", b"JSON.GET"):
            assert keys_of((name, "key", "$")) == ["key"]
            assert is_read_only((name, "key"))
        register_command("JSON.SET")
        assert not is_read_only(("JSON.SET", "key"))
        with pytest.raises(MalformedCommand, match=r"JSON\.GET is missing a key"):
            keys_of(("JSON.GET",))

    def test_a_range_of_keys(self) -> None:
        register_command("JSON.MSET", last_key=-1, step=3)
        assert keys_of(("JSON.MSET", "a", "$", 1, "b", "$", 2)) == ["a", "b"]
        register_command("JSON.MGET", first_key=1, last_key=-2)
        assert keys_of(("JSON.MGET", "a", "b", "$")) == ["a", "b"]
        register_command("TS.CREATERULE", last_key=2)
        assert keys_of(("TS.CREATERULE", "a", "b", "AGGREGATION")) == ["a", "b"]

    def test_no_keys(self) -> None:
        register_command("FT.SEARCH", first_key=0, read_only=True)
        assert keys_of(("FT.SEARCH", "index", "*")) == []

    def test_a_function_of_the_arguments(self) -> None:
        register_command("BULK.READ", keys=lambda args: range(2, 2 + int(args[1])))
        assert keys_of(("BULK.READ", 2, "a", "b", "c")) == ["a", "b"]
        assert keys_of(("BULK.READ", 0)) == []
        with pytest.raises(ValueError, match="invalid literal"):
            keys_of(("BULK.READ", "x"))
        with pytest.raises(
            MalformedCommand,
            match=r"function registered .* returned 3 as the position of a key",
        ):
            keys_of(("BULK.READ", 2, "a"))

    def test_names_of_two_words(self) -> None:
        register_command("BULK SIZE")
        register_command("BULK MOVE", keys=lambda args: [len(args) - 1])
        for args in [("BULK SIZE", "key"), ("bulk", b"size", "key"), ("bulk size", "key")]:
            assert keys_of(args) == ["key"]
        assert keys_of(("BULK MOVE", 1, "key")) == ["key"]
        assert keys_of(("BULK", "MOVE", 1, "key")) == ["key"]
        with pytest.raises(MalformedCommand, match="BULK requires one of MOVE, SIZE"):
            keys_of(("BULK",))

    @pytest.mark.parametrize("order", [["BULK", "BULK SIZE"], ["BULK SIZE", "BULK"]])
    def test_a_first_word_may_be_a_command_too(self, order: list[str]) -> None:
        for name in order:
            register_command(name, read_only=name == "BULK")
        assert keys_of(("BULK", "key")) == ["key"]
        assert keys_of(("BULK", "SIZE", "key")) == ["key"]
        assert keys_of(("BULK SIZE", "key")) == ["key"]
        assert is_read_only(("BULK", "key"))
        assert not is_read_only(("BULK", "SIZE", "key"))

    def test_the_last_description_counts(self) -> None:
        register_command("JSON.GET")
        register_command("JSON.GET", first_key=2)
        assert keys_of(("JSON.GET", "$", "key")) == ["key"]
        register_command("OBJECT FREQ", first_key=3)
        assert keys_of(("OBJECT FREQ", "x", "key")) == ["key"]

    @for_each(
        ("name", "options", "kind", "message"),
        [
            (b"X", {}, TypeError, "A command's name must be a str, not bytes"),
            ("", {}, ValueError, "one or two words of ASCII, not ''"),
            ("A B C", {}, ValueError, "one or two words of ASCII, not 'A B C'"),
            ("É", {}, ValueError, "one or two words of ASCII, not 'É'"),
            ("X", {"first_key": "1"}, TypeError, "first_key must be an int, not '1'"),
            ("X", {"first_key": True}, TypeError, "first_key must be an int, not True"),
            ("X", {"last_key": 1.5}, TypeError, "last_key must be an int, not 1.5"),
            ("X", {"step": None}, TypeError, "step must be an int, not None"),
            (
                "X",
                {"first_key": -1},
                ValueError,
                r"first_key must be 0, or at least 1 .* not -1",
            ),
            (
                "X Y",
                {"first_key": 1},
                ValueError,
                r"first_key must be 0, or at least 2 .* not 1",
            ),
            ("X", {"first_key": 0, "last_key": 2}, ValueError, "first_key=0 means no keys"),
            ("X", {"first_key": 0, "step": 2}, ValueError, "first_key=0 means no keys"),
            ("X", {"first_key": 3, "last_key": 2}, ValueError, "at least first_key=3, not 2"),
            ("X", {"step": 0}, ValueError, "step must be at least 1, not 0"),
            ("X", {"read_only": "no"}, TypeError, "read_only must be True or False, not 'no'"),
            ("X", {"keys": 1}, TypeError, "keys must be a function of the arguments, not 1"),
            ("X", {"keys": list, "first_key": 1}, ValueError, "not both"),
        ],
    )
    def test_a_senseless_description_is_refused(
        self, name: Any, options: dict[str, Any], kind: type[Exception], message: str
    ) -> None:
        with pytest.raises(kind, match=message):
            register_command(name, **options)
        with pytest.raises(UnroutableCommand):
            keys_of(("X", "key", "key", "key"))
