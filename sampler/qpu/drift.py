"""Whether a solver's temperature still is what it was at its calibration, from the reads of the draws since."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray

SIGMAS = 5.0
"""A drift is not believed below this many standard errors."""
READS = 200
"""Draws are looked at together until they hold this many reads; larger ones alone."""


@dataclass(slots=True)
class _Seen:
    """Reads since one calibration: the score and the curvature of each, draw by draw, and the change they tell of."""

    calibrated_at: str
    draws: deque[tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=deque)
    change: float | None = None


class DriftWatch:
    """Tests for each calibration whether the latest reads could follow the law at its temperature.

    The test is that of the score: with a = −2 s f, s a read's spins and f their local fields in kT, the logarithm of
    the pseudolikelihood at a scale r of the temperature has the slope g = Σ a σ(−r a) per read, 0 on average at the
    true r. The statistic is Σ g / sqrt(Σ g² + (c·e)²), c the curvature, e the error of the calibration. It never
    exceeds the square root of the number of reads, so that fewer than 25 raise no alarm at five sigmas; and where g is
    as likely as −g, one look in 130,000 at most raises a false one (Hoeffding), however few the reads are.
    """

    def __init__(self, tolerance: float) -> None:
        """``tolerance`` is the relative change of beta_eff that is not worth an alarm."""
        self._tolerance = tolerance
        self._lock = Lock()
        self._seen: dict[str, _Seen] = {}

    def see(self, key: str, calibrated_at: str, pulls: NDArray[np.float64], r: float, error: float) -> float | None:
        """Take in a draw's ``pulls`` (reads, n) = a; the relative change of beta_eff now believed, None if none is.

        Args:
            key: what was calibrated.
            calibrated_at: when.
            pulls: as above, in kT at the calibration's temperature, 0 where there is no spin.
            r: scale at which the calibration's own reads were likeliest.
            error: standard error of ``r``.
        """
        up = 1.0 / (1.0 + np.exp(np.clip(r * pulls, -500.0, 500.0)))  # σ(−r a)
        scores, curves = (pulls * up).sum(axis=1), (pulls * pulls * up * (1.0 - up)).sum(axis=1)
        with self._lock:
            seen = self._seen.get(key)
            if seen is None or seen.calibrated_at != calibrated_at:
                seen = self._seen[key] = _Seen(calibrated_at)
            seen.draws.append((scores, curves))
            while sum(len(draw) for draw, _ in seen.draws) - len(seen.draws[0][0]) >= READS:
                seen.draws.popleft()
            slope = sum(float(draw.sum()) for draw, _ in seen.draws)
            square = sum(float((draw * draw).sum()) for draw, _ in seen.draws)
            curve = max(sum(float(draw.sum()) for _, draw in seen.draws), 1e-12)
            change = max(slope / curve / r, -0.99)
            if abs(change) < self._tolerance:
                seen.change = None
            elif abs(slope) > SIGMAS * np.sqrt(square + (curve * error) ** 2):
                seen.change = change
            return seen.change

    def of(self, key: str, calibrated_at: str) -> float | None:
        """The change that is believed of the calibration of ``key`` made then, None if none is."""
        with self._lock:
            seen = self._seen.get(key)
            return None if seen is None or seen.calibrated_at != calibrated_at else seen.change
