"""Pages that change something: each asks for confirmation, and shows the result."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

from django.core.management.base import CommandError
from django.http import Http404, HttpRequest, HttpResponse

from ... import conf
from ...cache.expiry import EXPIRE
from ...cache.keys import loggable
from ...engine.protocol.answers import is_number
from ...engine.rounds.scripts import run_script
from ...management.base import NodeName, name_of
from ...management.flushing import Target, call, count_keys, find_targets, names
from ...management.output import Progress, count_of
from ...management.scanning import Nodes
from .browser import UNKNOWN_OWNERS, find_entry, stored_text
from .conf import get_options
from .logbook import CHANGED, DELETED, note
from .overview import get_cluster
from .pages import Pages
from .shown import node_name
from .where import Where, asked, from_text, get_where, to_text

COUNT_SECONDS = 2.0
DELETE_SECONDS = 10.0
SAMPLE = 20  # keys that are shown of those that would be deleted
LONGEST = 10**9  # seconds, about 31 years


def expiry(pages: Pages, request: HttpRequest) -> HttpResponse:
    """Ask when a key should expire; change that on POST."""
    where, stored = get_where(asked(request, "where")), from_text(asked(request, "key"))
    entry, problem = _find(where, stored)
    typed, mistake = asked(request, "seconds").strip(), ""
    if entry is not None and request.method == "POST":
        never = bool(asked(request, "never"))
        seconds = None if never else _seconds(typed)
        if seconds != 0 and not (never and typed):
            result, is_changed = _expire(where, stored, seconds)
            if is_changed:
                note(request, CHANGED, node_name(entry.node), loggable(stored), result)
            return _done(
                pages,
                request,
                "Time to live",
                {name_of(entry.node): result},
                failed=not is_changed,
                back=pages.url(request, "key", where=where.text, key=to_text(stored)),
            )
        mistake = "Enter either a whole number of seconds, 1 or more, or select 'Never expire'."
    return pages.render(
        request,
        "expiry.html",
        "Change expiry",
        **_key_context(pages, request, where, stored),
        entry=entry,
        problem=problem,
        mistake=mistake,
        seconds=typed,
    )


def delete_key(pages: Pages, request: HttpRequest) -> HttpResponse:
    """Ask whether a key should be deleted; delete it on POST."""
    where, stored = get_where(asked(request, "where")), from_text(asked(request, "key"))
    entry, problem = _find(where, stored)
    if entry is not None and request.method == "POST":
        nodes = Nodes(where.keyspace.clusters, get_options().timeout)
        deleted = nodes.delete({entry.node: [stored]})
        if error := nodes.failures.get(entry.node):
            result = f"It may still be there: {error}"
        else:
            result = "Deleted." if deleted.get(entry.node) else "It had already been deleted."
            note(request, DELETED, node_name(entry.node), loggable(stored), result)
        return _done(
            pages,
            request,
            "Delete a key",
            {name_of(entry.node): result},
            failed=error is not None,
            back=pages.url(request, "keys", where=where.text),
        )
    return pages.render(
        request,
        "delete_key.html",
        "Delete a key",
        **_key_context(pages, request, where, stored),
        entry=entry,
        problem=problem,
    )


def delete_keys(pages: Pages, request: HttpRequest) -> HttpResponse:
    """Count the keys that match a pattern, and ask for confirmation; delete them on POST."""
    where, typed = get_where(asked(request, "where")), asked(request, "pattern")
    back = pages.url(request, "keys", where=where.text, pattern=typed or "*")
    nodes = Nodes(where.keyspace.clusters, get_options().timeout)
    try:
        pattern = where.keyspace.pattern(typed)
    except CommandError as error:
        return _done(pages, request, "Delete keys", {"": str(error)}, failed=True, back=back)
    if request.method == "POST":
        counts, is_all = _delete(nodes, pattern)
        total = sum(counts.values())
        rest = "" if is_all else " The time limit was reached; more keys may be left."
        note(request, DELETED, where.alias, f"{where}: {typed}", f"{total} keys deleted.{rest}")
        results = {name_of(n): f"{count_of(number)} deleted" for n, number in counts.items()}
        results |= {name_of(n): f"failed: {error}" for n, error in nodes.failures.items()}
        return _done(
            pages,
            request,
            f"{count_of(total)} keys deleted.{rest}",
            results,
            failed=bool(nodes.failures) or not is_all,
            back=back,
        )
    counts, sample, is_all = _count(nodes, pattern)
    return pages.render(
        request,
        "delete_keys.html",
        "Delete keys",
        where=where,
        pattern=typed,
        is_everything=not typed.strip("*"),
        total=sum(counts.values()),
        is_all=is_all,
        counts={name_of(node): number for node, number in counts.items()},
        errors={name_of(node): str(error) for node, error in nodes.failures.items()},
        sample=[where.keyspace.readable(key) for key in sample],
        back=back,
        overview_url=pages.url(request, "overview"),
        keys_url=back,
    )


def flush(pages: Pages, request: HttpRequest) -> HttpResponse:
    """Count the keys of a cluster or a node, and ask for confirmation; delete all on POST."""
    alias, host = asked(request, "cluster"), asked(request, "host")
    chosen = {alias: get_cluster(alias)}
    targets = find_targets(chosen, all_databases=False)
    if host:
        targets = [target for target in targets if (alias, host) in _names(target)]
        if not targets:
            raise Http404("There is no such node.")
    timeout, mistake = get_options().timeout, ""
    what = f"{alias} {host}" if host else alias
    if request.method == "POST":
        if asked(request, "typed") == what:
            call(chosen, targets, "FLUSHDB", "ASYNC", timeout=timeout)
            results = {
                names(target): f"failed: {target.error}" if target.error else "emptied"
                for target in targets
            }
            said = ", ".join(f"{name}: {result}" for name, result in results.items())
            note(request, DELETED, f"{alias}.{host}" if host else alias, what, f"Flush: {said}")
            return _done(
                pages,
                request,
                f"Flush {what}",
                results,
                failed=any(target.error for target in targets),
                back=pages.url(request, "overview"),
            )
        mistake = f"Type {what!r} to confirm."
    count_keys(chosen, targets, timeout, all_databases=False)
    return pages.render(
        request,
        "flush.html",
        f"Flush {what}",
        cluster=alias,
        host=host,
        what=what,
        targets=[(names(target), target) for target in targets],
        total=sum(target.keys or 0 for target in targets),
        has_errors=any(target.error for target in targets),
        others=sorted(_sharing(alias, targets)),
        mistake=mistake,
        overview_url=pages.url(request, "overview"),
    )


def _seconds(text: str) -> int:
    """Return the seconds that were entered, 0 if they are invalid."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(LONGEST))
    return int(text) if is_number and int(text) < LONGEST else 0


