"""Drifts of a solver's temperature: seen when they are there, in draws of any size, and not when they are not."""

import numpy as np
import pytest

from sampler.qpu.drift import READS, DriftWatch

SPINS = 60


def pulls_of(rng, reads, r):
    """−2 s f of independent spins drawn at the scale r of the temperature that is assumed."""
    fields = rng.normal(0.0, 0.5, SPINS)
    spins = np.where(rng.random((reads, SPINS)) < 1.0 / (1.0 + np.exp(2.0 * r * fields)), 1.0, -1.0)
    return -2.0 * spins * fields


def test_small_draws_raise_no_false_alarm(rng):
    # 3000 draws, none of which drifts: a false alarm in 40 runs of this test at most, by the watch's own bound; the
    # seed is fixed. Errors by a bootstrap of single reads would raise one in nearly every draw.
    watch = DriftWatch(0.05)
    for number in range(3000):
        assert watch.see("key", "then", pulls_of(rng, 1 + number % 7, 1.0), 1.0, 0.01) is None


@pytest.mark.parametrize("reads", [1, 4, 60, 1000])
@pytest.mark.parametrize("r", [0.7, 1.4])
def test_a_drift_is_seen_whatever_the_size_of_draws(rng, reads, r):
    watch = DriftWatch(0.05)
    for _ in range(-(-READS // reads)):
        watch.see("key", "then", pulls_of(rng, reads, 1.0), 1.0, 0.01)
    assert watch.of("key", "then") is None
    for _ in range(-(-READS // reads)):
        change = watch.see("key", "then", pulls_of(rng, reads, r), 1.0, 0.01)
    assert change is not None
    assert (change > 0.1) == (r > 1)
    assert change == watch.of("key", "then")
    # It is that of this calibration alone, and is over when the draws say so.
    assert watch.of("key", "now") is None
    assert watch.of("other", "then") is None
    for _ in range(-(-READS // reads)):
        change = watch.see("key", "then", pulls_of(rng, reads, 1.0), 1.0, 0.01)
    assert change is None


def test_a_new_calibration_starts_anew(rng):
    watch = DriftWatch(0.05)
    assert watch.see("key", "then", pulls_of(rng, 500, 1.5), 1.0, 0.01) is not None
    assert watch.see("key", "now", pulls_of(rng, 1, 1.5), 1.0, 0.01) is None


def test_an_uncertain_calibration_is_no_ground_for_an_alarm(rng):
    assert DriftWatch(0.05).see("key", "then", pulls_of(rng, 500, 1.2), 1.0, 0.1) is None
    assert DriftWatch(0.05).see("key", "then", pulls_of(rng, 500, 1.2), 1.0, 0.01) is not None
