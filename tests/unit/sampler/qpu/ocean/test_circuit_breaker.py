from __future__ import annotations

import pytest

from qshower.sampler.errors import CircuitOpenError, SamplerTimeoutError
from qshower.sampler.qpu.ocean.circuit_breaker import CircuitBreaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(breaker: CircuitBreaker) -> None:
    breaker.failed(breaker.enter(), SamplerTimeoutError("late"))


def test_only_failures_in_a_row_open_it(clock: Clock) -> None:
    breaker = CircuitBreaker(3, 10.0, clock)
    for _ in range(5):
        fail(breaker)
        fail(breaker)
        breaker.enter()
        assert breaker.succeeded() is False
    assert breaker.state == "closed"
    assert breaker.retry_after_s is None


def test_it_lets_one_probe_through_after_the_cooldown(clock: Clock) -> None:
    breaker = CircuitBreaker(2, 10.0, clock)
    fail(breaker)
    fail(breaker)
    assert breaker.state == "open"
    clock.now = 4.0
    with pytest.raises(CircuitOpenError, match="2 times in a row, last: SamplerTimeoutError: late") as caught:
        breaker.enter()
    assert caught.value.retry_after_s == pytest.approx(6.0)
    clock.now = 10.0
    assert breaker.state == "half_open"
    breaker.enter()
    with pytest.raises(CircuitOpenError):
        breaker.enter()
    assert breaker.succeeded() is True
    assert breaker.state == "closed"
    breaker.enter()


def test_failed_probes_wait_longer_and_longer_up_to_a_limit(clock: Clock) -> None:
    breaker = CircuitBreaker(1, 10.0, clock)
    fail(breaker)
    waits = []
    for _ in range(6):
        waits.append(breaker.retry_after_s)
        clock.now += waits[-1] or 0.0
        fail(breaker)
    assert waits == pytest.approx([10, 20, 40, 80, 100, 100])


def test_a_probe_that_was_the_callers_fault_leaves_room_for_another(clock: Clock) -> None:
    breaker = CircuitBreaker(1, 1.0, clock)
    fail(breaker)
    clock.now = 2.0
    breaker.abandoned(breaker.enter())
    assert breaker.state == "half_open"
    breaker.enter()
    assert breaker.status().failures == 1


@pytest.mark.parametrize("end", ["failed", "abandoned"])
def test_the_late_end_of_an_older_call_lets_no_second_probe_through(clock: Clock, end: str) -> None:
    breaker = CircuitBreaker(2, 10.0, clock)
    older = breaker.enter()
    fail(breaker)
    fail(breaker)
    clock.now = 10.0
    probe = breaker.enter()
    if end == "failed":
        breaker.failed(older, SamplerTimeoutError("late"))
    else:
        breaker.abandoned(older)
    with pytest.raises(CircuitOpenError):
        breaker.enter()
    # Nor is the older one taken for the probe: that alone sets the next wait.
    assert breaker.retry_after_s == 0.0
    breaker.failed(probe, SamplerTimeoutError("late"))
    assert breaker.retry_after_s == pytest.approx(20.0)
