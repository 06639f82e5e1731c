"""The pages about the nodes: who may see which, and what they say of nodes that are well."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.test import Client, override_settings

from django_rb import clusters
from django_rb.contrib.admin.conf import Options, get_options
from django_rb.testing import LocalNodes
from tests.tables import for_each

from .admin_site import ALONE, IN_ADMIN, key_url, log_in, text_of

READ = ["", "node/default.0/", "slow-log/", "keys/", "keys/key/?key=a2V5"]
READ += ["hot-keys/", "large-keys/", "large-keys/?look=1"]
CHANGES = {
    "keys/key/expiry/?key=a2V5": "change",
    "keys/key/delete/?key=a2V5": "delete",
    "keys/delete/?pattern=*": "delete",
    "flush/?cluster=default": "flush",
}


@pytest.fixture(params=[IN_ADMIN, ALONE])
def base(request: pytest.FixtureRequest) -> str:
    """Where the pages are."""
    where: str = request.param
    return where


class TestPermissions:
    def test_each_page_wants_its_own(self, site: LocalNodes, base: str) -> None:
        wanted = {**dict.fromkeys(READ, "view"), **CHANGES}
        for permission in ("view", "change", "delete", "flush"):
            client = log_in(permission)
            for page, needed in wanted.items():
                status = client.get(base + page).status_code
                assert status == (200 if permission == needed else 403), (permission, page)

    def test_staff_without_permission(self, site: LocalNodes, base: str) -> None:
        client = log_in()
        for page in [*READ, *CHANGES]:
            assert client.get(base + page).status_code == 403
            assert client.post(base + page).status_code == 403

    def test_others_are_asked_to_log_in(self, site: LocalNodes, base: str) -> None:
        for client in (Client(), log_in("view", "flush", staff=False)):
            for page in [*READ, *CHANGES]:
                answer = client.get(base + page)
                assert answer.status_code == 302
                assert answer.headers["Location"].startswith("/admin/login/?next=")

    def test_a_change_wants_a_token(self, site: LocalNodes, base: str) -> None:
        caches["default"].set("key", 1)
        client = log_in("view", "change", "delete", "flush", csrf=True)
        for page in CHANGES:
            data = {"typed": "default", "never": "on", "where": "cluster:default"}
            assert client.post(base + page, data).status_code == 403
        assert caches["default"].get("key") == 1

    def test_what_may_not_be_done_is_not_offered(self, site: LocalNodes) -> None:
        caches["default"].set("key", 1)
        pages = [
            "",
            "node/default.0/",
            "keys/",
            key_url("key/", "cache:default", b":1:key", ""),
        ]
        texts = [text_of(log_in("view").get(IN_ADMIN + page)) for page in pages]
        assert not [text for text in texts if "…" in text]
        client = log_in("view", "change", "delete", "flush")
        texts = [text_of(client.get(IN_ADMIN + page)) for page in pages]
        assert "Flush…" in texts[0]
        assert "Flush…" in texts[1]
        assert "Delete matching keys…" in texts[2]
        assert "Change expiry… Delete…" in texts[3]

    def test_the_index_of_the_admin_leads_there(self, site: LocalNodes) -> None:
        page = log_in("view").get("/admin/").content.decode()
        assert f'<a href="{IN_ADMIN}"' in page
        assert f"{IN_ADMIN}add/" not in page
        assert IN_ADMIN not in log_in().get("/admin/").content.decode()


class TestNodes:
    def test_the_overview(self, site: LocalNodes, base: str) -> None:
        caches["default"].set_many({f"key:{n}": n for n in range(40)})
        page = log_in("view").get(base)
        text = text_of(page)
        assert "4 of 4 nodes answered." in text
        assert "default independent nodes, 4 of 4 answered" in text
        assert "Keys 40" in text
        assert re.search(r"Keys: largest share over the mean [1-4]\.\d\d", text)
        samples = re.findall(r'data-sample="([^"]*)"', page.content.decode())
        numbers = [json.loads(sample.replace("&quot;", '"')) for sample in samples]
        assert len(numbers) == 4
        assert sum(sample["keys"] for sample in numbers) == 40
        assert all(0 < sample["ping"] < 1 for sample in numbers)
        for host_id, host in site.hosts.items():
            where = f"127.0.0.1:{host['port']}/0 master, {site.server} up"
            assert f"{host_id} {where}" in text
            assert f'href="{base}node/default.{host_id}/"' in page.content.decode()

    def test_numbers_alone_for_the_script(self, site: LocalNodes, base: str) -> None:
        client = log_in("view")
        for path, words in (("", "4 of 4 nodes answered."), ("node/default.2/", "Commands/s")):
            answer = client.get(f"{base}{path}?now")
            assert words in text_of(answer)
            assert "<html" not in answer.content.decode()
            assert "max-age=0" in answer.headers["Cache-Control"]

    def test_a_memory_limit(self, site: LocalNodes) -> None:
        with redis.Redis(**site.hosts[1]) as client:
            client.config_set("maxmemory", "100mb")
            try:
                page = log_in("view").get(IN_ADMIN)
            finally:
                client.config_set("maxmemory", "0")
        assert "of 100 MiB" in text_of(page)
        assert len(re.findall(r"<meter .* % full", page.content.decode())) == 1

    def test_one_node(self, site: LocalNodes, base: str) -> None:
        with redis.Redis(**site.hosts[1]) as client:
            client.config_set("slowlog-log-slower-than", "0")
            client.echo("<b>slow</b>")
            client.config_set("slowlog-log-slower-than", "10000")
            try:
                text = text_of(answer := log_in("view").get(f"{base}node/default.1/"))
                everywhere = text_of(log_in("view").get(f"{base}slow-log/"))
            finally:
                client.slowlog_reset()
        assert "Node 1 of default" in text
        assert re.search(r"ms ECHO <b>slow</b> 127\.0\.0\.1:\d+", text)
        assert "<b>slow</b>" not in answer.content.decode()
        assert f"tcp_port {site.hosts[1]['port']}" in text
        assert f"127.0.0.1:{site.hosts[1]['port']} " in everywhere
        assert "ECHO <b>slow</b>" in everywhere

    @for_each("name", ["default.4", "default.x", "other.0", "default", ".0"])
    def test_no_such_node(self, site: LocalNodes, name: str) -> None:
        assert log_in("view").get(f"{IN_ADMIN}node/{name}/").status_code == 404

    def test_no_clusters(self, site: LocalNodes) -> None:
        with override_settings(RB_CLUSTERS={}):
            assert "There are no nodes" in text_of(log_in("view").get(IN_ADMIN))
            assert "The slow log is empty" in text_of(
                log_in("view").get(f"{IN_ADMIN}slow-log/")
            )
            assert log_in("view").get(f"{IN_ADMIN}keys/").status_code == 404

    def test_an_alias_of_any_letters(self, site: LocalNodes) -> None:
        with override_settings(RB_CLUSTERS={'a/b "<c>.d': {"HOSTS": site.hosts}}):
            client = log_in("view", "flush")
            page = client.get(IN_ADMIN).content.decode()
            assert "<c>" not in page
            (node, *_) = re.findall(rf'href="({IN_ADMIN}node/[^"]+)"', page)
            (flush,) = re.findall(rf'href="({IN_ADMIN}flush/[^"]+)"', page)
            assert client.get(node).status_code == 200
            assert "127.0.0.1:" in text_of(client.get(flush))

    def test_nothing_that_a_strict_policy_forbids(self, site: LocalNodes) -> None:
        caches["default"].set("key", 1)
        client = log_in("view", "change", "delete", "flush")
        key = key_url("key/", "cache:default", b":1:key", "")
        for page in [*READ, *CHANGES, key]:
            html = client.get(ALONE + page).content.decode()
            assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", html), page
            assert re.findall(r"<script(.*?)>(.*?)</script>", html) == [
                (' src="/static/rb_admin/nodes.js" defer', "")
            ]
            assert not re.search(r"(src|href)=\"(https?:)?//", html)


class TestApp:
    def test_the_migration_is_the_model(self, db: None) -> None:
        call_command("makemigrations", "rb_admin", check=True, dry_run=True, verbosity=0)

    @for_each(
        ("setting", "message"),
        [
            ([], "settings.RB_ADMIN is a list, not a dictionary such as {'TIMEOUT': 1.0}."),
            ({"TIMEOT": 1}, "['TIMEOT'] is unknown. Did you mean 'TIMEOUT'?"),
            ({"TIMEOUT": 0}, "['TIMEOUT'] is 0. Give seconds, 0.1 to 3600."),
            ({"REFRESH": "2"}, "['REFRESH'] is '2'. Give seconds, 0.1 to 3600."),
            ({"SHOW_PICKLES": 1}, "['SHOW_PICKLES'] is 1. Give True or False."),
        ],
    )
    def test_mistakes_in_the_setting(self, setting: object, message: str) -> None:
        with override_settings(RB_ADMIN=setting), pytest.raises(ImproperlyConfigured) as caught:
            get_options()
        assert str(caught.value).endswith(message)

    def test_the_setting(self) -> None:
        with override_settings(RB_ADMIN={"TIMEOUT": 3, "SHOW_PICKLES": True}):
            assert get_options() == Options(show_pickles=True, timeout=3)


ALONE_SITE = """
import logging, sys
import django
from django.conf import settings
from django.urls import include, path

