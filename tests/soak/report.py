"""What a soak counts, put together and printed."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

SAMPLES = 10


@dataclass
class Tally:
    """What one thread or process, or all of them, did and saw.

    Attributes:
        operations: how many of each kind.
        hits: how many values came back and were right.
        failures: operations with failures, by class of the exception. All are allowed.
        unexpected: exceptions that no node's failure explains, with samples.
        wrong: values that cannot be, with samples.
        longest: seconds of the longest call of each kind.
        over_bound: by how many seconds the worst call exceeded what is promised.
        health: changes of the nodes' health, by the state that they led to.
    """

    operations: Counter[str] = field(default_factory=Counter)
    hits: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    unexpected: int = 0
    wrong: int = 0
    samples: list[str] = field(default_factory=list)
    longest: dict[str, float] = field(default_factory=dict)
    over_bound: float = 0.0
    health: Counter[str] = field(default_factory=Counter)

    def took(self, kind: str, seconds: float, over_bound: float) -> None:
        """Count a call."""
        self.operations[kind] += 1
        self.longest[kind] = max(self.longest.get(kind, 0.0), seconds)
        self.over_bound = max(self.over_bound, over_bound)

    def add_sample(self, text: str) -> None:
        """Keep what went wrong, if there is not enough of it yet."""
        if len(self.samples) < SAMPLES:
            self.samples.append(text)

    def add(self, other: Tally) -> None:
        """Count what another counted, which may go on counting."""
        self.operations.update(dict(other.operations))
        self.hits += other.hits
        self.failures.update(dict(other.failures))
        self.unexpected += other.unexpected
        self.wrong += other.wrong
        self.health.update(dict(other.health))
        self.over_bound = max(self.over_bound, other.over_bound)
        for sample in list(other.samples):
            self.add_sample(sample)
        for kind, seconds in dict(other.longest).items():
            self.longest[kind] = max(self.longest.get(kind, 0.0), seconds)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can have it."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Tally:
        """Return what `as_json` gave."""
        counters = ("operations", "failures", "health")
        return cls(**{**said, **{name: Counter(said[name]) for name in counters}})

    @property
    def longest_call(self) -> tuple[str, float]:
        """The kind and the seconds of the longest call."""
        return max(self.longest.items(), key=lambda item: item[1], default=("none", 0.0))


@dataclass
class Ending:
    """What a process found when all nodes were alive again.

    Attributes:
        back_after: seconds until each node had served it; None if one did not.
        missing: nodes that did not serve it, and what they said.
        descriptors_at_start: open descriptors before it was connected to anything.
        descriptors_with_connections: with its pools as they were at the end.
        descriptors_at_end: once the pools were closed.
        stray: what it found in a connection that was in a pool; None for nothing.
    """

    back_after: float | None = None
    missing: list[str] = field(default_factory=list)
    descriptors_at_start: int = 0
    descriptors_with_connections: int = 0
    descriptors_at_end: int = 0
    stray: str | None = None


@dataclass
class Report:
    """A soak's outcome.

    Attributes:
        about: its options and the versions of what took part.
        seconds: how long it went on.
        tally: of all processes together.
        endings: of each process; None for one that did not end by itself.
        chaos: what was done to nodes.
        slack: by how many seconds a call may exceed what is promised.
    """

    about: dict[str, Any]
    seconds: float
    tally: Tally
    endings: list[Ending | None]
    chaos: Counter[str]
    slack: float

    @property
    def problems(self) -> list[str]:
        """Why the soak failed; nothing if it passed."""
        tally, found = self.tally, []
        if not tally.hits:
            found.append("no value came back")
        if tally.wrong:
            found.append(f"{tally.wrong} wrong values")
        if tally.unexpected:
            found.append(f"{tally.unexpected} exceptions that no node's failure explains")
        if tally.over_bound > self.slack:
            found.append(f"a call took {tally.over_bound:.2f} s more than is promised")
        for number, ending in enumerate(self.endings):
            found += [f"process {number} {problem}" for problem in _problems_of(ending)]
        return found

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can have it."""
        tally = self.tally
        operations = tally.operations.total()
        kind, longest = tally.longest_call
        return {
            "about": self.about,
            "seconds": round(self.seconds, 1),
            "operations": operations,
            "operations_per_second": round(operations / self.seconds, 1),
            "operations_by_kind": dict(sorted(tally.operations.items())),
            "hits": tally.hits,
            "failures": dict(sorted(tally.failures.items())),
            "unexpected": tally.unexpected,
            "wrong_values": tally.wrong,
            "samples": tally.samples,
            "longest_call": {"kind": kind, "seconds": longest, "over_bound": tally.over_bound},
            "health_changes": dict(sorted(tally.health.items())),
            "chaos": dict(sorted(self.chaos.items())),
            "processes": [ending and asdict(ending) for ending in self.endings],
            "problems": self.problems,
        }

    def as_table(self) -> str:
        """Return it for people."""
        said = self.as_json()
        longest = said["longest_call"]
        rows: list[tuple[str, object]] = [(name, value) for name, value in self.about.items()]
        rows += [
            ("seconds", said["seconds"]),
            ("operations", f"{said['operations']:,}"),
            ("operations/s", f"{said['operations_per_second']:,}"),
            *((f"  {kind}", f"{n:,}") for kind, n in said["operations_by_kind"].items()),
            ("values that were right", f"{said['hits']:,}"),
            ("wrong values", said["wrong_values"]),
            ("failures", f"{sum(said['failures'].values()):,}"),
            *((f"  {kind}", f"{n:,}") for kind, n in said["failures"].items()),
            ("unexpected exceptions", said["unexpected"]),
            ("longest call", f"{longest['seconds']:.3f} s ({longest['kind']})"),
            ("  more than is promised", f"{longest['over_bound']:.3f} s"),
            ("changes of health", _counts(said["health_changes"])),
            ("done to nodes", _counts(said["chaos"])),
        ]
        for number, ending in enumerate(self.endings):
            rows += [(f"process {number}", _line_of(ending))]
        lines = [f"{name:26} {value}" for name, value in rows]
        lines += [f"  {sample}" for sample in self.tally.samples]
        problems = self.problems
        lines.append("FAILED: " + "; ".join(problems) if problems else "passed")
        return "\n".join(lines)


def _problems_of(ending: Ending | None) -> list[str]:
    if ending is None:
        return ["died"]
    problems = []
    if ending.back_after is None:
        problems.append(f"did not get its values back from {'; '.join(ending.missing)}")
    if ending.descriptors_at_end > ending.descriptors_at_start:
        problems.append(
            f"has {ending.descriptors_at_end - ending.descriptors_at_start} descriptors more "
            "than at its start"
        )
    if ending.stray is not None:
        problems.append(f"had a connection in doubt in a pool: {ending.stray}")
    return problems


def _line_of(ending: Ending | None) -> str:
    if ending is None:
        return "died"
    back = "never" if ending.back_after is None else f"after {ending.back_after:.2f} s"
    return (
        f"nodes back {back}; descriptors: {ending.descriptors_at_start} at the start, "
        f"{ending.descriptors_with_connections} with connections, "
        f"{ending.descriptors_at_end} at the end"
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
