"""fork() after the cache was used: prefork servers, multiprocessing, Celery."""

from __future__ import annotations

from django_rb.testing import LocalNodes
from tests.faults.sharing.programs import run_program


def test_parent_and_child_have_connections_of_their_own(nodes: LocalNodes) -> None:
    found = run_program("forks", "connections_apart", nodes.hosts)
    assert len(found["parent"]) == len(found["child"]) == len(nodes.hosts)
    assert not set(found["parent"]) & set(found["child"])
    assert found["parent afterwards"] == found["parent"]


def test_children_work_and_the_parent_goes_on(nodes: LocalNodes) -> None:
    programs = [
        "under_load",
        "with_locks_held",
        "multiprocessing_from_threads",
        "worker_pool",
        "prefork_server",
        "in_a_signal_handler",  # the last, as its handler stays
    ]
    found = run_program("forks", ",".join(programs), nodes.hosts)
    assert list(found) == programs
    assert all(children > 2 for children in found.values()), found


def test_a_child_keeps_none_of_the_parents_connections(nodes: LocalNodes) -> None:
    assert run_program("forks", "descriptors_of_child", nodes.hosts) == {
        "parent": 4,
        "child": 0,
    }