def _expire(where: Where, stored: bytes, seconds: int | None) -> tuple[str, bool]:
    """Set a key to expire in `seconds`, or never; return a message, and whether it worked."""
    # The script handles the tails of computed values.
    script = (
        run_script(where.cluster, stored, EXPIRE, b"PERSIST", 0, answer=is_number)
        if seconds is None
        else run_script(
            where.cluster, stored, EXPIRE, b"PEXPIRE", 1000 * seconds, answer=is_number
        )
    )
    reply, failures = where.cluster.run(script, get_options().timeout)
    if failures:
        return f"It may not have changed: {failures[0].error}", False
    if seconds is None:
        return "It never expires.", True
    if not reply:
        return "Nothing has changed: the key no longer exists.", False
    return f"It expires in {seconds:,} second{'' if seconds == 1 else 's'}.", True


def _names(target: Target) -> list[tuple[str, str]]:
    return [(alias, str(host_id)) for alias, host_id in target.names]


def _sharing(alias: str, targets: list[Target]) -> set[str]:
    """Return the other clusters that use one of the databases."""
    places = {(target.address, target.database) for target in targets}
    others = {name: get_cluster(name) for name in conf.get_aliases() if name != alias}
    return {
        name
        for target in find_targets(others, all_databases=False)
        if (target.address, target.database) in places
        for name, _ in target.names
    }


def _find(where: Where, stored: bytes) -> tuple[Any, str]:
    if not where.is_known:
        return None, UNKNOWN_OWNERS
    return find_entry(Nodes(where.keyspace.clusters, get_options().timeout), where, stored)


def _key_context(
    pages: Pages, request: HttpRequest, where: Where, stored: bytes
) -> dict[str, Any]:
    same = {"where": where.text, "key": to_text(stored)}
    return {
        "where": where,
        "text": where.keyspace.readable(stored),
        "stored": stored_text(where, stored),
        "key": same["key"],
        "key_url": pages.url(request, "key", **same),
        "keys_url": pages.url(request, "keys", where=where.text),
        "overview_url": pages.url(request, "overview"),
    }


def _count(nodes: Nodes, pattern: bytes) -> tuple[dict[NodeName, int], list[bytes], bool]:
    """Return how many keys match, some of them, and whether there was time to scan all."""
    end, sizes = monotonic() + COUNT_SECONDS, nodes.sizes()
    counts, sample = dict.fromkeys(sizes, 0), list[bytes]()
    for found in nodes.scan(pattern, sizes, Progress(None, "", None, "")):
        if monotonic() > end:
            return counts, sample, False
        for node, keys in found.items():
            counts[node] += len(keys)
            sample += keys[: SAMPLE - len(sample)]
    return counts, sample, True


def _delete(nodes: Nodes, pattern: bytes) -> tuple[dict[NodeName, int], bool]:
    """Delete keys that match; return how many, and whether there was time for all."""
    end, sizes = monotonic() + DELETE_SECONDS, nodes.sizes()
    counts = dict.fromkeys(sizes, 0)
    for found in nodes.scan(pattern, sizes, Progress(None, "", None, "")):
        if monotonic() > end:
            return counts, False
        for node, number in nodes.delete(found).items():
            counts[node] += number
    return counts, True


def _done(
    pages: Pages,
    request: HttpRequest,
    title: str,
    results: Mapping[str, str],
    *,
    failed: bool,
    back: str,
) -> HttpResponse:
    """Show and log what was done, by node."""
    return pages.render(
        request,
        "done.html",
        title,
        results=results,
        failed=failed,
        back=back,
        overview_url=pages.url(request, "overview"),
    )
