"""Runs Django's own cache tests against RBCache over four real nodes.

    python -m tests.django_suite [NAME …]
    python -m tests.django_suite --topology redis-cluster [NAME …]

NAME is a part of a test's name. The exit status is 1 unless tests ran and all of them
passed; a test that skips itself without being listed in LEFT_OUT counts as failed.
"""

from __future__ import annotations

import argparse
import platform
import sys
import unittest
from collections.abc import Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import django
import redis
from django.conf import settings
from django.test.runner import DiscoverRunner

import django_rb
from django_rb.testing import LocalNodes
from django_rb.testing.nodes import TOPOLOGIES

from .source import fetch_tests

NODES = 4
ROOT = Path(__file__).parents[2]
SQLITE = {"ENGINE": "django.db.backends.sqlite3"}


def configure(nodes: LocalNodes, others: LocalNodes, tests: Path) -> None:
    """Set Django up as its tests/runtests.py does, with clusters on the nodes.

    Args:
        others: those of the cluster "other". Independent nodes have another database.
    """
    # First, as in runtests.py: Django's tests import each other by their directories' names.
    sys.path.insert(0, str(tests))
    apps = ["contenttypes", "auth", "sites", "sessions", "messages", "staticfiles"]
    settings.configure(
        CACHES={"default": {"BACKEND": "django_rb.cache.RBCache", "LOCATION": "default"}},
        DATABASES={"default": SQLITE, "other": SQLITE},
        INSTALLED_APPS=[
            *(f"django.contrib.{app}" for app in apps),
            "django_rb",
            *("cache", "sessions_tests"),
        ],
        LANGUAGE_CODE="en",
        MIGRATION_MODULES={"auth": None, "contenttypes": None, "sessions": None},
        RB_CLUSTERS={
            "default": {"HOSTS": nodes.hosts, "TOPOLOGY": nodes.topology},
            "other": {
                "HOSTS": others.hosts,
                "HOST_DEFAULTS": {"db": int(others is nodes)},
                "TOPOLOGY": others.topology,
            },
        },
        ROOT_URLCONF="urls",
        SECRET_KEY="django_tests_secret_key",
        SILENCED_SYSTEM_CHECKS=["models.W042"],  # DEFAULT_AUTO_FIELD, of no concern here
        SITE_ID=1,
        STATIC_URL="static/",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "DIRS": [str(tests / "templates")],
                "APP_DIRS": True,
            }
        ],
        USE_TZ=False,
    )
    django.setup()


class Runner(DiscoverRunner):
    """Django's runner, for given test classes; keeps their results for the report."""

    results: unittest.TestResult

    def build_suite(self, *args: object, **kwargs: object) -> unittest.TestSuite:
        """Return the tests that were asked for by a part of their names."""
        from . import cases  # needs the settings

        patterns = self.test_name_patterns or {"*"}
        return unittest.TestSuite(
            cls(name)
            for cls in (*cases.contracts(), *cases.users_of_the_cache())
            for name in unittest.defaultTestLoader.getTestCaseNames(cls)
            if any(fnmatchcase(f"{cls.__name__}.{name}", pattern) for pattern in patterns)
        )

    def suite_result(self, suite: Any, result: Any, **kwargs: Any) -> int:
        """Return how many tests did not pass."""
        self.results = result
        return super().suite_result(suite, result, **kwargs)


def report(results: unittest.TestResult) -> int:
    """Print what was left out and the closing line; return the exit status."""
    from . import cases

    bad = [*results.failures, *results.errors, *((t, "") for t in results.unexpectedSuccesses)]
    failed = {_name(test) for test, _ in bad}
    left_out = set()
    print("\nLeft out:" if results.skipped else "\nNothing was left out.")
    for test, reason in results.skipped:
        if reason in _reasons(cases, _name(test)):
            left_out.add(_name(test))
            print(f"  {_name(test)}: {reason}")
        else:
            failed.add(_name(test))
            print(f"  {_name(test)}: {reason}   <-- not in LEFT_OUT, so it counts as failed")
    passed = results.testsRun - len(failed) - len(left_out)
    print(f"\n{passed} passed, {len(failed)} failed, {len(left_out)} skipped")
    return 0 if passed and not failed else 1


def _reasons(cases: Any, name: str) -> set[str | None]:
    """Return why a test may be left out."""
    kind, _, test = name.partition(".")
    known = [cases.LEFT_OUT, cases.LEFT_OUT_AWAITED if kind.startswith("Awaited") else {}]
    return {reasons.get(test) for reasons in known}


def _name(test: Any) -> str:
    """Return class and method of a test; of a test's part (subTest) those of the test."""
    return ".".join(getattr(test, "test_case", test).id().split(".")[-2:])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.django_suite",
        description="Django's own cache tests against RBCache over four nodes.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a part of a test's name")
    parser.add_argument(
        "--sources",
        type=Path,
        default=ROOT / ".venvs",
        help="where Django's tests are kept once fetched (default: .venvs)",
    )
    parser.add_argument(
        "--topology", choices=TOPOLOGIES, default="static", help="what the nodes are"
    )
    parser.add_argument("-v", "--verbosity", type=int, default=1, choices=range(4))
    options = parser.parse_args(argv)
    tests = fetch_tests(options.sources.resolve())
    with ExitStack() as stack:
        nodes = others = stack.enter_context(LocalNodes(NODES, topology=options.topology))
        if options.topology != "static":
            others = stack.enter_context(LocalNodes(NODES, topology=options.topology))
        print(
            f"Django {django.__version__}'s cache tests against django-rb "
            f"{django_rb.__version__} over {NODES} nodes of {nodes.server} "
            f"({nodes.topology}); "
            f"redis-py {redis.__version__}, Python {platform.python_version()}",
            flush=True,
        )
        configure(nodes, others, tests)
        runner = Runner(
            verbosity=options.verbosity,
            interactive=False,
            test_name_patterns=options.names or None,
        )
        runner.run_tests([])
    sys.stderr.flush()
    return report(runner.results)


if __name__ == "__main__":
    sys.exit(main())
