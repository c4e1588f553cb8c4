"""Rates of API keys: a token bucket that a large request may overdraw, and that has to be made up for."""

import pytest

from qshower.service.generation.key_rate import KeyRates
from qshower.service.service_errors import RateError


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_no_key_draws_more_than_its_rate_in_the_long_run() -> None:
    clock = Clock()
    rates = KeyRates({"ada": 60.0}, clock)
    drawn = 0
    for _ in range(600):
        clock.now_s += 1.0
        try:
            rates.take("ada", 7)
            drawn += 7
        except RateError:
            pass
    assert 600 <= drawn <= 600 + 60 + 7


def test_a_large_request_is_taken_and_made_up_for() -> None:
    clock = Clock()
    rates = KeyRates({"ada": 60.0, "bob": 60.0}, clock)
    rates.take("ada", 240)
    with pytest.raises(RateError, match="'ada' may draw 60 showers a minute") as refused:
        rates.take("ada", 1)
    assert refused.value.retry_after_s == pytest.approx(181.0)
    rates.take("bob", 1)
    rates.take("", 1_000_000)
    assert rates.left() == {"ada": -180.0, "bob": 59.0}
    clock.now_s += refused.value.retry_after_s
    rates.take("ada", 1)


def test_what_was_refused_for_another_reason_counts_for_nothing() -> None:
    rates = KeyRates({"ada": 60.0}, Clock())
    rates.take("ada", 50)
    rates.give_back("ada", 50)
    rates.give_back("nobody", 1)
    assert rates.left() == {"ada": 60.0}


def test_a_rate_of_nothing_draws_nothing() -> None:
    with pytest.raises(RateError) as refused:
        KeyRates({"ada": 0.0}, Clock()).take("ada", 1)
    assert refused.value.retry_after_s == 60.0
