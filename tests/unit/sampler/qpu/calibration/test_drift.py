"""Drifts of a solver's temperature: seen when they are there, in draws of any size, and not when they are not."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq

from qshower.sampler.qpu.calibration.drift import READS, DriftWatch, Observation, Reference

SPINS = 60


def pulls_of(
    rng: np.random.Generator,
    reads: int,
    r: float,
    fields: NDArray[np.float64] | None = None,
    noise: float | NDArray[np.float64] = 0.0,
) -> NDArray[np.float64]:
    """−2 s f of independent spins in ``fields`` drawn at the scale r of the assumed temperature, in random fields."""
    fields = rng.normal(0.0, 0.5, SPINS) if fields is None else fields
    spins = np.where(rng.random((reads, SPINS)) < 1.0 / (1.0 + np.exp(2.0 * r * (fields + noise))), 1.0, -1.0)
    return -2.0 * spins * fields


def see(
    watch: DriftWatch,
    pulls: NDArray[np.float64],
    *,
    calibrated_at: str = "then",
    error: float = 0.01,
    variance: float = 0.0,
    place: int | None = 0,
) -> float | None:
    return watch.see(Reference("key", calibrated_at, 1.0, error, variance), [Observation.at(pulls, 1.0, place)])


def test_small_draws_raise_no_false_alarm(rng: np.random.Generator) -> None:
    # 3000 draws, none of which drifts: a false alarm in 40 runs of this test at most, by the watch's own bound; the
    # seed is fixed. Errors by a bootstrap of single reads would raise one in nearly every draw.
    watch = DriftWatch(0.05)
    for number in range(3000):
        assert see(watch, pulls_of(rng, 1 + number % 7, 1.0)) is None


@pytest.mark.parametrize("reads", [1, 4, 60, 1000])
@pytest.mark.parametrize("r", [0.7, 1.4])
def test_a_drift_is_seen_whatever_the_size_of_draws(rng: np.random.Generator, reads: int, r: float) -> None:
    watch = DriftWatch(0.05)
    for _ in range(-(-READS // reads)):
        see(watch, pulls_of(rng, reads, 1.0))
    assert watch.of("key", "then") is None
    for _ in range(-(-READS // reads)):
        change = see(watch, pulls_of(rng, reads, r))
    assert change is not None
    assert (change > 0.1) == (r > 1)
    assert change == watch.of("key", "then")
    # It is that of this calibration alone, and is over when the draws say so.
    assert watch.of("key", "now") is None
    assert watch.of("other", "then") is None
    for _ in range(-(-READS // reads)):
        change = see(watch, pulls_of(rng, reads, 1.0))
    assert change is None


def test_a_new_calibration_starts_anew(rng: np.random.Generator) -> None:
    watch = DriftWatch(0.05)
    assert see(watch, pulls_of(rng, 500, 1.5)) is not None
    assert see(watch, pulls_of(rng, 1, 1.5), calibrated_at="now") is None


def test_an_uncertain_calibration_is_no_ground_for_an_alarm(rng: np.random.Generator) -> None:
    assert see(DriftWatch(0.05), pulls_of(rng, 500, 1.2), error=0.1) is None
    assert see(DriftWatch(0.05), pulls_of(rng, 500, 1.2), error=0.01) is not None


FIELD_ERROR = 0.25
"""Of the random fields below, kT."""


def variance_of(fields: NDArray[np.float64]) -> float:
    """v of ``FIELD_ERROR`` on these spins, as the calibration would have it."""
    left = 1.0 / np.cosh(fields) ** 2
    return FIELD_ERROR**2 * (fields**2 * left**2).sum() / (fields**2 * left).sum()


@pytest.mark.parametrize("chips_own", [True, False])
def test_random_fields_that_all_reads_of_a_programming_share_are_no_drift(
    rng: np.random.Generator, chips_own: bool
) -> None:
    """400 chips, five programmings of 300 reads each; 2000 looks at a false-alarm rate of 6e-7 each.

    A test that takes reads for independent sees drifts in many of them.
    """
    believed, naive = 0, 0
    for _chip in range(400):
        watch, credulous = DriftWatch(0.0), DriftWatch(0.0)
        fields = rng.normal(0.0, 0.3, SPINS)
        noise = FIELD_ERROR * rng.standard_normal(SPINS)
        for _ in range(5):
            if not chips_own:
                noise = FIELD_ERROR * rng.standard_normal(SPINS)
            # Averaged over the errors, reads look hotter: the calibration has seen that too.
            pulls = pulls_of(rng, 300, 1.0, fields, noise)
            seen = Observation.at(pulls, apparent(fields), 0)
            for one, variance in ((watch, variance_of(fields)), (credulous, 0.0)):
                one.see(Reference("key", "then", apparent(fields), 0.0, variance), [seen])
        believed += watch.of("key", "then") is not None
        naive += credulous.of("key", "then") is not None
    assert believed == 0
    assert naive > 20


def apparent(fields: NDArray[np.float64]) -> float:
    """The r that solves Σ x ⟨tanh(x + n)⟩ = Σ x tanh(r x): what reads look like on average over the random fields."""
    points, weights = np.polynomial.hermite_e.hermegauss(11)
    noisy = np.tanh(fields[:, None] + FIELD_ERROR * points) @ (weights / weights.sum())
    return brentq(lambda r: fields @ (noisy - np.tanh(r * fields)), 0.3, 1.5)


def test_places_and_gauges_of_their_own_average_random_fields_out(rng: np.random.Generator) -> None:
    """A change of 10 % that one programming on a noisy chip does not show: many, that differ in their errors, do."""
    fields = rng.normal(0.0, 0.5, SPINS)
    drawn = [pulls_of(rng, 100, 1.1, fields, 0.15 * rng.standard_normal(SPINS)) for _ in range(64)]
    changes = {}
    for name, places in {"one place": [0] * 64, "places": range(64), "gauges": [None] * 64}.items():
        seen = [Observation.at(pulls, 1.0, place) for pulls, place in zip(drawn, places, strict=True)]
        changes[name] = DriftWatch(0.05).see(Reference("key", "then", 1.0, 0.005, 0.15**2), seen)
    assert changes["one place"] is None
    # 1.5 kT² a spin and 60 of them: 64 programmings of 100 reads know the change to 1 %.
    assert changes["places"] == changes["gauges"] == pytest.approx(0.08, abs=0.04)


def test_draws_on_the_same_copy_are_moved_as_one_whatever_it_is_called(rng: np.random.Generator) -> None:
    """A chip's own errors come again with every draw: many draws say no more of a change than one."""
    fields, noise = rng.normal(0.0, 0.5, SPINS), 0.15 * rng.standard_normal(SPINS)
    drawn = [pulls_of(rng, 20, 1.1, fields, noise) for _ in range(24)]
    for places in ([0] * 24, range(24)):
        watch = DriftWatch(0.0)
        for pulls, place in zip(drawn, places, strict=True):
            assert see(watch, pulls, error=0.005, variance=0.15**2, place=place) is None


@pytest.mark.parametrize("sign", [-1, 1])
def test_ten_percent_are_seen_within_some_hundred_reads(rng: np.random.Generator, sign: int) -> None:
    """On a chip of 1 % control errors at a β of 4.4, by a machine whose energies spread by 6 kT, drawn on one place."""
    fields = rng.normal(0.0, 1.0, SPINS)
    fields *= 6.0 / np.sqrt((fields**2 / np.cosh(fields) ** 2).sum())
    error = 0.044
    for _ in range(50):
        watch = DriftWatch(0.05)
        noise = error * rng.standard_normal(SPINS)
        for _ in range(4):
            assert see(watch, pulls_of(rng, 100, 1.0, fields, noise), error=0.003, variance=error**2) is None
        needed = 0
        while watch.of("key", "then") is None:
            see(watch, pulls_of(rng, 50, 1.0 + 0.1 * sign, fields, noise), error=0.003, variance=error**2)
            needed += 50
            assert needed <= 700
