"""What the limits of a view ask the nodes, worked out as far as requests have it in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

from .algorithms import HIT
from .limiter import Limit
from .rates import Rate

if TYPE_CHECKING:
    from .keys import Value
    from .policies import Policy

_DIGEST_SIZE = 16
_ANY_DIGEST = "0" * 2 * _DIGEST_SIZE


@dataclass(slots=True)
class Question:
    """What one limit asks for one request.

    Attributes:
        meter: of the limit.
        digest: of what is counted.
        key: the key of the limit as it is stored.
        command: charges the limit.
    """

    meter: Meter
    digest: str
    key: bytes
    command: bytes

    @property
    def limit(self) -> Limit:
        """The limit, as the limiter takes it."""
        return self.meter.limit(self.digest)


class Meter:
    """A policy with a name, a group and a rate.

    Attributes:
        policy: the policy.
        name: what the fields of answers call the limit.
        group: what is counted together.
        rate: how many.
        algorithm: how they are counted.
        rule: decides.
    """

    __slots__ = (
        "_after_key", "_before_key", "_head", "_prefix", "_seed", "algorithm", "group", "name",
        "policy", "rate", "rule",
    )  # fmt: skip

    def __init__(
        self, policy: Policy, name: str, group: str, rate: Rate, prefix: str, algorithm: str
    ) -> None:
        self.policy = policy
        self.name = name
        self.group = group
        self.rate = rate
        self.algorithm = policy.algorithm or algorithm
        self.rule = self.limit(_ANY_DIGEST).rule
        self._prefix = prefix
        methods = ",".join(sorted(policy.methods or ()))
        self._seed = blake2b(f"{methods}:".encode(), digest_size=_DIGEST_SIZE)
        key = self.rule.make_key(prefix, self._name(_ANY_DIGEST))
        # Of some groups all keys are stored as digests, of which this one is not the end.
        head, digest, _ = key.partition(_ANY_DIGEST.encode())
        self._head = head if digest else None
        charge = self.rule.encode(HIT, policy.cost)
        command = self.rule.script.evalsha % (len(key), key, charge)
        self._before_key, self._after_key = command.split(key)

    def ask(self, value: Value) -> Question:
        """Return the question for a request that is counted by a value.

        What a client sends is in a digest alone. It may be long, or anything.
        """
        kind, counted = value
        seed = self._seed.copy()
        seed.update(kind + counted)
        digest = seed.hexdigest()
        if self._head is not None:
            key = self._head + digest.encode()
        else:
            key = self.rule.make_key(self._prefix, self._name(digest))
        return Question(self, digest, key, self._before_key + key + self._after_key)

    def limit(self, digest: str) -> Limit:
        """Return the limit that counts what has a digest."""
        policy = self.policy
        return Limit(
            key=self._name(digest),
            rate=self.rate,
            cost=policy.cost,
            algorithm=self.algorithm,
            burst=policy.burst,
            block=policy.block,
        )

    def _name(self, digest: str) -> str:
        return f"{self.group}:{digest}"


make_meter = lru_cache(maxsize=1024)(Meter)
