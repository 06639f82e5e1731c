"""The stub that tells type checkers of the clients of map() and fanout().

`promised_types` shows what they know from it.
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
