"""Users, passwords and what they may do, on servers that check."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from django.test import override_settings

from django_rb import clusters, conf
from django_rb.cache import RBCache
from django_rb.engine import failures_of
from django_rb.testing import LocalNodes
from tests.helpers import make_cache
from tests.tables import for_each

from .conftest import Open
from .guards import Guards

PASSWORD = "p@ss:w/o?r#d[] %41é\u2603\"'\\"
pytestmark = pytest.mark.usefixtures("transport")

ROOT = Path(__file__).resolve().parents[2]

CREDENTIALS: dict[str, dict[str, Any]] = {
    "wrong password": {"username": "app", "password": "wrong"},
    "wrong user": {"username": "nobody", "password": PASSWORD},
    "password of another user": {"password": PASSWORD},
    "none": {},
}
SAID = {
    "wrong password": "invalid username-password pair",
    "wrong user": "invalid username-password pair",
    "password of another user": "invalid username-password pair",
    "none": "[Aa]uthenticat",
}


@pytest.fixture
def app(guards: Guards) -> Guards:
    """Nodes for the user "app" and nobody else."""
    guards.set_user("app", f">{PASSWORD}", "~*", "&*", "+@all")
    guards.close_the_door()
    return guards


def settings_for(hosts: Any, **config: Any) -> Any:
    return override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts, **config}})


def works(cluster: Any) -> None:
    with cluster.map() as client:
        writes = [client.set(f"key:{n}", n) for n in range(20)]
    assert all(write.value for write in writes)
    for host_id in cluster.hosts:
        assert cluster.get_local_client(host_id).ping() is True


@for_each("form", ["options", "defaults", "pool", "url", "query"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_user_logs_in(form: str, protocol: int, app: Guards, open_cluster: Open) -> None:
    login = {"username": "app", "password": PASSWORD}
    options: dict[str, Any] = {"pool_options": {"protocol": protocol}}
    hosts: Any = app.hosts
    if form == "options":
        hosts = app.hosts_with(**login)
    elif form == "defaults":
        options["host_defaults"] = login
    elif form == "pool":
        options["pool_options"] |= login
    elif form == "url":
        user = f"app:{quote(PASSWORD, safe='')}"
        hosts = [f"redis://{user}@127.0.0.1:{h['port']}/0" for h in app.hosts.values()]
    else:  # here redis-py before 8 decodes twice: a % would need to be written as %2525
        app.set_user("app", ">s p&c=?/#@", "~*", "&*", "+@all")
        query = f"username=app&password={quote('s p&c=?/#@', safe='')}"
        hosts = [f"redis://127.0.0.1:{h['port']}/0?{query}" for h in app.hosts.values()]
    cluster = open_cluster(hosts, **options)

    works(cluster)
    replies, _ = cluster.call_nodes("ACL", "WHOAMI")
    assert replies == {0: b"app", 1: b"app"}


def test_a_password_without_a_user_is_the_default_users(
    guards: Guards, open_cluster: Open
) -> None:
    guards.require_password(PASSWORD)

    works(open_cluster(guards.hosts, host_defaults={"password": PASSWORD}))
    url = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1"
    works(open_cluster([f"{url}:{host['port']}" for host in guards.hosts.values()]))


@for_each("name", CREDENTIALS)
@pytest.mark.parametrize("protocol", [2, 3])
def test_who_may_not_come_in_is_told_by_which_node(
    name: str, protocol: int, app: Guards, open_cluster: Open
) -> None:
    pool = {"protocol": protocol}
    cluster = open_cluster(app.hosts, host_defaults=CREDENTIALS[name], pool_options=pool)
    replies, failures = cluster.call_nodes("PING")

    assert replies == {}
    for failure in failures:
        assert isinstance(failure.error, redis.AuthenticationError)
        assert re.search(SAID[name], str(failure.error))
        assert str(failure.error).endswith(f"[node {failure.host_id}, {failure.address}]")
    assert [failure.host_id for failure in failures] == [0, 1]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_cache_that_may_not_come_in_raises_or_misses(
    name: str, app: Guards, caplog: pytest.LogCaptureFixture
) -> None:
    with settings_for(app.hosts, HOST_DEFAULTS=CREDENTIALS[name]):
        with pytest.raises(redis.AuthenticationError, match=SAID[name]) as caught:
            make_cache().get_many([f"key:{n}" for n in range(20)])
        assert {failure.host_id for failure in failures_of(caught.value)} == {0, 1}

    with settings_for(app.hosts, HOST_DEFAULTS=CREDENTIALS[name]):
        cache = make_cache(OPTIONS={"ON_NODE_ERROR": "miss"})
        with caplog.at_level(logging.WARNING, "django_rb.cache"):
            assert cache.set_many({"a": 1, "b": 2, "c": 3}) == ["a", "b", "c"]
        assert cache.get("a", "default") == "default"
        assert re.search(SAID[name], caplog.text)


def test_one_node_with_another_password_is_one_node(app: Guards, open_cluster: Open) -> None:
    right = {"username": "app", "password": PASSWORD}
    hosts = {
        0: {**app.hosts[0], **right},
        1: {**app.hosts[1], **right, "password": "wrong"},
    }
    cluster = open_cluster(hosts)
    with pytest.raises(redis.AuthenticationError) as caught, cluster.map() as client:
        promises = {n: client.set(f"key:{n}", n) for n in range(50)}

    assert [failure.host_id for failure in failures_of(caught.value)] == [1]
    written = {n for n, promise in promises.items() if promise.is_resolved}
    assert written == {n for n in promises if cluster.get_host_for_key(f"key:{n}") == 0}
    assert written


def test_a_user_who_is_let_in_later_is_served(app: Guards, open_cluster: Open) -> None:
    """A refusal is not remembered by the connection that could not log in."""
    cluster = open_cluster(app.hosts, host_defaults={"username": "late", "password": PASSWORD})
    assert cluster.call_nodes("PING")[0] == {}
    app.set_user("late", f">{PASSWORD}", "~*", "+@all")
    works(cluster)


def test_the_keys_and_commands_a_user_may_not_use_are_refused(
    app: Guards, open_cluster: Open
) -> None:
    app.set_user("app", f">{PASSWORD}", "~mine:*", "+get", "+set")
    cluster = open_cluster(app.hosts, host_defaults={"username": "app", "password": PASSWORD})
    mapping = cluster.map()
    with pytest.raises(redis.exceptions.NoPermissionError) as caught, mapping as client:  # noqa: PT012
        mine = client.set("mine:1", 1)
        others = client.get("others:1")
        command = client.incr("mine:1")

    assert mine.value is True
    for refused in (others, command):
        error = refused.reason
        assert isinstance(error, redis.exceptions.NoPermissionError)
        assert re.search(r"permission.*\[node [01], 127\.0\.0\.1:\d+/0\]$", str(error))
    assert {key for failure in failures_of(caught.value) for key in failure.keys} == {
        "others:1",
        "mine:1",
    }


def test_a_cache_of_a_user_with_too_few_rights_raises_or_misses(app: Guards) -> None:
    app.set_user("app", f">{PASSWORD}", "~*", "+mget", "+get")
    login = {"username": "app", "password": PASSWORD}
    with settings_for(app.hosts, HOST_DEFAULTS=login):
        with pytest.raises(redis.exceptions.NoPermissionError, match="permission"):
            make_cache().set("a", 1)
        cache = make_cache(OPTIONS={"ON_NODE_ERROR": "miss"})
        assert cache.set_many({"a": 1, "b": 2}) == ["a", "b"]
        assert cache.get_many(["a", "b"]) == {}  # this it may
        assert cache.clear() is False


def rules_in_the_docs() -> list[str]:
    """Return the rules that docs/security.md gives a cache's user."""
    text = (ROOT / "docs/security.md").read_text()
    found = re.search(r"^user shop on (.*?)\n```", text, re.DOTALL | re.MULTILINE)
    assert found
    return found[1].replace("\\\n", " ").split()


