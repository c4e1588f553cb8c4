"""Whether a solver's temperature still is what it was at its calibration, from the reads of the draws since.

By a score test: Rao, Large Sample Tests of Statistical Hypotheses Concerning Several Parameters, Proceedings of the
Cambridge Philosophical Society 44 (1948).
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.qpu.calibration.estimators import slopes_and_curves

SIGMAS = 5.0
"""A drift is not believed below this many standard errors."""
READS = 600
"""Draws are looked at together until they hold this many reads; larger ones alone."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the reads of one part of one programming say.

    Attributes:
        place: which copy of the machine they were drawn on, other qubits than those of the draw's other copies; None if
            a spin-reversal gauge makes the errors there others every time.
        reads: how many.
        slope: sum of their scores.
        square: sum of the squares of their scores.
        curve: sum of their curvatures.
    """

    place: int | None
    reads: int
    slope: float
    square: float
    curve: float

    @classmethod
    def at(cls, pulls: NDArray[np.float64], r: float, place: int | None) -> Observation:
        """From ``pulls`` (reads, n) = a, in kT at the calibration's temperature, 0 where there is no free spin.

        ``r`` is the scale at which the calibration's own reads were likeliest.
        """
        slopes, curves = slopes_and_curves(pulls, r)
        return cls(place, len(pulls), float(slopes.sum()), float((slopes * slopes).sum()), float(curves.sum()))


@dataclass(frozen=True, slots=True)
class Reference:
    """What the reads of a calibration were like.

    Attributes:
        key: what was calibrated.
        calibrated_at: when.
        scale: the scale at which its reads were likeliest; observations are made at it.
        error: its standard error.
        field_variance: v, in kT².
    """

    key: str
    calibrated_at: str
    scale: float
    error: float
    field_variance: float


@dataclass(slots=True)
class _Seen:
    """Observations at draws since one calibration, draw by draw, and the change they tell of."""

    calibrated_at: str
    draws: deque[Sequence[Observation]] = field(default_factory=deque)
    change: float | None = None


class DriftWatch:
    """Tests for each calibration whether the latest reads could follow the law at its temperature.

    The test is that of the score: with a = −2 s f, s a read's spins and f their local fields in kT, the logarithm of
    the pseudolikelihood at a scale r of the temperature has the slope g = Σ a σ(−r a) per read, 0 on average at the
    true r. The statistic is Σ g / sqrt(Σ g² + V + (c·e)²), c the curvature of all reads, e the error of the
    calibration. V is what control errors add. They move the scores of all n reads of one programming together, on one
    set of qubits with a variance of v n C, C the curvature of these reads; v was found by the calibration
    (``calibration.score_variance``). Part of them are the chip's own, and come again with the next programming
    there, in whatever condition: so observations at one place are taken to be moved as one, and so are draws, whatever
    places they have. That is the most it can be: V = v (Σ_draws sqrt(Σ_places (Σ_observations sqrt(n C))²))². Places of
    one draw are independent of each other, and all that was drawn in spin-reversal gauges is.

    False alarms: the statistic is at least as narrow as a normal one, and above 5 with a probability below 6e-7 for
    each draw looked at. Whatever v is, it never exceeds the square root of the number of reads, so that fewer than 25
    raise no alarm; and without control errors, where g is as likely as −g, one one in 130,000 at most raises a false
    one (Hoeffding), however few the reads are. Assumed are normal control errors, as large as at the calibration, and
    a β_eff that is the same for all conditions and places; a change of the errors' size of itself is a change of the
    apparent temperature, and meant to be seen.

    Power: a change of β_eff by a share d is seen once d·sqrt(c) exceeds 5·sqrt(1 + V/c), if it exceeds the tolerance.
    Where a machine is weak and the chip noisy, V bounds what can be seen without gauges, however many the reads.
    """

    def __init__(self, tolerance: float) -> None:
        """``tolerance`` is the relative change of beta_eff that is not worth an alarm."""
        self._tolerance = tolerance
        self._lock = Lock()
        self._seen: dict[str, _Seen] = {}

    def see(self, reference: Reference, observations: Sequence[Observation]) -> float | None:
        """Take in one draw; the relative change of beta_eff since ``reference`` now believed, None if none is."""
        with self._lock:
            seen = self._seen.get(reference.key)
            if seen is None or seen.calibrated_at != reference.calibrated_at:
                seen = self._seen[reference.key] = _Seen(reference.calibrated_at)
            seen.draws.append(tuple(observations))
            while sum(_reads(draw) for draw in seen.draws) - _reads(seen.draws[0]) >= READS:
                seen.draws.popleft()
            together = [one for draw in seen.draws for one in draw]
            slope = sum(one.slope for one in together)
            curve = max(sum(one.curve for one in together), 1e-12)
            variance = sum(one.square for one in together) + reference.field_variance * _moved(seen.draws)
            change = max(slope / curve / reference.scale, -0.99)
            if abs(change) < self._tolerance:
                seen.change = None
            elif abs(slope) > SIGMAS * np.sqrt(variance + (curve * reference.error) ** 2):
                seen.change = change
            return seen.change

    def of(self, key: str, calibrated_at: str) -> float | None:
        """The change that is believed of the calibration of ``key`` made then, None if none is."""
        with self._lock:
            seen = self._seen.get(key)
            return None if seen is None or seen.calibrated_at != calibrated_at else seen.change


def _reads(observations: Sequence[Observation]) -> int:
    return sum(one.reads for one in observations)


def _moved(draws: Iterable[Sequence[Observation]]) -> float:
    """V/v: what control errors add to the variance of the sum of all slopes."""
    alone = together = 0.0
    for draw in draws:
        places: defaultdict[int, float] = defaultdict(float)
        for one in draw:
            if one.place is None:
                alone += one.reads * one.curve
            else:
                places[one.place] += math.sqrt(one.reads * one.curve)
        together += math.sqrt(sum(one * one for one in places.values()))
    return alone + together * together
