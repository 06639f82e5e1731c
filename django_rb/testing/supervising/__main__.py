"""Runs the supervisor: ``python -I -S supervising PARENT_PID DIRECTORY``."""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # This directory as a package, without its parents, which need other packages.
    sys.path[0] = str(Path(__file__).parents[1])
    importlib.import_module("supervising.supervisor").main()
