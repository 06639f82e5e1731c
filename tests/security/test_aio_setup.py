"""How connections of event loops are set up, where redis-py's asyncio side is another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from django_rb.engine.loops import handshake as aio_handshake
from tests.transports import awaited

from .conftest import Open
from .guards import Guards

LOGIN = ("app", "pass")


class Waiting(redis.CredentialProvider):
    """Has an asynchronous way of its own."""

    def get_credentials(self) -> Any:
        raise AssertionError("This way would block the loop.")

    async def get_credentials_async(self) -> Any:
        await asyncio.sleep(0)
        return LOGIN


class Plain:
    """Has what is asked for, and inherits nothing."""

    def get_credentials(self) -> Any:
        return LOGIN


class Inherited(redis.CredentialProvider):
    """Knows nothing of loops."""

    def get_credentials(self) -> Any:
        return LOGIN


@pytest.mark.parametrize(
    "provider", [Waiting(), Plain(), Inherited()], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_provider_is_asked_in_its_own_way(
    provider: Any, protocol: int, guards: Guards, open_cluster: Open,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    guards.set_user("app", ">pass", "~*", "&*", "+@all")
    guards.close_the_door()
    options = {"credential_provider": provider, "protocol": protocol, "client_name": "shop"}
    cluster = open_cluster(guards.hosts, pool_options=options)
    with awaited():
        assert cluster.call_nodes("ACL", "WHOAMI")[0] == {0: b"app", 1: b"app"}
        assert cluster.call_nodes("CLIENT", "GETNAME")[0] == {0: b"shop", 1: b"shop"}
    assert "Please override" not in caplog.text  # redis-py's advice to inheritors


@pytest.mark.parametrize("kind", [Retry, redis.asyncio.retry.Retry])
def test_a_retry_is_taken_as_the_asyncio_side_needs_it(kind: Any) -> None:
    given = kind(NoBackoff(), 2)
    retry = aio_handshake._awaited(given)
    tried = []

    async def always_fails() -> None:
        tried.append(1)
        raise redis.ConnectionError

    async def pass_over(*_: object) -> None:
        """What redis-py does between two tries."""

    async def main() -> None:
        with pytest.raises(redis.ConnectionError):
            await retry.call_with_retry(always_fails, pass_over)

    asyncio.run(main())
    assert len(tried) == 3
    assert isinstance(retry, redis.asyncio.retry.Retry)
