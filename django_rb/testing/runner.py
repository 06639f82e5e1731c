"""Django's test runner, with nodes that only tests use.

TEST_RUNNER = "django_rb.testing.RBDiscoverRunner"
"""

from __future__ import annotations

import os
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.test.runner import DiscoverRunner, ParallelTestSuite

from .discovery import NodesError
from .stand_ins import StandIns, get_stand_ins
from .supervising.servers import die_with_parent

if TYPE_CHECKING:
    _Runner = DiscoverRunner
else:
    _Runner = object


class RBTestSuite(unittest.TestSuite):
    """A suite of tests that empties used nodes before each test."""

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        """Run the tests; there is no flush between those of a class with `rb_no_flush`."""
        start_test = result.startTest

        def flush_and_start(test: unittest.TestCase) -> None:
            if not getattr(test, "rb_no_flush", False):
                get_stand_ins().flush_used()
            start_test(test)

        result.startTest = flush_and_start  # type: ignore[method-assign]
        try:
            return super().run(result, debug)
        finally:
            result.startTest = start_test  # type: ignore[method-assign]


def _init_worker(*args: Any, **options: Any) -> None:
    """Initialize a process that runs tests. It does not use the nodes of its parent."""
    # Otherwise a hanging test would keep nodes running after the run was killed.
    if end_with_parent := die_with_parent(os.getppid()):
        end_with_parent()
    ParallelTestSuite.init_worker(*args, **options)
    StandIns().install()


class RBParallelTestSuite(ParallelTestSuite):
    """Runs tests in several processes, each of which has its own nodes."""

    init_worker = _init_worker


class RBTestRunnerMixin(_Runner):
    """For your own test runner: nodes that only tests use.

    class Runner(RBTestRunnerMixin, SomeDiscoverRunner): …

    Your own `test_suite` or `parallel_test_suite` must inherit from `RBTestSuite` or
    `RBParallelTestSuite`.
    """

    test_suite = RBTestSuite
    parallel_test_suite = RBParallelTestSuite

    def setup_test_environment(self, **kwargs: Any) -> None:
        """Replace the nodes in the settings by nodes for tests. None is started yet.

        Raises:
            CommandError: there is a mistake in the settings, or no server to run.
        """
        super().setup_test_environment(**kwargs)
        with _stopping_the_run():
            stand_ins = StandIns()
            stand_ins.check_server()
            stand_ins.install()

    def build_suite(self, *args: Any, **kwargs: Any) -> unittest.TestSuite:
        """Return the tests.

        Raises:
            CommandError: they would run in parallel and share nodes.
        """
        suite = super().build_suite(*args, **kwargs)
        if isinstance(suite, ParallelTestSuite):
            with _stopping_the_run():
                get_stand_ins().check_parallel()
        return suite

    def teardown_test_environment(self, **kwargs: Any) -> None:
        """Stop the nodes."""
        get_stand_ins().uninstall()
        super().teardown_test_environment(**kwargs)


class RBDiscoverRunner(RBTestRunnerMixin, DiscoverRunner):
    """Django's default test runner, with nodes that only tests use."""


@contextmanager
def _stopping_the_run() -> Iterator[None]:
    """Turn errors into an end of `manage.py test` with their text, without a traceback."""
    try:
        yield
    except (ImproperlyConfigured, NodesError) as error:
        raise CommandError(str(error)) from error