def test_the_rights_in_the_docs_suffice_for_the_whole_cache(guards: Guards) -> None:
    rules = rules_in_the_docs()
    password = next(rule.removeprefix(">") for rule in rules if rule.startswith(">"))
    guards.set_user("shop", *rules)
    guards.close_the_door()
    login = {"username": "shop", "password": password, "db": 1}
    with settings_for(guards.hosts, HOST_DEFAULTS=login):
        use_everything(make_cache(KEY_PREFIX="shop"))
        with pytest.raises(redis.exceptions.NoPermissionError):
            make_cache(KEY_PREFIX="other").get("key")
        for command in (
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("DEBUG", "HELP"),
        ):
            _, failures = clusters["default"].call_nodes(*command)
            assert [type(f.error) for f in failures] == [redis.exceptions.NoPermissionError] * 2
    # Beside what was refused on purpose, only what redis-py asks and can do without.
    refused = guards.refused()
    assert refused <= {
        "client|setinfo", "client|capa", "keys", "flushall", "config|get", "debug",
        "debug|help", "other:1:key",
    }  # fmt: skip


def test_the_rights_in_the_docs_suffice_for_a_cache_that_is_warmed(
    guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_rb.cache.warming.tally.STORE_SECONDS", -1.0)
    rules = rules_in_the_docs()
    text = (ROOT / "docs/security.md").read_text()
    further = re.search(r"needs `(.*?)` besides; and in the old layout\s`(.*?)`", text)
    assert further
    guards.set_user("shop", *rules, *further[1].split(), *further[2].split())
    guards.close_the_door()
    password = next(rule.removeprefix(">") for rule in rules if rule.startswith(">"))
    login = {"username": "shop", "password": password}
    layouts = {
        alias: {"HOSTS": {0: guards.hosts[host_id]}, "HOST_DEFAULTS": {**login, "db": 1}}
        for alias, host_id in (("old", 0), ("default", 1))
    }
    with override_settings(RB_CLUSTERS=layouts):
        cache = make_cache(KEY_PREFIX="shop", OPTIONS={"WARM_FROM": "old", "DEADLINE": 2.0})
        make_cache("old", KEY_PREFIX="shop").set("old", 1, 100)
        assert cache.get("old") == 1
        assert cache.warm_share() == (1, 1)
        use_everything(cache)  # it empties the databases in the end
    assert guards.refused() <= {"client|setinfo", "client|capa"}


@pytest.mark.only_sync
def test_no_right_in_the_docs_is_one_too_many(guards: Guards) -> None:
    """Without any one of the commands, something of the cache is refused."""
    rules = rules_in_the_docs()
    guards.close_the_door()
    for left_out in [rule for rule in rules if rule.startswith("+")]:
        guards.set_user("shop", *rules, left_out.replace("+", "-"))
        for host_id in guards.hosts:
            guards.servers.ask(host_id, "SCRIPT", "FLUSH")
            guards.servers.ask(host_id, "FLUSHALL")
        password = next(rule.removeprefix(">") for rule in rules if rule.startswith(">"))
        login = {"username": "shop", "password": password, "db": 1}
        with settings_for(guards.hosts, HOST_DEFAULTS=login):
            cache = make_cache(KEY_PREFIX="shop")
            try:
                use_everything(cache)
            except (redis.RedisError, AssertionError):
                continue
            raise AssertionError(f"{left_out} is not needed")


OF_TAILS = {"time", "strlen", "setrange"}


@pytest.mark.parametrize(
    ("methods", "rights"),
    [
        ({"clear"}, {"flushdb"}),
        ({"keys"}, {"scan"}),
        ({"incr"}, {"incrby"}),
        ({"compute"}, OF_TAILS),
        ({"compute", "lock"}, {*OF_TAILS, "del"}),
        ({"expire"}, {"pexpireat", "persist"}),
        (
            {"compute", "expire", "incr", "lock"},
            {*OF_TAILS, "del", "incrby", "pexpireat", "persist", "pexpire"}
            | {"eval", "evalsha", "getrange"},
        ),
        (set(), {"select"}),
    ],
)
def test_the_rights_that_the_docs_say_may_be_left_out(
    methods: set[str], rights: set[str], guards: Guards
) -> None:
    rules = rules_in_the_docs()
    kept = [rule for rule in rules if rule.removeprefix("+") not in rights]
    assert len(kept) == len(rules) - len(rights)
    guards.set_user("shop", *kept)
    guards.close_the_door()
    password = next(rule.removeprefix(">") for rule in rules if rule.startswith(">"))
    login = {"username": "shop", "password": password, "db": 1 if methods else 0}
    with settings_for(guards.hosts, HOST_DEFAULTS=login):
        use_everything(make_cache(KEY_PREFIX="shop"), without=methods)


def use_everything(cache: RBCache, without: Collection[str] = ()) -> None:
    """Call every method of a cache that sends something, but for those of some kinds."""
    data = {f"key:{n}": n for n in range(50)}
    cache.set("one", [1])
    cache.set("short", 1, 0.5)
    assert cache.get("one") == [1]
    assert cache.add("one", 2) is False
    assert cache.add("two", 2) is True
    assert cache.set_many(data) == []
    assert cache.get_many(data) == data
    assert cache.has_key("one")
    assert cache.get_or_set("three", 3) == 3
    assert cache.incr_version("two") == 2
    assert cache.decr_version("two", version=2) == 1
    if "incr" not in without:
        assert cache.incr("two") == 3
        assert cache.decr("two") == 2
    if "expire" not in without:
        assert cache.touch("one", 50)
        assert cache.touch("one", None)
        assert cache.expire("one", 50)
        assert cache.pexpire("one", 50_000)
        assert 0 < (cache.pttl("one") or 0) <= 50_000
        assert 0 < (cache.ttl("one") or 0) <= 50
        assert cache.expire_at("one", 4_000_000_000)
        assert cache.persist("one")
    if "compute" not in without:
        assert cache.get_or_set("four", lambda: 4, 50, stale=50) == 4
        assert cache.refresh("four", lambda: 5, 50, stale=50) == 5
        assert cache.get_or_set_many(["four"], dict.fromkeys, 50) == {"four": 5}
    if not {"compute", "expire"} & set(without):
        assert cache.touch("four", 60)
        assert cache.ttl("four") == 60
    if "keys" not in without:
        assert len(cache.keys("key:*")) == 50
        assert len(list(cache.iter_keys("key:*"))) >= 50
        assert cache.delete_pattern("key:*") == 50
    if "lock" not in without:
        with cache.lock("lock", timeout=50) as lock:
            assert lock.owned()
            lock.extend(10)
            lock.reacquire()
    assert cache.delete("one")
    cache.delete_many(["two", "three"])
    if "clear" not in without:
        assert cache.clear() is True
    cache.close()


class Provider(redis.CredentialProvider):
    """Says what it is set to say, as a secret store would."""

    def __init__(self, *credentials: str) -> None:
        self.credentials = credentials
        self.asked = 0
        self.error: Exception | None = None

    def get_credentials(self) -> Any:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.credentials


@pytest.mark.parametrize("where", ["HOSTS", "HOST_DEFAULTS", "POOL_OPTIONS"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_credential_provider_logs_in(where: str, protocol: int, app: Guards) -> None:
    provider = Provider("app", PASSWORD)
    options = {"credential_provider": provider}
    config: dict[str, Any] = {"POOL_OPTIONS": {"protocol": protocol}}
    hosts = app.hosts_with(**options) if where == "HOSTS" else app.hosts
    if where != "HOSTS":
        config[where] = {**config.get(where, {}), **options}
    with settings_for(hosts, **config):
        works(clusters["default"])
        assert provider.asked >= 2
        cache = make_cache()
        cache.set("key", 1)
        assert cache.get("key") == 1


def test_a_provider_may_give_a_password_alone(guards: Guards, open_cluster: Open) -> None:
    guards.require_password(PASSWORD)
    works(open_cluster(guards.hosts, host_defaults={"credential_provider": Provider(PASSWORD)}))


@for_each(
    ("options", "text"),
    [
        ({"credential_provider": Provider}, "Provider is a class. Give an instance"),
        ({"credential_provider": PASSWORD}, "A str has no method get_credentials()"),
        ({"credential_provider": Provider("x"), "password": "x"}, "not both"),
        ({"credential_provider": Provider("x"), "username": "x"}, "not both"),
    ],
)
@pytest.mark.only_sync
@pytest.mark.parametrize("where", ["HOSTS", "HOST_DEFAULTS", "POOL_OPTIONS"])
def test_a_login_that_cannot_be_is_a_mistake(
    where: str, options: dict[str, Any], text: str
) -> None:
    config: dict[str, Any] = {"HOSTS": [{}]}
    config[where] = [options] if where == "HOSTS" else options
    with override_settings(RB_CLUSTERS={"default": config}):
        [mistake] = conf.find_all_mistakes()
    assert text in str(mistake)
    assert where in str(mistake)
    assert "['credential_provider']" in str(mistake)
    assert PASSWORD not in str(mistake)


def test_the_nearest_way_to_log_in_wins(app: Guards, open_cluster: Open) -> None:
    right, wrong = Provider("app", PASSWORD), Provider("app", "wrong")
    login = {"username": "app", "password": PASSWORD}
    for cluster in (
        open_cluster(app.hosts_with(**login), host_defaults={"credential_provider": wrong}),
        open_cluster(app.hosts_with(**login), pool_options={"credential_provider": wrong}),
        open_cluster(
            app.hosts_with(credential_provider=right), host_defaults={"password": "x"}
        ),
        open_cluster(app.hosts_with(credential_provider=right), pool_options={"password": "x"}),
        open_cluster(
            app.hosts, host_defaults={"username": "app"}, pool_options={"password": PASSWORD}
        ),
    ):
        works(cluster)


def test_new_connections_get_the_new_password(app: Guards, open_cluster: Open) -> None:
    provider = Provider("app", PASSWORD)
    cluster = open_cluster(app.hosts, host_defaults={"credential_provider": provider})
    works(cluster)

    app.set_user("app", ">rotated", "~*", "&*", "+@all")
    provider.credentials = ("app", "rotated")
    asked = provider.asked
    assert cluster.call_nodes("PING")[0] == {0: b"PONG", 1: b"PONG"}  # who is in stays in
    assert provider.asked == asked
    cluster.close()
    assert cluster.call_nodes("PING")[0] == {0: b"PONG", 1: b"PONG"}
    assert provider.asked == asked + 2

    app.hang_up("app")
    works(cluster)


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("no vault"),
        ConnectionRefusedError("no vault"),
        KeyError("no vault"),
        RuntimeError("no vault"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_provider_that_raises_is_a_failure_of_its_node(
    error: Exception, app: Guards, open_cluster: Open
) -> None:
    provider = Provider("app", PASSWORD)
    provider.error = error
    hosts = {
        0: {**app.hosts[0], "credential_provider": provider},
        1: {**app.hosts[1], "username": "app", "password": PASSWORD},
    }
    cluster = open_cluster(hosts)
    replies, [failure] = cluster.call_nodes("PING")
    assert replies == {1: b"PONG"}
    assert failure.host_id == 0
    assert isinstance(failure.error, redis.ConnectionError)
    assert re.search(r"no vault.*\[node 0, 127\.0\.0\.1:\d+/0\]$", str(failure.error))
    assert error in (failure.error, failure.error.__cause__)
    where = "".join(traceback.format_exception(failure.error))
    assert "in get_credentials" in where  # the way into the provider is still there

    provider.error = None
    works(cluster)

    provider.error = error
    with settings_for(hosts):
        cache = make_cache(OPTIONS={"ON_NODE_ERROR": "miss"})
        failed = cache.set_many({f"key:{n}": n for n in range(50)})
        assert failed
        assert len(failed) < 50


def test_a_unix_socket_takes_passwords_and_database_numbers(open_cluster: Open) -> None:
    with LocalNodes(2, unix_sockets=True, options={"requirepass": "socket-pass"}) as nodes:
        paths = [host["unix_socket_path"] for host in nodes.hosts.values()]
        for hosts in (
            {
                i: {**host, "password": "socket-pass", "db": 3}
                for i, host in nodes.hosts.items()
            },
            [f"unix://:socket-pass@{path}?db=3" for path in paths],
            [f"unix://{path}?db=3&password=socket-pass" for path in paths],
        ):
            cluster = open_cluster(hosts)
            works(cluster)
            keyspaces, _ = cluster.call_nodes("INFO", "keyspace")
            assert all(b"db3:" in told and b"db0:" not in told for told in keyspaces.values())
            assert repr(cluster) == f"<Cluster 0: unix:{paths[0]}/3, 1: unix:{paths[1]}/3>"

        for login, said in (({}, "Authentication required"), ({"password": "x"}, "invalid")):
            _, failures = open_cluster(nodes.hosts, host_defaults=login).call_nodes("PING")
            assert [failure.host_id for failure in failures] == [0, 1]
            for failure in failures:
                assert isinstance(failure.error, redis.AuthenticationError)
                assert said in str(failure.error)
                assert f"[node {failure.host_id}, unix:{paths[failure.host_id]}/0]" in str(
                    failure.error
                )


def test_a_unix_socket_without_a_password(open_cluster: Open) -> None:
    with LocalNodes(2, unix_sockets=True) as nodes:
        works(open_cluster(nodes.hosts))
        with settings_for(nodes.hosts, HOST_DEFAULTS={"db": 2}):
            cache = make_cache()
            assert cache.set_many({"a": 1, "b": 2, "c": 3}) == []
            assert cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 2, "c": 3}
