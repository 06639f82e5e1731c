"""What `manage.py check --deploy` adds: nodes that others can read, write or stand in for."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
import redis
from django.core import checks
from django.core.checks import CheckMessage, run_checks
from django.test import override_settings

from django_rb.cache.serializers import PickleSerializer
from tests.management.processes import django, environment
from tests.tables import for_each

SECRET = "hunter2"
CACHES = {"default": {"BACKEND": "django_rb.cache.RBCache"}}


@pytest.fixture(autouse=True)
def _no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        pytest.fail("a check connected to something, or asked for an address")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class OwnPickle(PickleSerializer):
    """A site's own."""


def found(
    hosts: Any, *, deploy: bool = True, caches: Any = CACHES, **cluster: Any
) -> list[CheckMessage]:
    """Return what our checks of a deployment say."""
    with override_settings(RB_CLUSTERS={"default": {"HOSTS": hosts, **cluster}}, CACHES=caches):
        messages = run_checks(tags=["security"], include_deployment_checks=deploy)
    ours = [m for m in messages if str(m.id).startswith("django_rb.")]
    assert all(m.level == checks.WARNING and m.hint for m in ours)
    assert SECRET not in str(ours)
    return ours


def ids(*args: Any, **kwargs: Any) -> list[str]:
    return [str(m.id).removeprefix("django_rb.") for m in found(*args, **kwargs)]


def cache(**options: Any) -> dict[str, Any]:
    return {"default": {**CACHES["default"], "OPTIONS": options}}


# W101: pickles.


def test_pickles_on_nodes_that_ask_nobody_who_they_are() -> None:
    hosts = ["redis://10.0.0.1", f"redis://:{SECRET}@10.0.0.2", "rediss://h", "redis://h"]

    (message,) = found(hosts)

    assert message.id == "django_rb.W101"
    assert message.msg.startswith("settings.CACHES['default']: values are stored as pickles")
    assert "neither a password nor TLS on nodes 0 and 3 of the cluster 'def" in message.msg


@for_each(
    "host",
    [
        "unix:///run/valkey.sock",
        "redis://localhost",
        "redis://127.0.0.9",
        "redis://[::1]",
        "rediss://10.0.0.1",
        f"redis://user:{SECRET}@10.0.0.1",
        {"host": "10.0.0.1", "password": SECRET},
        {"host": "10.0.0.1", "credential_provider": redis.UsernamePasswordCredentialProvider()},
        {"host": "10.0.0.1", "ssl": True},
    ],
)
def test_pickles_that_no_stranger_can_write(host: Any) -> None:
    assert ids([host]) == []


@pytest.mark.parametrize("place", ["HOST_DEFAULTS", "POOL_OPTIONS"])
def test_a_password_may_be_set_for_all_nodes(place: str) -> None:
    assert ids(["redis://h"], **{place: {"password": SECRET}}) == []
    assert ids(["redis://h"], **{place: {"password": ""}}) == ["W101"]


@for_each(
    ("options", "expected"),
    [
        ({"SERIALIZER": "json"}, []),
        ({"SERIALIZER": "msgpack"}, []),
        ({"SERIALIZER": "pickle"}, ["W101"]),
        ({"SERIALIZER": OwnPickle}, ["W101"]),
        ({"COMPRESSOR": "zlib"}, ["W101"]),
        ({"SIGNING_KEY": "key" * 11}, []),
    ],
)
def test_only_pickles_are_code(options: dict[str, Any], expected: list[str]) -> None:
    assert ids(["redis://h"], caches=cache(**options)) == expected


def test_a_cluster_without_caches_stores_no_pickles() -> None:
    locmem = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

    assert ids(["redis://h"], caches=locmem) == []


# W102: public addresses.


@pytest.mark.parametrize("host", ["8.8.8.8", "[2001:4860:4860::8888]"])
def test_a_public_address_without_tls(host: str) -> None:
    (message,) = found([f"redis://:{SECRET}@{host}", f"rediss://:{SECRET}@{host}"])

    assert message.id == "django_rb.W102"
    assert message.msg.startswith("settings.RB_CLUSTERS['default']['HOSTS']: a public addr")
    assert " for node 0." in message.msg


@for_each("host", ["10.0.0.1", "192.168.7.1", "[fd00::1]", "100.64.0.1", "h"])
def test_private_addresses_and_names_may_be_without_tls(host: str) -> None:
    assert ids([f"redis://:{SECRET}@{host}"]) == []


# W103: certificates.


@for_each(
    ("options", "name"),
    [
        ({"ssl_cert_reqs": "none"}, "ssl_cert_reqs"),
        ({"ssl_cert_reqs": ssl.CERT_NONE}, "ssl_cert_reqs"),
        ({"ssl_cert_reqs": None}, "ssl_cert_reqs"),
        ({"ssl_options": {"cert_reqs": "none"}}, "ssl_cert_reqs"),
        ({"ssl_check_hostname": False}, "ssl_check_hostname"),
    ],
)
def test_certificates_that_nobody_checks(options: dict[str, Any], name: str) -> None:
    (message,) = found([{"host": "h", "ssl": True, **options}, "rediss://h2"])

    assert message.id == "django_rb.W103"
    assert f"{name!r} is disabled for node 0." in message.msg


def test_certificates_that_nobody_checks_for_all_nodes() -> None:
    (in_a_url,) = found(["rediss://h?ssl_cert_reqs=none", "rediss://h:1?ssl_cert_reqs=none"])
    assert "nodes 0 and 1." in in_a_url.msg

    (in_the_pool,) = found(["rediss://h"], POOL_OPTIONS={"ssl_check_hostname": False})
    assert "'ssl_check_hostname' is disabled for node 0." in in_the_pool.msg


@for_each(
    "options",
    [
        {"host": "h"},
        {"host": "h", "ssl_cert_reqs": "required"},
        {"host": "h", "ssl_check_hostname": True, "ssl_ca_certs": "/ca.pem"},
        {"host": "127.0.0.1", "ssl_cert_reqs": "none"},
    ],
)
def test_certificates_that_are_checked(options: dict[str, Any]) -> None:
    assert ids([{"ssl": True, **options}]) == []


# W104: health.


def test_dead_nodes_that_all_wait_for() -> None:
    (message,) = found(["unix:///s"], HEALTH=None)

    assert message.id == "django_rb.W104"
    assert message.msg.startswith("settings.RB_CLUSTERS['default']['HEALTH'] is None: ")
    assert found(["unix:///s"], HEALTH={"FAILURES": 1}) == []


# All of them.


def test_nothing_of_it_is_said_on_a_developers_machine() -> None:
    hosts = ["redis://8.8.8.8", "rediss://h?ssl_cert_reqs=none"]

    assert sorted(ids(hosts)) == ["W101", "W102", "W103"]
    assert ids(hosts, deploy=False) == []


def test_manage_py_check_deploy() -> None:
    env = environment("tests.deployed")

    plain = django("check", env=env)
    deployed = django("check", "--deploy", env=env)
    strict = django("check", "--deploy", "--fail-level", "WARNING", env=env)

    assert "django_rb" not in plain.stderr
    assert "(django_rb.W101) settings.CACHES['default']: values are" in deployed.stderr
    assert "HINT: Set a password (settings.RB_CLUSTERS['default']" in deployed.stderr
    assert [plain.returncode, deployed.returncode, strict.returncode] == [0, 0, 1]
    assert SECRET not in deployed.stderr
