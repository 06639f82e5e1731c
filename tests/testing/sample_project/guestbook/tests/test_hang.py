"""A test that never ends, to be killed; HANG is the file that says that it is at it."""

import os
import time
from pathlib import Path

from django.test import SimpleTestCase

from ..book import sign


class Hang(SimpleTestCase):
    def test_hang(self) -> None:
        sign("ann")
        if path := os.environ.get("HANG"):
            Path(path).touch()
            time.sleep(600)
