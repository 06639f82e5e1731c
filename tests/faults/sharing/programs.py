"""Runs a program of this package in a process of its own, and returns what it found out."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import django
from django.conf import settings

ROOT = Path(__file__).parents[3]
SECONDS = 60.0
# What is alive answers, however busy the machine is.
PATIENT = {"socket_timeout": 20.0, "socket_connect_timeout": 20.0}

Program = Callable[[], object]


def run_program(
    module: str, name: str, hosts: Mapping[int, Any], *, status: int = 0, **pool_options: float
) -> Any:
    """Run ``python -m tests.faults.sharing.MODULE NAME``; return what it printed as JSON.

    Several names with commas run one after the other in one process, as to start one takes
    longer than most programs. They return what each found, by name; a traceback says which of
    them failed.

    Fail if it has anything to say on its standard error, warnings of Python included, or
    ends with another status.
    """
    request = json.dumps({"hosts": hosts, "pool_options": pool_options or PATIENT})
    done = subprocess.run(
        [
            *(sys.executable, "-X", "dev", "-W", "error"),
            # Said by Python 3.12 and newer, of the very thing that is tested.
            *("-W", "ignore:This process:DeprecationWarning"),
            *("-m", f"tests.faults.sharing.{module}", name, request),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (status, ""), done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout else None


def main(*programs: Program) -> None:
    """Set Django up for the nodes on the command line, and run the programs that it names."""
    name, request = sys.argv[1:]
    asked = json.loads(request)
    hosts = {int(host_id): host for host_id, host in asked["hosts"].items()}
    settings.configure(
        RB_CLUSTERS={"default": {"HOSTS": hosts, "POOL_OPTIONS": asked["pool_options"]}},
        CACHES={"default": {"BACKEND": "django_rb.cache.RBCache"}},
        INSTALLED_APPS=["django_rb"],
    )
    django.setup()
    # What it says of the nodes' health is no complaint of the program's.
    logging.getLogger("django_rb").addHandler(logging.NullHandler())
    by_name = {program.__name__: program for program in programs}
    each = {one: by_name[one]() for one in name.split(",")}
    found = each if len(each) > 1 else each[name]
    if found is not None:
        print(json.dumps(found), flush=True)
