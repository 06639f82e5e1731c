"""Test cases with access to the nodes."""

# ruff: noqa: N802 (unittest's style of names)

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, overload

from django.test import SimpleTestCase, TestCase

from ..engine import Cluster
from ..registry import clusters
from .capture import AssertingContext, CaptureCommandsContext
from .nodes import LocalNodes
from .stand_ins import get_stand_ins

if TYPE_CHECKING:
    _Case = SimpleTestCase
else:
    _Case = object


class RBTestCaseMixin(_Case):
    """For Django's test cases: the cluster, its nodes, and assertions on sent commands.

    class Checkout(RBTestCaseMixin, TestCase):
        def test_it_asks_once(self):
            with self.assertNumBatches(1):
                cache.get_many(["a", "b"])

    Attributes:
        rb_alias: the alias of the default cluster.
        rb_no_flush: the nodes are flushed before the class, and not between its tests. Keys
            that setUpClass() or setUpTestData() stores exist in every test.
    """

    rb_alias = "default"
    rb_no_flush = False

    @classmethod
    def setUpClass(cls) -> None:
        """Refuse to run on the site's own nodes; flush, if the tests will not."""
        stand_ins = get_stand_ins()
        if cls.rb_no_flush:
            stand_ins.flush_used()
        super().setUpClass()

    @property
    def rb_cluster(self) -> Cluster:
        """The cluster."""
        return clusters[self.rb_alias]

    @property
    def rb_nodes(self) -> LocalNodes:
        """The local nodes of the cluster, to kill(), pause(), resume() and restart() them.

        For the next test, all of them run again and are empty.

        Raises:
            NodesError: the settings declare servers for tests.
        """
        return get_stand_ins()[self.rb_alias].lend_nodes()

    def captureCommands(self, cluster: Cluster | str | None = None) -> CaptureCommandsContext:
        """Return a context manager that captures commands; see CaptureCommandsContext."""
        return CaptureCommandsContext(cluster or self.rb_alias)

    @overload
    def assertNumBatches(
        self, num: int, func: None = None, *, cluster: Cluster | str | None = None
    ) -> AssertingContext: ...

    @overload
    def assertNumBatches(
        self,
        num: int,
        func: Callable[..., object],
        *args: Any,
        cluster: Cluster | str | None = None,
        **kwargs: Any,
    ) -> None: ...

    def assertNumBatches(
        self,
        num: int,
        func: Callable[..., object] | None = None,
        *args: Any,
        cluster: Cluster | str | None = None,
        **kwargs: Any,
    ) -> AssertingContext | None:
        """Assert the number of batches: calls that are answered together.

        Without `func` it is a context manager, like `assertNumQueries`.
        """
        context = AssertingContext(cluster or self.rb_alias, batches=num)
        return _call_within(context, func, *args, **kwargs)

    @overload
    def assertNodesTouched(
        self,
        nodes: int | Collection[int],
        func: None = None,
        *,
        cluster: Cluster | str | None = None,
    ) -> AssertingContext: ...

    @overload
    def assertNodesTouched(
        self,
        nodes: int | Collection[int],
        func: Callable[..., object],
        *args: Any,
        cluster: Cluster | str | None = None,
        **kwargs: Any,
    ) -> None: ...

    def assertNodesTouched(
        self,
        nodes: int | Collection[int],
        func: Callable[..., object] | None = None,
        *args: Any,
        cluster: Cluster | str | None = None,
        **kwargs: Any,
    ) -> AssertingContext | None:
        """Assert how many nodes, or exactly which host ids, are sent commands.

        Without `func` it is a context manager, like `assertNumQueries`.
        """
        context = AssertingContext(cluster or self.rb_alias, nodes=nodes)
        return _call_within(context, func, *args, **kwargs)


class RBTestCase(RBTestCaseMixin, TestCase):
    """Django's TestCase with RBTestCaseMixin."""


def _call_within(
    context: AssertingContext, func: Callable[..., object] | None, *args: Any, **kwargs: Any
) -> AssertingContext | None:
    if func is None:
        return context
    with context:
        func(*args, **kwargs)
    return None
