"""The pytest plugin: nodes for the tests alone, fixtures, and a marker.

It does nothing, and imports nothing of Django's, unless pytest-django has configured
settings with RB_CLUSTERS. `-p no:django_rb` switches it off.
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
    """Put nodes for tests in the place of those in the settings. None is started yet."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}: the nodes are not flushed before the test. On a class or a module: they "
        "are flushed before the first of its tests, and not between them.",
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
    """The hooks of a run that has clusters."""

    def __init__(self, stand_ins: StandIns) -> None:
        self._stand_ins = stand_ins
        self._previous: list[Any] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        # xdist's workers have a controller that has looked already.
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
        """Flush before a class or module that is not to be flushed later."""
        marked = [node for node, _ in item.iter_markers_with_node(MARKER)]
        if marked and marked[-1] is not item and marked[-1] not in self._previous:
            self._stand_ins.flush_used()
        self._previous = item.listchain()

    @pytest.fixture(autouse=True)
    def _rb_flush(self, request: pytest.FixtureRequest) -> None:
        """Flush what was used before this test: by other tests, or by wider fixtures."""
        wants_none = request.node.get_closest_marker(MARKER) is not None
        if not (wants_none or getattr(request.cls, MARKER, False)):
            self._stand_ins.flush_used()

    def pytest_unconfigure(self) -> None:
        """End the nodes."""
        self._stand_ins.uninstall()


@contextmanager
def _stopping_the_run() -> Iterator[None]:
    """Let errors end pytest with their text."""
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415

    try:
        yield
    except (ImproperlyConfigured, NodesError) as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture
def rb_alias() -> str:
    """The alias of the cluster that the other fixtures are about; to be overridden."""
    return "default"


@pytest.fixture
def _rb_stand_ins() -> StandIns:
    """What stands in for the site's own nodes; refuses to run on those."""
    from .stand_ins import get_stand_ins  # noqa: PLC0415

    return get_stand_ins()


@pytest.fixture
def rb_cluster(rb_alias: str, _rb_stand_ins: StandIns) -> Cluster:
    """The cluster, on nodes that are for tests alone."""
    from ..registry import clusters  # noqa: PLC0415

    return clusters[rb_alias]


@pytest.fixture
def rb_nodes(rb_alias: str, _rb_stand_ins: StandIns) -> LocalNodes:
    """The local nodes of the cluster: kill(), pause(), resume() and restart() them.

    They are all well again, and empty, for the next test.
    """
    return _rb_stand_ins[rb_alias].lend_nodes()


@pytest.fixture
def rb_capture(rb_alias: str, _rb_stand_ins: StandIns) -> Callable[..., CaptureCommandsContext]:
    """A context manager that captures what is sent: ``with rb_capture() as captured:``."""
    from .capture import CaptureCommandsContext  # noqa: PLC0415

    def capture(cluster: Cluster | str = rb_alias) -> CaptureCommandsContext:
        return CaptureCommandsContext(cluster)

    return capture


@pytest.fixture
def rb_assert_num_batches(
    rb_alias: str, _rb_stand_ins: StandIns
) -> Callable[..., AssertingContext]:
    """A context manager that expects so many batches: ``with rb_assert_num_batches(1):``."""
    from .capture import AssertingContext  # noqa: PLC0415

    def expect(num: int, cluster: Cluster | str = rb_alias) -> AssertingContext:
        return AssertingContext(cluster, batches=num)

    return expect


@pytest.fixture
def rb_assert_nodes_touched(
    rb_alias: str, _rb_stand_ins: StandIns
) -> Callable[..., AssertingContext]:
    """A context manager that expects nodes, by number or by host ids, to be sent something."""
    from .capture import AssertingContext  # noqa: PLC0415

    def expect(
        nodes: int | Collection[int], cluster: Cluster | str = rb_alias
    ) -> AssertingContext:
        return AssertingContext(cluster, nodes=nodes)

    return expect
