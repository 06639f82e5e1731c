"""The pytest plugin: nodes that only tests use, fixtures, and a marker.

It does nothing, and imports nothing from Django, unless pytest-django has configured settings
with RB_CLUSTERS. `-p no:django_rb` disables it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from .discovery import NodesError

if TYPE_CHECKING:
    from ..engine import Cluster
    from .capture import AssertingContext, CaptureCommandsContext
    from .nodes import LocalNodes
    from .stand_ins import StandIns

MARKER = "rb_no_flush"


@pytest.hookimpl(trylast=True)  # after a conftest.py that configures Django
def pytest_configure(config: pytest.Config) -> None:
    """Replace the nodes in the settings by nodes for tests. None is started yet."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}: the nodes are not flushed before the test. On a class or a module: they "
        "are flushed only before the first of its tests.",
    )
    if config.pluginmanager.hasplugin("django") and _has_clusters():
        from .stand_ins import StandIns  # noqa: PLC0415

        with _stopping_the_run():
            stand_ins = StandIns()
        stand_ins.install()
        config.pluginmanager.register(_Run(stand_ins), "django_rb run")


def _has_clusters() -> bool:
    if "django.conf" not in sys.modules:
        return False
    from django.conf import settings  # noqa: PLC0415

    return settings.configured and bool(getattr(settings, "RB_CLUSTERS", None))


class _Run:
    """The hooks of a test run with clusters."""

    def __init__(self, stand_ins: StandIns) -> None:
        self._stand_ins = stand_ins
        self._previous: list[Any] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        # The controller of xdist's workers has already checked it.
        if not (session.config.option.collectonly or hasattr(session.config, "workerinput")):
            with _stopping_the_run():
                self._stand_ins.check_server()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: Collection[object]) -> None:
        if len(specs) > 1:
            with _stopping_the_run():
                self._stand_ins.check_parallel()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Flush before a class or module that is not flushed between its tests."""
        marked = [node for node, _ in item.iter_markers_with_node(MARKER)]
        if marked and marked[-1] is not item and marked[-1] not in self._previous:
            self._stand_ins.flush_used()
        self._previous = item.listchain()

    @pytest.fixture(autouse=True)
    def _rb_flush(self, request: pytest.FixtureRequest) -> None:
        """Flush nodes that were used before this test: by other tests, or by wider fixtures."""
        wants_none = request.node.get_closest_marker(MARKER) is not None
        if not (wants_none or getattr(request.cls, MARKER, False)):
            self._stand_ins.flush_used()

    def pytest_unconfigure(self) -> None:
        """Stop the nodes."""
        self._stand_ins.uninstall()


@contextmanager
def _stopping_the_run() -> Iterator[None]:
    """Turn errors into an exit of pytest with their text."""
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415

    try:
        yield
    except (ImproperlyConfigured, NodesError) as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture
def rb_alias() -> str:
    """The alias of the cluster that the other fixtures use; override it to change that."""
    return "default"


@pytest.fixture
def _rb_stand_ins() -> StandIns:
    """The stand-ins for the site's own nodes, which tests may not use."""
    from .stand_ins import get_stand_ins  # noqa: PLC0415

    return get_stand_ins()


@pytest.fixture
def rb_cluster(rb_alias: str, _rb_stand_ins: StandIns) -> Cluster:
    """The cluster, on nodes that only tests use."""
    from ..registry import clusters  # noqa: PLC0415

    return clusters[rb_alias]


@pytest.fixture
def rb_nodes(rb_alias: str, _rb_stand_ins: StandIns) -> LocalNodes:
    """The local nodes of the cluster, to kill(), pause(), resume() and restart() them.

    For the next test, all of them run again and are empty.
    """
    return _rb_stand_ins[rb_alias].lend_nodes()


@pytest.fixture
def rb_capture(rb_alias: str, _rb_stand_ins: StandIns) -> Callable[..., CaptureCommandsContext]:
    """A context manager that captures commands: ``with rb_capture() as captured:``."""
    from .capture import CaptureCommandsContext  # noqa: PLC0415

    def capture(cluster: Cluster | str = rb_alias) -> CaptureCommandsContext:
        return CaptureCommandsContext(cluster)

    return capture


@pytest.fixture
def rb_assert_num_batches(
    rb_alias: str, _rb_stand_ins: StandIns
) -> Callable[..., AssertingContext]:
    """A context manager that asserts the batches: ``with rb_assert_num_batches(1):``."""
    from .capture import AssertingContext  # noqa: PLC0415

    def expect(num: int, cluster: Cluster | str = rb_alias) -> AssertingContext:
        return AssertingContext(cluster, batches=num)

    return expect


@pytest.fixture
def rb_assert_nodes_touched(
    rb_alias: str, _rb_stand_ins: StandIns
) -> Callable[..., AssertingContext]:
    """A context manager that asserts how many nodes, or which host ids, are sent commands."""
    from .capture import AssertingContext  # noqa: PLC0415

    def expect(
        nodes: int | Collection[int], cluster: Cluster | str = rb_alias
    ) -> AssertingContext:
        return AssertingContext(cluster, nodes=nodes)

    return expect
