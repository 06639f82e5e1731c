"""Whatever redis-py's client says about one node, the clients over many say of it too."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest
import redis

from django_rb.engine import Cluster, SlotRouter
from django_rb.testing import LocalNodes
from tests.helpers import collect_garbage

S, N, L, H, Z, Z2, M, X, G, B, P, D = (f"{{t}}:{name}" for name in "snlhzymxgbpd")
M2, MISSING = "{t}:m2", "{t}:missing"


class Call(NamedTuple):
    """A call of one method, on keys that `SETUP` made."""

    run: Callable[[Any], Any]
    compare: Callable[[Any], Any] = lambda result: result


SETUP: list[tuple[Any, ...]] = [
    ("SET", S, "text"),
    ("SET", N, "41"),
    ("RPUSH", L, "3", "1", "2"),
    ("HSET", H, "a", "1", "b", "two"),
    ("ZADD", Z, "1", "one", "2.5", "two", "3", "three"),
    ("ZADD", Z2, "10", "two", "20", "four"),
    ("SADD", M, "x", "y"),
    ("SADD", M2, "y", "z"),
    ("XADD", X, "1-1", "f", "v"),
    ("XADD", X, "2-1", "f", "w", "g", "1"),
    ("XGROUP", "CREATE", X, "group", "0"),
    ("GEOADD", G, "13.361389", "38.115556", "Palermo", "15.087269", "37.502669", "Catania"),
    ("SETBIT", B, "7", "1"),
    ("PFADD", P, "a", "b", "c"),
    ("SET", D, "été"),
]

SETUP_AS_JSON = json.dumps(SETUP, ensure_ascii=False)
# Makes them again. In one command, as it is run some thousand times.
SET_UP = """
redis.call('FLUSHDB')
for _, command in ipairs(cjson.decode(ARGV[1])) do redis.call(unpack(command)) end
"""

KEYED: dict[str, Call] = {
    "get": Call(lambda c: c.get(S)),
    "get nothing": Call(lambda c: c.get(MISSING)),
    "get text beyond ASCII": Call(lambda c: c.get(D)),
    "set": Call(lambda c: c.set(S, 1)),
    "set text beyond ASCII": Call(lambda c: c.set("{t}:ключ", "значение")),
    "set nx": Call(lambda c: c.set(S, 1, nx=True)),
    "set get": Call(lambda c: c.set(S, 1, get=True)),
    "set get nothing": Call(lambda c: c.set(MISSING, 1, get=True)),
    "set ex": Call(lambda c: c.set(S, "v", ex=10)),
    "set px by position": Call(lambda c: c.set(S, "v", None, 10_000)),
    "set with a time of day": Call(lambda c: c.set(S, "v", exat=datetime(2100, 1, 1))),
    "set ex as timedelta": Call(lambda c: c.set(S, "v", ex=timedelta(hours=1))),
    "set with an option that is not hashable": Call(lambda c: c.set(S, "v", ex=[])),
    "set with an option that there is not": Call(lambda c: c.set(S, "v", expire=1)),
    "set with options that do not go together": Call(lambda c: c.set(S, "v", nx=True, xx=True)),
    "zrange to 1": Call(lambda c: c.zrange(Z, 0, 1)),
    "zrange to True": Call(lambda c: c.zrange(Z, 0, True)),
    "zrange desc": Call(lambda c: c.zrange(Z, 0, 1, desc=True)),
    "getex": Call(lambda c: c.getex(S, ex=10)),
    "getdel": Call(lambda c: c.getdel(S)),
    "getrange": Call(lambda c: c.getrange(S, 0, 1)),
    "append": Call(lambda c: c.append(S, "!")),
    "incr": Call(lambda c: c.incr(N)),
    "incrbyfloat": Call(lambda c: c.incrbyfloat(N, 0.5)),
    "mget": Call(lambda c: c.mget(S, MISSING, N)),
    "mget list": Call(lambda c: c.mget([S, N])),
    "mget nothing": Call(lambda c: c.mget([])),
    "mset": Call(lambda c: c.mset({S: 1, N: 2})),
    "msetnx": Call(lambda c: c.msetnx({S: 1, N: 2})),
    "exists": Call(lambda c: c.exists(S, S, MISSING)),
    "delete": Call(lambda c: c.delete(S, N, MISSING)),
    "unlink": Call(lambda c: c.unlink(S)),
    "touch": Call(lambda c: c.touch(S, N)),
    "expire": Call(lambda c: c.expire(S, 10)),
    "persist": Call(lambda c: c.persist(S)),
    "ttl": Call(lambda c: c.ttl(S)),
    "type": Call(lambda c: c.type(Z)),
    "rename": Call(lambda c: c.rename(S, MISSING)),
    "renamenx": Call(lambda c: c.renamenx(S, N)),
    "copy": Call(lambda c: c.copy(S, MISSING)),
    "dump": Call(lambda c: c.dump(S)),
    "object encoding": Call(lambda c: c.object("ENCODING", N)),
    "object refcount": Call(lambda c: c.object("REFCOUNT", S)),
    "object freq": Call(lambda c: c.object("FREQ", S), lambda error: error[:2]),
    "memory usage": Call(lambda c: c.memory_usage(S)),
    "lcs": Call(lambda c: c.lcs(S, D)),
    "lcs idx": Call(lambda c: c.lcs(S, S, idx=True)),
    "lrange": Call(lambda c: c.lrange(L, 0, -1)),
    "lpop count": Call(lambda c: c.lpop(L, 2)),
    "lmove": Call(lambda c: c.lmove(L, MISSING)),
    "lmpop": Call(lambda c: c.lmpop(2, MISSING, L, direction="LEFT", count=2)),
    "blpop": Call(lambda c: c.blpop([MISSING, L], timeout=1)),
    "blpop nothing": Call(lambda c: c.blpop([MISSING], timeout=0.01)),
    "brpoplpush": Call(lambda c: c.brpoplpush(L, MISSING, 1)),
    "linsert": Call(lambda c: c.linsert(L, "before", "1", "0")),
    "lpos": Call(lambda c: c.lpos(L, "1")),
    "sort": Call(lambda c: c.sort(L)),
    "sort get": Call(lambda c: c.sort(L, get=["#", "#"], groups=True)),
    "sort by nosort": Call(lambda c: c.sort(L, by="nosort")),
    "sort by pattern": Call(lambda c: c.sort(L, by="{t}:w:*", get="{t}:w:*")),
    "sort store": Call(lambda c: c.sort(L, store=MISSING)),
    "hget": Call(lambda c: c.hget(H, "a")),
    "hgetall": Call(lambda c: c.hgetall(H)),
    "hgetall nothing": Call(lambda c: c.hgetall(MISSING)),
    "hmget": Call(lambda c: c.hmget(H, "a", "zz")),
    "hset mapping": Call(lambda c: c.hset(H, mapping={"c": 1, "d": 2.5})),
    "hincrbyfloat": Call(lambda c: c.hincrbyfloat(H, "a", 0.5)),
    "hexists": Call(lambda c: c.hexists(H, "a")),
    "hrandfield": Call(lambda c: c.hrandfield(H, 5, withvalues=True), repr),
    "hscan": Call(lambda c: c.hscan(H)),
    "sscan": Call(lambda c: c.sscan(M), lambda r: (r[0], sorted(r[1]))),
    "zscan": Call(lambda c: c.zscan(Z)),
    "smembers": Call(lambda c: c.smembers(M)),
    "sinter": Call(lambda c: c.sinter(M, M2)),
    "sunionstore": Call(lambda c: c.sunionstore(MISSING, M, M2)),
    "sismember": Call(lambda c: c.sismember(M, "x")),
    "smismember": Call(lambda c: c.smismember(M, ["x", "q"])),
    "smove": Call(lambda c: c.smove(M, M2, "x")),
    "sintercard": Call(lambda c: c.sintercard(2, [M, M2])),
    "zadd": Call(lambda c: c.zadd(Z, {"four": 4, "one": 5})),
    "zadd incr": Call(lambda c: c.zadd(Z, {"one": 1.5}, incr=True)),
    "zincrby": Call(lambda c: c.zincrby(Z, 1, "one")),
    "zscore": Call(lambda c: c.zscore(Z, "two")),
    "zscore nothing": Call(lambda c: c.zscore(Z, "nobody")),
    "zmscore": Call(lambda c: c.zmscore(Z, ["one", "nobody"])),
    "zrange": Call(lambda c: c.zrange(Z, 0, -1)),
    "zrange withscores": Call(lambda c: c.zrange(Z, 0, -1, withscores=True)),
    "zrange cast": Call(lambda c: c.zrange(Z, 0, 0, withscores=True, score_cast_func=int)),
    "zrevrangebyscore": Call(lambda c: c.zrevrangebyscore(Z, 3, 0, withscores=True)),
    "zrank withscore": Call(lambda c: c.zrank(Z, "two", withscore=True)),
    "zpopmin": Call(lambda c: c.zpopmin(Z, 2)),
    "bzpopmax": Call(lambda c: c.bzpopmax([MISSING, Z], 1)),
    "zmpop": Call(lambda c: c.zmpop(2, [MISSING, Z], min=True)),
    "zunion withscores": Call(lambda c: c.zunion([Z, Z2], withscores=True)),
    "zinterstore": Call(lambda c: c.zinterstore(MISSING, {Z: 1, Z2: 2})),
    "zdiff": Call(lambda c: c.zdiff([Z, Z2], withscores=True)),
    "zrandmember": Call(lambda c: c.zrandmember(Z, 9, withscores=True), len),
    "xadd": Call(lambda c: c.xadd(X, {"f": 1}, id="3-1")),
    "xlen": Call(lambda c: c.xlen(X)),
    "xrange": Call(lambda c: c.xrange(X)),
    "xrevrange": Call(lambda c: c.xrevrange(X, count=1)),
    "xread": Call(lambda c: c.xread({X: "0"})),
    "xread nothing": Call(lambda c: c.xread({X: "9"})),
    "xread block": Call(lambda c: c.xread({X: "0"}, count=1, block=10)),
    "xreadgroup": Call(lambda c: c.xreadgroup("group", "me", {X: ">"})),
    "xpending": Call(lambda c: c.xpending(X, "group")),
    "xinfo stream": Call(lambda c: c.xinfo_stream(X)),
    "xinfo groups": Call(lambda c: c.xinfo_groups(X)),
    "xautoclaim": Call(lambda c: c.xautoclaim(X, "group", "me", 0)),
    "xtrim": Call(lambda c: c.xtrim(X, maxlen=1, approximate=False)),
    "geopos": Call(lambda c: c.geopos(G, "Palermo", "Rome")),
    "geodist": Call(lambda c: c.geodist(G, "Palermo", "Catania", "km")),
    "geohash": Call(lambda c: c.geohash(G, "Palermo")),
    "georadius": Call(
        lambda c: c.georadius(G, 15, 37, 200, "km", withdist=True, withcoord=True)
    ),
    "geosearch": Call(
        lambda c: c.geosearch(G, member="Palermo", radius=200, unit="km", withdist=True)
    ),
    "geosearchstore": Call(
        lambda c: c.geosearchstore(MISSING, G, member="Palermo", radius=200, unit="km")
    ),
    "setbit": Call(lambda c: c.setbit(B, 3, 1)),
    "bitcount": Call(lambda c: c.bitcount(B)),
    "bitop": Call(lambda c: c.bitop("NOT", MISSING, B)),
    "bitfield": Call(lambda c: c.bitfield(B).get("u8", 0).set("u8", 0, 9).execute()),
    "pfcount": Call(lambda c: c.pfcount(P, MISSING)),
    "pfmerge": Call(lambda c: c.pfmerge(MISSING, P)),
    "restore": Call(lambda c: c.restore(S, 0, b"garbage")),
    "eval": Call(lambda c: c.eval("return {KEYS[1], ARGV[1], 1, false}", 1, S, "a")),
    "eval number": Call(lambda c: c.eval("return 3.99", 1, S)),
    "eval status": Call(lambda c: c.eval("return redis.status_reply('fine')", 1, S)),
    "eval error": Call(lambda c: c.eval("return redis.error_reply('MY own')", 1, S)),
    "script": Call(lambda c: c.register_script("return {KEYS[1], ARGV[1]}")([S], ["a"])),
    "raw": Call(lambda c: c.execute_command("GET", S)),
    "raw in lower case": Call(lambda c: c.execute_command("hgetall", H)),
    "raw in two words": Call(lambda c: c.execute_command("OBJECT", "ENCODING", N)),
    "raw in one word of two": Call(lambda c: c.execute_command("OBJECT ENCODING", N)),
    "raw in bytes": Call(lambda c: c.execute_command(b"GET", S)),
    "wrong type": Call(lambda c: c.incr(L)),
    "wrong arguments": Call(lambda c: c.execute_command("GET", S, "more")),
    "not encodable": Call(lambda c: c.set(S, None)),
    "not encodable either": Call(lambda c: c.set(S, object())),
    "key not encodable": Call(lambda c: c.get(None)),
    "bytes everywhere": Call(lambda c: c.set(S.encode(), bytearray(b"v"))),
    "numbers": Call(lambda c: c.execute_command("SET", S, 1.5)),
}

KEYLESS: dict[str, Call] = {
    "ping": Call(lambda c: c.ping()),
    "echo": Call(lambda c: c.echo("text")),
    "info": Call(lambda c: c.info(), lambda r: {k: type(v) for k, v in r.items()}),
    "info section": Call(lambda c: c.info("keyspace")),
    "time": Call(lambda c: c.time(), lambda r: [type(part) for part in r]),
    "dbsize": Call(lambda c: c.dbsize()),
    "keys": Call(lambda c: c.keys("*"), sorted),
    "scan": Call(lambda c: c.scan(count=100), lambda r: (r[0], sorted(r[1]))),
    "config get": Call(lambda c: c.config_get("maxmemory*")),
    "config set": Call(lambda c: c.config_set("maxmemory-samples", 6)),
    "client list": Call(lambda c: c.client_list(), lambda r: {type(v) for v in r}),
    "client id": Call(lambda c: c.client_id(), type),
    "client getname": Call(lambda c: c.client_getname()),
    "command count": Call(lambda c: c.command_count()),
    "command getkeys": Call(lambda c: c.command_getkeys("SET", "a", "b")),
    "memory stats": Call(lambda c: c.memory_stats(), lambda r: {type(k) for k in r}),
    "slowlog": Call(lambda c: c.slowlog_get(), type),
    "lastsave": Call(lambda c: c.lastsave(), type),
    "role": Call(lambda c: c.role()),
    "acl whoami": Call(lambda c: c.acl_whoami()),
    "acl getuser": Call(lambda c: c.acl_getuser("default")),
    "script load": Call(lambda c: c.script_load("return 1")),
    "script exists": Call(lambda c: c.script_exists("0" * 40)),
    "function list": Call(lambda c: c.function_list()),
    "pubsub numsub": Call(lambda c: c.pubsub_numsub("a")),
    "publish": Call(lambda c: c.publish("channel", "text")),
    "flushdb": Call(lambda c: c.flushdb()),
    "latency latest": Call(lambda c: c.execute_command("LATENCY", "LATEST")),
    "no such command": Call(lambda c: c.execute_command("NOSUCHCOMMAND")),
}


class Setting(NamedTuple):
    plain: redis.Redis
    cluster: Cluster
    runner: asyncio.Runner


@pytest.fixture(
    scope="module",
    params=[(2, False), (2, True), (3, False), (3, True)],
    ids=["RESP2", "RESP2-decoded", "RESP3", "RESP3-decoded"],
)
def setting(request: pytest.FixtureRequest, shared_nodes: LocalNodes) -> Iterator[Setting]:
    protocol, decode = request.param
    options = {"protocol": protocol, "decode_responses": decode}
    router = SlotRouter if shared_nodes.topology == "static" else None
    cluster = Cluster(
        shared_nodes.hosts,
        router_cls=router,
        pool_options=options,
        topology=shared_nodes.topology,
    )
    host: Any = shared_nodes.hosts[cluster.get_host_for_key(S)]
    plain = redis.Redis(**host, **options)
    with asyncio.Runner() as runner:
        yield Setting(plain, cluster, runner)
    plain.close()
    cluster.close()


def outcome(call: Call, client: Any, settle: Callable[[Any], Any] = lambda v: v) -> Any:
    """Return what a call returns, or what it raises; an error without the node it names."""
    try:
        return call.compare(settle(call.run(client)))
    except redis.DataError:
        return redis.DataError  # whose text is not always the same in redis-py itself
    except (redis.RedisError, TypeError) as error:  # an older redis-py lacks some conversion
        return type(error), str(error).partition(" [node ")[0].removeprefix("MY ")


async def awaited(said: Any) -> Any:
    return await said


def fresh(plain: redis.Redis) -> None:
    plain.execute_command("SCRIPT", "FLUSH")  # type: ignore[no-untyped-call]
    plain.execute_command("EVAL", SET_UP, 1, S, SETUP_AS_JSON)  # type: ignore[no-untyped-call]


def mapped(manager: Any, targeted: bool, call: Call) -> Any:
    """Return the outcome of a call as a promise tells it."""
    client = manager.__enter__()
    if targeted:
        client = client.target_key(S)

    def settle(promise: Any) -> Any:
        promise.done(None, lambda _: None)
        manager.__exit__(None, None, None)
        if promise.reason is not None:
            raise promise.reason
        return promise.value

    return outcome(call, client, settle)


def differences(
    calls: dict[str, Call], plain: redis.Redis, ways: dict[str, Callable[[Call], Any]]
) -> list[tuple[str, str, Any, Any]]:
    """Return the name of each call that differs, in which way, what it says and should."""
    found = []
    for name, call in calls.items():
        fresh(plain)
        expected = outcome(call, plain)
        for way, run in ways.items():
            fresh(plain)
            try:
                said = run(call)
            except Exception as error:
                error.add_note(f"Of {name!r}, by way of {way}")
                raise
            if said != expected:
                found.append((name, way, said, expected))
    return found


def test_a_command_with_keys_says_the_same(setting: Setting) -> None:
    plain, cluster, runner = setting
    ways: dict[str, Callable[[Call], Any]] = {
        "routing": lambda call: outcome(call, cluster.get_routing_client()),
        "aio": lambda call: outcome(call, cluster.aio, lambda said: runner.run(awaited(said))),
        "map": lambda call: mapped(cluster.map(), False, call),
        "fanout": lambda call: mapped(cluster.fanout(), True, call),
    }
    assert differences(KEYED, plain, ways) == []


def test_a_command_without_keys_says_the_same(setting: Setting) -> None:
    plain, cluster, _ = setting
    ways = {"fanout": lambda call: mapped(cluster.fanout(), True, call)}
    assert differences(KEYLESS, plain, ways) == []


@pytest.mark.parametrize("kind", ["hscan_iter", "sscan_iter", "zscan_iter"])
def test_iterators_over_one_key_work(kind: str, setting: Setting) -> None:
    plain, cluster, runner = setting
    fresh(plain)
    key = {"hscan_iter": H, "sscan_iter": M, "zscan_iter": Z}[kind]
    expected = sorted(getattr(plain, kind)(key))
    assert len(expected) > 1
    assert sorted(getattr(cluster.get_routing_client(), kind)(key)) == expected

    async def iterate() -> list[Any]:
        return [item async for item in getattr(cluster.aio, kind)(key)]

    assert sorted(runner.run(iterate())) == expected


def test_nothing_of_the_callers_is_kept(setting: Setting) -> None:
    collect_garbage()

    class Score(float):
        pass

    client = setting.cluster.get_routing_client()
    client.zadd(Z, {"one": 1})
    client.zrange(Z, 0, 0, withscores=True, score_cast_func=Score)
    kept = weakref.ref(Score)
    del Score
    gc.collect()
    assert kept() is None
