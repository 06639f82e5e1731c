"""What type checkers know of the clients of map() and all(); ``make lint`` checks it.

An unused ``type: ignore`` is an error, too.
"""

from typing import assert_type

from django_rb.engine import Cluster, Promise


async def on_a_loop(cluster: Cluster) -> int:
    async with cluster.amap() as client:
        return await client.incr("hits")


def in_a_thread(cluster: Cluster) -> int:
    with cluster.map() as client:
        hits = client.incr("hits")
        assert_type(hits, Promise[int])
        client.set("key", 1.5, ex=60, nx=True)
        client.gte("key")  # type: ignore[attr-defined]
        client.incr()  # type: ignore[call-arg]
        client.pipeline()  # type: ignore[attr-defined]
        _ = hits + 1  # type: ignore[operator]
    with cluster.all() as everywhere:
        sizes = everywhere.dbsize()
        assert_type(sizes, Promise[dict[int, int]])
        plain = everywhere.target_key("key").strlen("key")
        assert_type(plain, Promise[int])
        wrong: Promise[int] = everywhere.dbsize()  # type: ignore[assignment]
    return hits.value + sum(sizes.value.values()) + plain.value + wrong.value
