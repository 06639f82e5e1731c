"""What the scripts decide, at times that the tests choose."""

from __future__ import annotations

import random
import struct
from fractions import Fraction
from math import inf
from typing import Any

import pytest

from django_rb.engine import Cluster
from django_rb.ratelimit import Limit, Rate
from tests.ratelimit.models import MODELS, decide
from tests.ratelimit.scripts import START, Driver, Step

ALGORITHMS = sorted(MODELS)
EXACT = ["fixed-window", "token-bucket"]
SECOND = 10**6
MINUTE = 60 * SECOND

# Thin and thick ones, whose emission interval is no whole number, up to what is counted in
# whole seconds; with the period's length in a burst of requests as the last number.
RATES = [
    (Rate(1, 1), None),
    (Rate(7, 60), None),
    (Rate(100, 60), 7),
    (Rate(3, 600), 50),
    (Rate(1000, 1), None),
    (Rate(10**7, 86400), None),
    (Rate(10**10, 86400), None),
    (Rate(10**9, 30 * 86400), 10**9 + 1),
]


def start(cluster: Cluster, algorithm: str, count: int = 10, period: int = 60) -> Driver:
    return Driver(cluster, Limit("key", Rate(count, period), algorithm=algorithm))


def at_window(now: int, period: int = MINUTE) -> int:
    """Return when the next window begins."""
    return (now // period + 1) * period


def random_steps(generator: random.Random, rate: Rate, capacity: int, count: int) -> list[Step]:
    """Return requests at random times: crowds, trickles, and silences of several periods."""
    now = START
    steps: list[Step] = []
    costs = [0, 1, 1, 1, 2, capacity // 7, capacity // 2, capacity, capacity + 1]
    while len(steps) < count:
        pause = rate.period * SECOND * generator.choice([0.0, 0.02, 0.1, 0.5, 1.0, 3.0])
        if generator.random() < 0.1:  # the very edge of a window, or near it
            now = at_window(now, rate.period * SECOND) + generator.randrange(-1500, 1500)
        for _ in range(generator.randrange(1, 20)):
            now += int(generator.random() * pause / 10)
            action = "peek" if generator.random() < 0.1 else "hit"
            steps.append((now, action, generator.choice(costs)))
    return sorted(steps[:count], key=lambda step: step[0])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_simulation_agrees_on_10_000_requests(algorithm: str, cluster: Cluster) -> None:
    generator = random.Random(algorithm)
    verdicts: set[tuple[str, bool]] = set()
    for n, (rate, given) in enumerate(RATES):
        burst = given if algorithm == "token-bucket" else None
        limit = Limit(f"key:{n}", rate, algorithm=algorithm, burst=burst)
        model = MODELS[algorithm](rate, burst)
        steps = random_steps(generator, rate, limit.capacity, 10_000 // len(RATES))
        tick = SECOND // limit.rule.ticks_per_second
        answers = Driver(cluster, limit).run(steps)
        for (now, action, cost), (allowed, used, *_) in zip(steps, answers, strict=True):
            seen = Fraction(now // tick * tick, SECOND)  # a script counts whole ticks
            expected = decide(model, seen, cost, charge=action == "hit")
            assert (allowed == 1, used) == expected, (rate, now, action, cost)
            verdicts.add((action, allowed == 1))
    assert len(verdicts) == 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_retry_after_is_the_first_moment_at_which_the_cost_is_allowed(
    algorithm: str, cluster: Cluster
) -> None:
    generator = random.Random(1)
    for n, (count, period, cost) in enumerate([(10, 60, 1), (7, 60, 3), (100, 7, 99)]):
        driver = Driver(cluster, Limit(f"{n}", Rate(count, period), algorithm=algorithm))
        now, waited = START // 1000 * 1000, 0
        for _ in range(60):
            now += int(generator.random() * period * SECOND / count) // 1000 * 1000
            driver.ask(now, "hit", generator.randrange(1, cost + 1))
            allowed, _, _, retry, *_ = driver.ask(now, "peek", cost)
            if allowed:
                assert retry == 0
            else:
                waited += 1
                assert not driver.allows(now + retry * 1000 - 1, cost)
                assert driver.allows(now + retry * 1000, cost)
        assert waited > 5


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_reset_is_the_first_moment_at_which_nothing_is_used(
    algorithm: str, cluster: Cluster
) -> None:
    driver = start(cluster, algorithm, 7)
    now = START // 1000 * 1000
    for step in range(10):
        _, used, reset, *_ = driver.ask(now + step * 5 * SECOND)
        assert used > 0
        end = now + step * 5 * SECOND + reset * 1000
        assert driver.ask(end - 1000, "peek")[1] > 0
        assert driver.ask(end, "peek")[1:3] == [0, 0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("count", [7, 10**10], ids=["ms", "s"])
def test_a_key_expires_when_nothing_is_used_any_more(
    count: int, algorithm: str, cluster: Cluster
) -> None:
    driver = start(cluster, algorithm, count, 86400)
    client: Any = cluster.get_local_client_for_key(driver.key)
    tick = 1000 // driver.limit.rule.ticks_per_second  # in milliseconds
    for now in (START, START + 5 * SECOND, START + 86400 * SECOND):
        reset = driver.ask(now, "hit", 2)[2]
        assert client.pexpiretime(driver.key) == (now // 1000 // tick + reset) * tick


def test_a_fixed_window_begins_at_a_multiple_of_its_period(cluster: Cluster) -> None:
    driver = start(cluster, "fixed-window")
    edge = at_window(START)
    assert driver.admit(edge - 1, 20) == 10
    assert driver.ask(edge - 1)[:4] == [0, 10, 1, 1]
    assert driver.admit(edge, 20) == 10


def test_a_sliding_window_weighs_what_the_one_before_has_left(cluster: Cluster) -> None:
    driver = start(cluster, "sliding-window")
    edge = at_window(START)
    assert driver.admit(edge - SECOND, 20) == 10
    assert driver.admit(edge, 20) == 0
    assert driver.admit(edge + 5 * SECOND, 20) == 0  # 10 * 55 / 60 is more than 9
    assert driver.admit(edge + 6 * SECOND, 20) == 1
    assert driver.admit(edge + 36 * SECOND, 20) == 5
    assert driver.admit(edge + 60 * SECOND, 20) == 4


@pytest.mark.parametrize("rate", [Rate(10, 60), Rate(3, 7), Rate(100, 60)], ids=str)
def test_a_sliding_window_keeps_its_bound_against_an_adversary(
    rate: Rate, cluster: Cluster
) -> None:
    # As many as possible at the end of a window, and whatever is allowed from then on.
    driver = Driver(cluster, Limit("key", rate, algorithm="sliding-window"))
    period = rate.period * SECOND
    edge = at_window(START, period)
    times = [edge - 1] * rate.count
    times += [edge + n * period // 97 for n in range(2 * 97) for _ in range(rate.count // 3)]
    answers = driver.run([(now, "hit", 1) for now in times])
    admitted = [now for now, answer in zip(times, answers, strict=True) if answer[0]]
    worst = 0
    for first, begin in enumerate(admitted):
        for last in range(first, len(admitted)):
            length = admitted[last] - begin
            if length <= period:
                count = last - first + 1
                assert count <= rate.count * (1 + Fraction(length, period))
                worst = max(worst, count)
    assert rate.count * 3 // 2 < worst < 2 * rate.count  # it is as bad as the docs say


def test_a_token_bucket_has_a_burst_and_fills_at_its_rate(cluster: Cluster) -> None:
    limit = Limit("key", Rate(60, 60), algorithm="token-bucket", burst=5)
    driver = Driver(cluster, limit)
    assert driver.admit(START, 20) == 5
    assert driver.ask(START)[3] == 1000
    assert driver.admit(START + SECOND, 20) == 1
    assert driver.admit(START + 3 * SECOND, 20) == 2
    assert driver.admit(START + 1000 * SECOND, 20) == 5


def test_a_token_bucket_loses_nothing_to_rounding(cluster: Cluster) -> None:
    # An interval of 8571.428… ms: in seven of them, exactly seven.
    driver = start(cluster, "token-bucket", 7)
    now = START // 1000 * 1000
    assert driver.admit(now, 8) == 7
    steps = [(now + n * 1000, "hit", 1) for n in range(600_001)][:: 1000 // 8]
    assert sum(answer[0] for answer in driver.run(steps)) == 70


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_clock_that_is_set_back_admits_no_more(algorithm: str, cluster: Cluster) -> None:
    driver = start(cluster, algorithm)
    edge = at_window(START)
    assert driver.admit(edge, 20) == 10
    assert driver.admit(edge - SECOND, 20) == 0
    assert driver.admit(edge - 59 * SECOND, 20) == 0
    assert driver.admit(edge, 20) == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_clock_that_was_far_ahead_locks_nobody_out(algorithm: str, cluster: Cluster) -> None:
    driver = start(cluster, algorithm)
    assert driver.admit(START + 10**6 * MINUTE, 20) == 10
    assert driver.admit(START, 20) == 10
    assert driver.admit(START, 20) == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_clock_that_jumps_ahead_begins_anew(algorithm: str, cluster: Cluster) -> None:
    driver = start(cluster, algorithm)
    assert driver.admit(START, 20) == 10
    assert driver.admit(START + 10**6 * MINUTE, 20) == 10


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_no_state_counts_as_none(algorithm: str, cluster: Cluster) -> None:
    driver = start(cluster, algorithm)
    client = cluster.get_local_client_for_key(driver.key)
    texts = (b"", b"x", b"1 2 3 4", b"-1 -1 -1")
    numbers = (
        b"rubbish " * 2,
        b"rubbish " * 3,
        b"rubbish 12345678",
        struct.pack(">2d", inf, 1),
        bytes(16),
        bytes(24),
        b"\xff" * 16,
        b"\xff" * 24,
    )
    for rubbish in texts + numbers:
        client.set(driver.key, rubbish)
        assert driver.admit(START, 20) == 10, rubbish
        assert client.pttl(driver.key) > 0, rubbish


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_numbers_stay_exact_where_a_double_has_no_room_to_spare(
    algorithm: str, cluster: Cluster
) -> None:
    for n, rate in enumerate([Rate(2**52, 1), Rate(10**10, 86400), Rate(1, 2**52)]):
        limit = Limit(f"{n}", rate, algorithm=algorithm)
        assert limit.capacity * rate.period * limit.rule.ticks_per_second <= 2**52
        driver = Driver(cluster, limit)
        assert driver.ask(START, "hit", rate.count - 1)[:2] == [1, rate.count - 1]
        assert driver.ask(START, "hit", 2)[:2] == [0, rate.count - 1]
        assert driver.ask(START, "hit", 1)[:2] == [1, rate.count]
        assert driver.ask(START, "hit", 1)[:2] == [0, rate.count]


class TestRefunds:
    """What is given back after another limit refused."""

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_refund_leaves_nothing_of_the_charge(
        self, algorithm: str, cluster: Cluster
    ) -> None:
        driver = start(cluster, algorithm)
        *_, charged_at, before = driver.ask(START, "hit", 3)
        assert driver.ask(START, "refund", 3, charged_at, before)[1] == 0
        assert cluster.get_local_client_for_key(driver.key).exists(driver.key) == 0

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_refund_leaves_the_charges_of_others(
        self, algorithm: str, cluster: Cluster
    ) -> None:
        driver = start(cluster, algorithm)
        driver.ask(START, "hit", 2)
        *_, charged_at, before = driver.ask(START, "hit", 3)
        driver.ask(START, "hit", 4)
        assert driver.ask(START, "refund", 3, charged_at, before)[1] == 6
        assert driver.admit(START, 20) == 4

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("later", [SECOND, MINUTE])
    def test_a_refund_extends_no_expiry(
        self, later: int, algorithm: str, cluster: Cluster
    ) -> None:
        driver = start(cluster, algorithm)
        client: Any = cluster.get_local_client_for_key(driver.key)
        driver.ask(START, "hit", 2)
        *_, charged_at, before = driver.ask(START, "hit", 3)
        expires = client.pexpiretime(driver.key)
        driver.ask(START + later, "refund", 3, charged_at, before)
        assert client.pexpiretime(driver.key) == expires

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("later", [MINUTE, 2 * MINUTE, 10 * MINUTE])
    def test_a_late_refund_takes_nothing_from_later_windows(
        self, later: int, algorithm: str, cluster: Cluster
    ) -> None:
        driver = start(cluster, algorithm)
        edge = at_window(START)
        *_, charged_at, before = driver.ask(edge, "hit", 3)
        used = driver.ask(edge + later, "hit", 5)[1]
        left = driver.ask(edge + later, "refund", 3, charged_at, before)[1]
        # In the window after, a sliding window still has all of the charge at first.
        is_weighed = algorithm == "sliding-window" and later == MINUTE
        assert (used, left) == (8 if is_weighed else 5, 5)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_refund_of_what_was_forgotten_takes_nothing(
        self, algorithm: str, cluster: Cluster
    ) -> None:
        driver = start(cluster, algorithm)
        *_, charged_at, before = driver.ask(START, "hit", 3)
        client = cluster.get_local_client_for_key(driver.key)
        client.delete(driver.key)
        assert driver.ask(START, "refund", 3, charged_at, before)[:2] == [1, 0]
        assert client.exists(driver.key) == 0
        driver.ask(START, "hit", 1)
        assert driver.ask(START, "refund", 3, charged_at, before)[1] == 0  # not below

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_refund_of_a_charge_from_the_future_takes_nothing(
        self, algorithm: str, cluster: Cluster
    ) -> None:
        """The clock was set back so far that the charge is forgotten."""
        driver = start(cluster, algorithm)
        *_, charged_at, before = driver.ask(START + 10 * MINUTE, "hit", 3)
        assert driver.ask(START, "hit", 5)[1] == 5
        assert driver.ask(START, "refund", 3, charged_at, before)[1] == 5

    def test_a_refund_is_whole_where_the_bucket_was_not_empty_since(
        self, cluster: Cluster
    ) -> None:
        limit = Limit("key", Rate(60, 60), algorithm="token-bucket")
        driver = Driver(cluster, limit)
        driver.ask(START, "hit", 50)
        *_, charged_at, before = driver.ask(START, "hit", 3)
        driver.ask(START + SECOND, "hit", 5)
        refunded = driver.ask(START + 10 * SECOND, "refund", 3, charged_at, before)
        assert refunded[1] == 50 + 5 - 10

    def test_a_refund_never_makes_room_in_a_bucket_that_was_not_there(
        self, cluster: Cluster
    ) -> None:
        """Whatever happens in between, no more is free than without the charge."""
        generator = random.Random(2)
        for n in range(40):
            rate = Rate(generator.choice([3, 7, 60]), 60)
            with_charge, without = (
                Driver(cluster, Limit(f"{n}:{name}", rate, algorithm="token-bucket"))
                for name in ("with", "without")
            )
            now = START + generator.randrange(SECOND)
            for _ in range(generator.randrange(3)):
                for driver in (with_charge, without):
                    driver.ask(now)
                now += generator.randrange(5 * SECOND)
            allowed, *_, charged_at, before = with_charge.ask(now)
            for _ in range(generator.randrange(3)):
                now += generator.randrange(20 * SECOND)
                if with_charge.ask(now)[0]:
                    without.ask(now)
            now += generator.randrange(20 * SECOND)
            if allowed:
                with_charge.ask(now, "refund", 1, charged_at, before)
            # The level itself, finer than what is used in whole requests.
            level, level_without = (
                driver.ask(now, "peek")[5] for driver in (with_charge, without)
            )
            assert level >= level_without
            interval = 60_000
            assert level - level_without <= interval
