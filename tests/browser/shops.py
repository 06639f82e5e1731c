"""The bookshop as `make run` starts it, with keys of every kind on its nodes."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import redis

from django_rb.engine import Cluster, SlotRouter
from tests.management.processes import ROOT, environment, kill, pids_in, read_until, start

MANAGE = str(ROOT / "example_project" / "manage.py")
PASSWORD = "marginalia"
NASTY = "<script>window.pwned = 1</script>"

# What keys are called on the pages, and what is stored under them.
KEYS: dict[str, tuple[bytes, bytes]] = {
    NASTY: (NASTY.encode(), NASTY.encode()),
    r"control\x1b[2J\n\x00": (b"control\x1b[2J\n\x00", b"\x07\x1b]0;title\x07"),
    r"binary\xff\xfe": (b"binary\xff\xfe", bytes(range(256))),
    "large": (b"large", b"<b>x</b> " * 11_378),  # 100 KB
    "pickle:unreadable": (b"pickle:unreadable", b"\x80\x05no pickle"),
    "json:1:letters": (b"json:1:letters", json.dumps({"names": ["ann", NASTY]}).encode()),
    "pickle:unsigned": (b"pickle:unsigned", pickle.dumps({"name": NASTY})),
}
MAKE_CLERK = """
from django.contrib.auth.models import Permission, User
for name, permissions in (("clerk", []), ("reader", ["view_node"])):
    user = User.objects.create_user(name, password="marginalia", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
"""


class Shop:
    """The bookshop, in processes of its own.

    Args:
        place: for its database.
    """

    def __init__(self, place: Path) -> None:
        path = f"{ROOT}{os.pathsep}{ROOT / 'example_project'}"
        self._env = environment(
            "tests.browser.shop_settings",
            PYTHONPATH=path,
            BOOKSHOP_TOOLBAR="off",  # it has no place for this policy, and covers buttons
            BOOKSHOP_DATABASE=str(place / "db.sqlite3"),
        )
        self._process = start(sys.executable, MANAGE, "serve", "0", env=self._env)
        assert self._process.stdout is not None
        try:
            said = read_until(self._process, "Uvicorn running on")
            # What it logs must not fill the pipe.
            threading.Thread(target=self._process.stdout.read, daemon=True).start()
            self.address = re.findall(r"opens at (http://127\.0\.0\.1:\d+)/\n", said)[0]
            self.operator = re.findall(r"log in as (\w+) with the password (\w+)", said)[0]
            self.nodes_page = re.findall(r"nodes are at (http://\S+)", said)[0]
            self._pids = pids_in(said)
            (urls,) = re.findall(r"DJANGO_RB_NODES='(.*?)'", said)
            self._urls: list[str] = json.loads(urls)["default"]
            self.fill()
        except BaseException:
            self.close()
            raise

    def fill(self) -> None:
        """Store keys of every kind, and make users who may do less."""
        cluster = Cluster(self._urls, router_cls=SlotRouter)
        client: Any = cluster.get_routing_client()
        for key, value in KEYS.values():
            client.set(key, value)
        cluster.close()
        for url in self._urls[:2]:
            with redis.Redis.from_url(url) as node:
                node.config_set("maxmemory", "16mb")
                for number in range(4):
                    node.set(f"blob:{number}", "x" * 1_000_000)
                node.config_set("slowlog-log-slower-than", "0")
                node.mget(*[f"blob:{number}" for number in range(4)])
                node.config_set("slowlog-log-slower-than", "10000")
        subprocess.run(
            [sys.executable, MANAGE, "shell", "-c", MAKE_CLERK],
            env=self._env,
            check=True,
            capture_output=True,
        )
        for _ in range(3):
            self.visit()

    def visit(self) -> None:
        """Let somebody look at the books."""
        with urllib.request.urlopen(f"{self.address}/", timeout=30) as answer:
            assert answer.status == 200

    def kill(self, node: int) -> None:
        """End a node at once."""
        os.kill(self._pids[node], signal.SIGKILL)

    def stop(self, node: int) -> None:
        """Let a node take connections, and say nothing."""
        os.kill(self._pids[node], signal.SIGSTOP)

    def close(self) -> None:
        """End the shop and its nodes."""
        try:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)
        finally:
            kill(self._process)
