"""The guest book: who was here, and how often."""

from collections.abc import Iterable

from django.core.cache import cache

from django_rb import clusters


def sign(name: str) -> int:
    """Note a visit; return how many visits that makes."""
    return int(clusters["default"].get_routing_client().incr(f"visits:{name}"))


def greet(names: Iterable[str]) -> dict[str, str]:
    """Return greetings by name, of which those that are not cached are made now."""
    names = list(names)
    greetings: dict[str, str] = cache.get_many(names)
    if made := {name: f"Hello {name}" for name in names if name not in greetings}:
        cache.set_many(made)
    return greetings | made