settings.configure(
    SECRET_KEY="tests", ALLOWED_HOSTS=["*"], ROOT_URLCONF="__main__", STATIC_URL="static/",
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
        "django_rb", "django_rb.contrib.admin",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    TEMPLATES=[
        {{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}}
    ],
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}},
    CACHES={{"default": {{"BACKEND": "django_rb.cache.RBCache"}}}},
    RB_CLUSTERS={{"default": {{"HOSTS": {hosts!r}}}}},
)
django.setup()
urlpatterns = [path("nodes/", include("django_rb.contrib.admin.urls"))]
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client

call_command("migrate", verbosity=0)
logging.basicConfig(stream=sys.stdout, format="%(name)s %(message)s")
logging.getLogger("django_rb.admin").setLevel("INFO")
client = Client()
client.force_login(User.objects.create(username="ann", is_staff=True, is_superuser=True))
cache.set("key", 1)
for page in ("", "node/default.0/", "slow-log/", "keys/", "flush/?cluster=default"):
    assert client.get("/nodes/" + page).status_code == 200, page
client.post("/nodes/flush/", {{"cluster": "default", "typed": "default"}})
print(cache.get("key"))
"""


def test_a_site_without_the_admin(nodes: LocalNodes) -> None:
    code = ALONE_SITE.format(hosts=nodes.hosts)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    told, left = done.stdout.splitlines()
    assert told.startswith(
        "django_rb.admin default on default by ann: Flush: default 0: emptied"
    )
    assert left == "None"


@pytest.fixture
def hurt_site(db: None) -> Iterator[LocalNodes]:
    """A site with four nodes, of which 1 is killed and 2 is stopped."""
    from .admin_site import SETTINGS

    with LocalNodes(4) as nodes:
        settings = {**SETTINGS, "RB_CLUSTERS": {"default": {"HOSTS": nodes.hosts}}}
        with override_settings(**settings, RB_ADMIN={"TIMEOUT": 0.4}):
            caches["default"].set_many({f"key:{n}": n for n in range(40)})
            nodes.kill(1)
            nodes.pause(2)
            yield nodes
        clusters.reset()


class TestDeadNodes:
    def test_the_living_are_shown_and_the_dead_named(self, hurt_site: LocalNodes) -> None:
        client = log_in("view", "change", "delete", "flush")
        text = text_of(client.get(IN_ADMIN))
        assert "2 of 4 nodes answered." in text
        assert re.search(
            r"1 127\S+/0 (failing|down) Error \d+ connecting to 127\.0\.0\.1", text
        )
        assert re.search(r"2 127\S+/0 (failing|down) (Deadline exceeded|Timeout)", text)
        assert re.search(r"3 127\S+/0 master, \S+ \S+ up", text)
        for name, word in (("default.0", "up"), ("default.1", "down"), ("default.2", "down")):
            text = text_of(client.get(f"{IN_ADMIN}node/{name}/"))
            assert re.search(rf"\b({word}|failing)\b", text)
        text = text_of(client.get(f"{IN_ADMIN}slow-log/"))
        assert "default 1:" in text
        assert "default 2:" in text

    def test_keys_of_the_living(self, hurt_site: LocalNodes) -> None:
        client = log_in("view", "delete", "flush")
        text = text_of(client.get(f"{IN_ADMIN}keys/"))
        found = set(re.findall(r"key:\d+", text))
        owners = {key: self.owner(key) for key in (f"key:{n}" for n in range(40))}
        assert found == {key for key, owner in owners.items() if owner in {0, 3}}
        assert re.search(r"default 1: .*default 2: ", text)
        for owner in (1, 2):
            key = next(key for key, host in owners.items() if host == owner)
            url = key_url("key/", "cache:default", f":1:{key}".encode())
            assert f"Its node default {owner} failed: " in text_of(client.get(url))
        asked = client.get(f"{IN_ADMIN}keys/delete/?where=cache:default&pattern=*")
        assert f"{len(found)} keys in cache default match *" in text_of(asked)
        done = client.post(
            f"{IN_ADMIN}keys/delete/", {"where": "cache:default", "pattern": "*"}
        )
        assert f"{len(found)} keys deleted." in text_of(done)
        assert "default 1 failed: " in text_of(done)
        asked = client.get(f"{IN_ADMIN}flush/?cluster=default")
        assert "0 keys on those that answer" in text_of(asked)
        done = client.post(f"{IN_ADMIN}flush/", {"cluster": "default", "typed": "default"})
        text = text_of(done)
        assert "default 0 emptied default 1 failed: " in text
        assert "default 3 emptied" in text

    def owner(self, key: str) -> int:
        return clusters["default"].get_host_for_key(f":1:{key}")
