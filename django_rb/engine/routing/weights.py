"""How the weights of hosts count where they compete for keys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..errors import BadHostSetup
from ..wording import number_of


def checked_weights(
    host_ids: Sequence[int], weights: Mapping[int, float]
) -> dict[int, float] | None:
    """Return every host's weight, or None if all are equal."""
    if not isinstance(weights, Mapping):
        raise BadHostSetup(
            f"{weights!r} is not a dictionary of weights, {{host id: weight}}.",
            ("ROUTER_OPTIONS", "weights"),
        )
    weights = {number_of(host): number_of(weight) for host, weight in weights.items()}
    for host_id, weight in weights.items():
        path = ("ROUTER_OPTIONS", "weights", host_id)
        if host_id not in host_ids:
            raise BadHostSetup(
                f"There is a weight for host id {host_id!r}, but no such host. "
                f"Host ids are: {', '.join(map(str, host_ids))}.",
                path,
            )
        if (
            isinstance(weight, bool)
            or not isinstance(weight, int | float)
            or not 0 < weight < math.inf
        ):
            raise BadHostSetup(
                f"{weight!r} is not a weight. A weight is a number above 0, such as 0.5 or 2.",
                path,
            )
    if len({weights.get(host_id, 1) for host_id in host_ids}) == 1:
        return None
    return {host_id: weights.get(host_id, 1) for host_id in host_ids}


def weighted(score: int, weight: float) -> float:
    """Return a host's score, so that hosts have the highest one in proportion to their weights.

    The logarithmic method: Schindelhauer and Schomaker, "Weighted distributed hash
    tables", SPAA 2005.
    """
    # The upper 52 bits and a half are exact in a float, and neither 0 nor 1.
    return -weight / math.log(((score >> 12) + 0.5) / 2**52)
