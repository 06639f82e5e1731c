"""The pages of the bookshop."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import cache_page
from django.views.decorators.http import require_POST

from django_rb.cache import get_cache
from django_rb.ratelimit import UNSAFE, ratelimit

from .almanac import READERS, rush
from .almanac import SECONDS as COMPUTING_SECONDS
from .almanac import almanac as compute_almanac
from .catalogue import BOOKS, Book
from .facts import FACTS, read, time_one_by_one
from .limits import RATE, ask

BESTSELLERS_SECONDS = 30
SEEN = 6

# The one customer that the shop knows.
NAME, PASSWORD = "ann", "marginalia"


def front(request: HttpRequest) -> HttpResponse:
    """Show all books with all facts, and what it took to get them."""
    reading = read(BOOKS.values())
    one_by_one = time_one_by_one(reading)
    context = {
        "reading": reading,
        "one_by_one": one_by_one,
        "gain": round(one_by_one / reading.batch),
        "batch_percent": min(100, 100 * reading.batch / one_by_one),
        "seen": _seen(request),
    }
    return render(request, "bookshop/front.html", context)


def book(request: HttpRequest, slug: str) -> HttpResponse:
    """Show one book, and remember in the session that it was seen."""
    book = _find(slug)
    seen = [book.slug, *(other.slug for other in _seen(request) if other is not book)]
    request.session["seen"] = seen[:SEEN]
    reading = read([book])
    context = {"book": book, "values": reading.shelf[book], "seen": _seen(request)[1:]}
    return render(request, "bookshop/book.html", context)


def basket(request: HttpRequest) -> HttpResponse:
    """Show the basket, which lives in the session; put a book into it on POST."""
    basket: dict[str, int] = request.session.get("basket", {})
    if request.method == "POST":
        slug = _find(request.POST.get("slug", "")).slug
        basket[slug] = basket.get(slug, 0) + 1
        request.session["basket"] = basket
        return redirect("basket")
    books = [BOOKS[slug] for slug in basket if slug in BOOKS]
    shelf = read(books).shelf if books else {}
    prices = {
        book: next(v for v in values if v.fact.name == "price")
        for book, values in shelf.items()
    }
    lines = [(book, basket[book.slug], price) for book, price in prices.items()]
    total = sum(number * price.value for _, number, price in lines)
    return render(request, "bookshop/basket.html", {"lines": lines, "total": total})


@cache_page(BESTSELLERS_SECONDS)
def bestsellers(request: HttpRequest) -> HttpResponse:
    """Show what is read most; the whole page is cached, for everybody the same."""
    readers = next(fact for fact in FACTS if fact.name == "readers")
    shelf = read(BOOKS.values()).shelf
    numbers = {
        book: next(value.value for value in values if value.fact is readers)
        for book, values in shelf.items()
    }
    ranked = sorted(numbers.items(), key=lambda pair: -pair[1])[:20]
    context = {"ranked": ranked, "made": timezone.now(), "seconds": BESTSELLERS_SECONDS}
    return render(request, "bookshop/bestsellers.html", context)


def almanac(request: HttpRequest) -> HttpResponse:
    """Show an expensive page; on POST let a crowd request it."""
    report = compute_almanac()
    context = {
        **report,
        "made": datetime.fromtimestamp(report["made"], UTC),
        "rushes": rush() if request.method == "POST" else [],
        "readers": READERS,
        "seconds": COMPUTING_SECONDS,
    }
    return render(request, "bookshop/almanac.html", context)


@require_POST
def forget(request: HttpRequest) -> HttpResponse:
    """Empty the cache, or take out every third value, so that there are misses to see."""
    cache = get_cache()
    if "everything" in request.POST:
        cache.clear()
    else:
        keys = [fact.key(book) for book in BOOKS.values() for fact in FACTS]
        cache.delete_many(keys[::3])
    return redirect("front")


@ratelimit(limits=[("ip", "20/m"), ("post:name", "5/m")], method=UNSAFE)
def log_in(request: HttpRequest) -> HttpResponse:
    """Log a customer in: five tries a minute for a name, twenty for an address."""
    name, wrong = request.POST.get("name", ""), False
    if request.method == "POST":
        password = request.POST.get("password", "")
        tried, right = f"{name} {password}", f"{NAME} {PASSWORD}"
        if secrets.compare_digest(tried.encode(), right.encode()):
            request.session.cycle_key()
            request.session["customer"] = name
            return redirect("front")
        wrong = True
    context = {"name": name, "wrong": wrong, "known": (NAME, PASSWORD)}
    return render(request, "bookshop/login.html", context)


@require_POST
def log_out(request: HttpRequest) -> HttpResponse:
    """Log the customer out. The basket stays."""
    request.session.pop("customer", None)
    request.session.cycle_key()
    return redirect("front")


def limits(request: HttpRequest) -> HttpResponse:
    """Show a limit filling up on POST, and draining."""
    visitor = request.session.setdefault("visitor", secrets.token_hex(8))
    times = {"one": 1, "five": 5}.get(request.POST.get("times", ""), 0)
    gauges = ask(visitor, times)
    context = {
        "gauges": gauges,
        "rate": RATE,
        "times": times,
        "is_draining": any(gauge.usage.used for gauge in gauges),
    }
    return render(request, "bookshop/limits.html", context)


def _find(slug: str) -> Book:
    try:
        return BOOKS[slug]
    except KeyError:
        raise Http404(f"There is no book {slug!r}.") from None


def _seen(request: HttpRequest) -> list[Book]:
    return [BOOKS[slug] for slug in request.session.get("seen", []) if slug in BOOKS]
