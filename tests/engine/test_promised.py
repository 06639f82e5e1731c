"""The stub for type checkers of the clients of map(), fanout() and all().

`promised_types` is checked against it.
"""

from __future__ import annotations

import pytest
import redis

from scripts import make_promised_commands


def test_the_stub_is_what_redis_py_has() -> None:
    stub = make_promised_commands.STUB.read_text()
    if f"from redis-py {redis.__version__}." not in stub:
        pytest.skip("the stub was made from another version of redis-py")
    assert stub == make_promised_commands.make()
