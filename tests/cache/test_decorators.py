"""@cached: functions whose results are kept."""

from __future__ import annotations

import asyncio
import inspect
from datetime import date
from enum import Enum
from typing import Any

import pytest
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.utils import translation

from django_rb.cache import RBCache, cached
from django_rb.cache.decorators import KeyMaker
from django_rb.testing import LocalNodes
from tests.tables import for_each

pytestmark = pytest.mark.only_sync

CACHES = {
    "default": {"BACKEND": "django_rb.cache.RBCache"},
    "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
}


@pytest.fixture(autouse=True)
def caches(nodes: LocalNodes) -> Any:
    with override_settings(CACHES=CACHES):
        yield


class Color(Enum):
    RED = 1


class Book:
    """Something like a model's object."""

    class _meta:  # noqa: N801 (Django's name)
        label_lower = "shop.book"

    def __init__(self, pk: int) -> None:
        self.pk = pk
        self.calls = 0

    @cached(timeout=60)
    def title(self, language: str = "en") -> str:
        """Return its title."""
        self.calls += 1
        return f"{self.pk} {language} {self.calls}"

    @cached(timeout=60)
    async def atitle(self, language: str = "en") -> str:
        self.calls += 1
        return f"a{self.pk} {language} {self.calls}"

    @staticmethod
    @cached(timeout=60)
    def count(shop: int) -> int:
        return shop * 10


def test_a_function_is_called_once_for_the_same_arguments() -> None:
    calls: list[Any] = []

    @cached(timeout=60, stale=60)
    def add(a: int, b: int = 2) -> int:
        calls.append((a, b))
        return a + b

    assert [add(1), add(1, 2), add(a=1), add(b=2, a=1)] == [3] * 4
    assert add("1", b="2") == "12"
    assert calls == [(1, 2), ("1", "2")]
    assert cache.get(add.key(1)) == 3
    assert add.invalidate(1) is True
    assert add.invalidate(1) is False
    add(1)
    assert add.refresh(1) == 3
    assert calls[2:] == [(1, 2)] * 2
    assert isinstance(add.cache, RBCache)


def test_a_method_belongs_to_its_object() -> None:
    book, other = Book(1), Book(2)
    assert [book.title(), book.title(), other.title(), Book(1).title()] == [
        "1 en 1", "1 en 1", "2 en 1", "1 en 1",
    ]  # fmt: skip
    assert (
        book.title.key("de")
        == "tests.cache.test_decorators.Book.title:self=shop.book:1,language=de"
    )
    assert book.title.invalidate()
    assert (Book(1).title(), book.title.refresh()) == ("1 en 1", "1 en 2")
    assert Book.count(4) == 40
    assert Book.title.__doc__ == "Return its title."


def test_coroutine_functions_are_awaited() -> None:
    assert inspect.iscoroutinefunction(Book.atitle.__call__)

    async def main() -> None:
        book = Book(1)
        assert [await book.atitle(), await Book(1).atitle()] == ["a1 en 1"] * 2
        assert await book.atitle.refresh() == "a1 en 2"
        assert await book.atitle() == "a1 en 2"
        assert await book.atitle.invalidate() is True
        assert await book.atitle() == "a1 en 3"

    asyncio.run(main())


def test_keys_are_made_as_one_says() -> None:
    @cached(timeout=60, key="books:{category}:{page}")
    def by_template(category: str, page: int = 1) -> None: ...

    @cached(timeout=60, key=lambda *numbers: sum(numbers))
    def by_function(*numbers: int) -> None: ...

    @cached(timeout=60, vary=["book.pk", translation.get_language])
    def by_parts(request: object, book: Book) -> None: ...

    assert by_template.key("poetry") == "books:poetry:1"
    assert by_function.key(1, 2, 3) == "6"
    with translation.override("de"):
        assert by_parts.key(object(), Book(7)).endswith("by_parts:book.pk=7,de")


VALUES: list[Any] = [
    None, True, 1, 1.0, "1", "None", b"1", "a", "a,b", "a:b", ["a", "b"], ["a,b"], [["a"], "b"],
    {"a": 1}, {"a": "1"}, {1}, frozenset({"1"}), date(2026, 1, 2), Color.RED, "Color.RED",
    Book(1), "shop.book:1", Book(2), "é", "x" * 300, "{tag}", "[a]", [], {}, "",
]  # fmt: skip


def test_different_arguments_have_different_keys() -> None:
    def function(value: Any, other: Any = None) -> None: ...

    make_key = KeyMaker(function, None, None)
    keys = [make_key(value) for value in VALUES]
    assert len(set(keys)) == len(VALUES)
    assert keys == [make_key(value, None) for value in VALUES]
    assert make_key("a", "b") != make_key("a,other=b")
    assert make_key((1, 2)) == make_key([1, 2])
    assert make_key({"a": 1, "b": 2}) == make_key({"b": 2, "a": 1})
    assert all(key.isascii() and " " not in key and "{" not in key for key in keys)
    assert max(map(len, keys)) < 200


def generate() -> Any:
    yield 1


@for_each(
    ("decorate", "message"),
    [
        (lambda: cached(timeout=60)(staticmethod(len)), "Put it below @staticmethod"),
        (lambda: cached(timeout=60)(generate), "Return a list"),
        (lambda: cached(timeout=60, vary="pk")(lambda book: book), "no such parameter"),
        (lambda: cached(timeout=60, stale="long"), "The stale 'long' is of type str"),
        (
            lambda: cached(timeout=60)(lambda it: it).key(object()),
            "which cannot be part of a key",
        ),
        (cached(timeout=60)(lambda it: it), "missing a required argument: 'it'"),
    ],
)
def test_what_cannot_be_is_refused(decorate: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        decorate()


def test_another_kind_of_cache_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="is a LocMemCache"):
        cached(cache="local")(lambda: 1)()
