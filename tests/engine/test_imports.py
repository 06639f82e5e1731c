"""The engine stands on its own."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_engine_imports_no_django() -> None:
    code = (
        "import sys, django_rb.engine; "
        "print([m for m in sys.modules if m.split('.')[0] in ('django', 'asgiref')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_engine_works_where_django_cannot_be_imported() -> None:
    code = (
        "import sys; sys.modules['django'] = None\n"
        "from django_rb.engine import Cluster\n"
        "print(Cluster([{'port': 1}, {'port': 2}]).get_host_for_key('a'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in {"0", "1"}
