"""What README.md and docs/ show is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache, caches
from django.core.management import get_commands
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client, override_settings
from django.urls import path

from django_rb import conf
from django_rb.engine import Cluster
from django_rb.testing import LocalNodes
from tests.tables import for_each

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])


def code_blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def names_in(block: str, **given: Any) -> dict[str, Any]:
    names = {"INSTALLED_APPS": [], **given}
    exec(block, names)
    return names


def visit(request: HttpRequest) -> HttpResponse:
    """Store a hundred values, and count in the session."""
    lost = cache.set_many({f"page:{n}": n for n in range(100)})
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"lost": len(lost), "visits": request.session["visits"]})


urlpatterns = [path("visit/", visit)]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/tutorial.md"])
def test_there_is_a_way_to_install_before_there_is_a_release(page: str) -> None:
    text = " ".join((ROOT / page).read_text().split())
    cloned = re.search(
        r"Until 1.0.0 is on PyPI, install from a checkout.*? `git clone (\S+?)( \S+)?`, "
        r"then `pip install '(\S+)\[embedded\]'`",
        text,
    )
    assert cloned
    assert f"url = {cloned[1]}\n" in (ROOT / "setup.cfg").read_text()
    assert cloned[3] == (cloned[2] or "./django-rb").strip()


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["README.md", "docs/cache.md"])
def test_a_site_with_the_settings_shown_serves_without_a_node(page: str) -> None:
    shown = next(
        names
        for block in code_blocks(page, "python")
        if "SESSION_ENGINE" in (names := names_in(block) if "CACHES" in block else {})
    )
    with (
        LocalNodes(3) as nodes,
        override_settings(
            ROOT_URLCONF=__name__,
            ALLOWED_HOSTS=["*"],
            MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
            RB_CLUSTERS={"default": {"HOSTS": nodes.hosts}},
            CACHES={"default": shown["CACHES"]["default"]},
            SESSION_ENGINE=shown["SESSION_ENGINE"],
        ),
    ):
        visitors = [Client() for _ in range(10)]
        before = [visitor.get("/visit/").json() for visitor in visitors]
        nodes.kill(1)
        after = [visitor.get("/visit/").json() for visitor in visitors]
    assert before == [{"lost": 0, "visits": 1}] * 10
    assert {answer["visits"] for answer in after} == {2}
    assert all(0 < answer["lost"] < 100 for answer in after)


@pytest.mark.parametrize(
    ("page", "number"), [("README.md", 0), ("docs/settings.md", 0), ("docs/settings.md", 1)]
)
def test_the_settings_shown_have_no_mistake(page: str, number: int) -> None:
    shown = names_in(code_blocks(page, "python")[number])
    for alias, config in shown.get("RB_CLUSTERS", {}).items():
        assert list(conf.find_mistakes(alias, config)) == []
        Cluster(config["HOSTS"])
    if "CACHES" in shown:
        with override_settings(CACHES=shown["CACHES"]):
            caches["default"].check_settings()  # type: ignore[attr-defined]


def test_the_engine_in_the_readme_runs() -> None:
    settings, example = code_blocks("README.md", "python")[:2]
    config = names_in(settings)["RB_CLUSTERS"]["default"]
    with (
        LocalNodes(len(config["HOSTS"])) as nodes,
        override_settings(RB_CLUSTERS={"default": {**config, "HOSTS": nodes.hosts}}),
    ):
        shown = names_in(example)
    assert shown["total"] == 100
    assert f"sizes.value  # {shown['sizes'].value}\n" in example


# README.md is shown where the rest of the repository is not, so its links are whole.
SITE = "https://django-rb.readthedocs.io/en/stable/"
REPOSITORY = "https://github.com/django-rb/django-rb/blob/main/"


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"(?m)^#+ (.*)", page.read_text())
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@for_each("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        target, _, anchor = link.partition("#")
        if target.startswith(SITE):
            place = ROOT / "docs" / (target.removeprefix(SITE) or "index.html")
            place = place.with_suffix(".md")
        elif target.startswith(REPOSITORY):
            place = ROOT / target.removeprefix(REPOSITORY)
        elif "://" in target:
            continue
        else:
            assert page.parent != ROOT, f"{link} is relative"
            place = page.parent / target if target else page
        assert place.exists(), link
        assert not anchor or anchor in headings(place), link


def test_every_option_of_a_cache_is_described() -> None:
    from django_rb.cache.options import OPTIONS

    text = (ROOT / "docs/settings.md").read_text()
    assert [name for name in OPTIONS if f"`{name}`" not in text] == []
    assert [key for key in conf.KEYS if f"| `{key}` |" not in text] == []


def test_every_command_is_described() -> None:
    ours = {name for name, app in get_commands().items() if app == "django_rb"}
    text = (ROOT / "docs/commands.md").read_text()
    assert ours
    assert [name for name in ours if f"`{name}`" not in text and name not in text] == []


def test_the_version_in_the_changelog_is_the_packages() -> None:
    from django_rb import __version__

    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"(?m)^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$", text)[0] == __version__
    assert f"/releases/tag/v{__version__}\n" in text
