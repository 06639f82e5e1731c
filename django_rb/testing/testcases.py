"""Test cases that know of the nodes."""

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
    """For test cases of Django's: the cluster, its nodes, and assertions on what was sent.

    class Checkout(RBTestCaseMixin, TestCase):
        def test_it_asks_once(self):
            with self.assertNumBatches(1):
                cache.get_many(["a", "b"])

    Attributes:
        rb_alias: which cluster is meant where none is named.
        rb_no_flush: the nodes are flushed before the class, and not between its tests. What
            setUpClass() or setUpTestData() stores is there in every test.
    """

    rb_alias = "default"
    rb_no_flush = False

    @classmethod
    def setUpClass(cls) -> None:
        """Refuse to run on the site's own nodes; flush, where no test will."""
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
        """The local nodes of the cluster: kill(), pause(), resume() and restart() them.

        They are all well again, and empty, for the next test.

        Raises:
            NodesError: the settings name servers for tests.
        """
        return get_stand_ins()[self.rb_alias].lend_nodes()

    def captureCommands(self, cluster: Cluster | str | None = None) -> CaptureCommandsContext:
        """Return a context manager that captures what is sent; see CaptureCommandsContext."""
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
        """Assert that so many batches run: calls that are answered together.

        Without `func` it is a context manager, as `assertNumQueries` is.
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
        """Assert that so many nodes, or exactly those of some host ids, are sent something.

        Without `func` it is a context manager, as `assertNumQueries` is.
        """
        context = AssertingContext(cluster or self.rb_alias, nodes=nodes)
        return _call_within(context, func, *args, **kwargs)


class RBTestCase(RBTestCaseMixin, TestCase):
    """Django's TestCase, with the nodes."""


def _call_within(
    context: AssertingContext, func: Callable[..., object] | None, *args: Any, **kwargs: Any
) -> AssertingContext | None:
    if func is None:
        return context
    with context:
        func(*args, **kwargs)
    return None
