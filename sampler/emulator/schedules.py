"""Anneal schedules: the rules that a solver holds them to, forward and in reverse.

A schedule is a list of [time in µs, anneal fraction s] with straight lines between its points. A forward anneal rises
from s = 0 to s = 1. A reverse anneal starts in a given state at s = 1, goes back to a smaller s, and returns to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qshower.sampler.emulator import chip as limits
from qshower.sampler.emulator.refused import RefusedError


@dataclass(frozen=True, slots=True)
class AnnealSchedule:
    """A checked schedule: its points' times in µs and anneal fractions."""

    times_us: tuple[float, ...]
    fractions: tuple[float, ...]

    @property
    def reverse(self) -> bool:
        """Whether it starts from a state."""
        return self.fractions[0] == 1.0

    @property
    def time_us(self) -> float:
        """How long it takes."""
        return self.times_us[-1]

    def pieces(self, most: int) -> list[tuple[float, float]]:
        """(duration in µs, mean anneal fraction) one after the other, ``most`` or fewer for each straight line."""
        lines = zip(self.times_us, self.times_us[1:], self.fractions, self.fractions[1:], strict=False)
        return [
            ((end - start) / count, first + (last - first) * (number + 0.5) / count)
            for start, end, first, last in lines
            for count in (1 if first == last else most,)
            for number in range(count)
        ]


def read_schedule(schedule: Any, bounds_us: tuple[float, float], *, fast: bool) -> AnnealSchedule:
    """The schedule of a job, whose length is to be within ``bounds_us``; RefusedError if a solver would not take it."""
    try:
        points = np.array(schedule, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RefusedError("anneal_schedule must be a list of [time, fraction] pairs") from error
    reverse = points.ndim == 2 and points.shape[1] == 2 and points[0, 1] == 1.0
    most = 2 if fast else limits.MAX_ANNEAL_SCHEDULE_POINTS + reverse
    if points.ndim != 2 or points.shape[1] != 2 or not 2 <= points.shape[0] <= most or not np.isfinite(points).all():
        raise RefusedError(f"anneal_schedule must be a list of 2 to {most} [time, fraction] pairs")
    times, fractions = points.T
    if times[0] != 0.0 or (np.diff(times) <= 0.0).any():
        raise RefusedError("anneal_schedule times must start at 0 and increase")
    if fractions.min() < 0.0 or fractions.max() > 1.0 or fractions[-1] != 1.0:
        raise RefusedError("anneal_schedule fractions must be 0 to 1 and end at 1")
    if not reverse and (fractions[0] != 0.0 or (np.diff(fractions) < 0.0).any()):
        raise RefusedError("anneal_schedule must rise from 0 to 1, or start at 1 for a reverse anneal")
    if reverse and fast:
        raise RefusedError("fast_anneal cannot be used with a reverse anneal")
    # A hair of tolerance, as times are sums of decimal fractions.
    steepest = float((np.abs(np.diff(fractions)) / np.diff(times)).max())
    if steepest > 1.0 / bounds_us[0] * (1.0 + 1e-9):
        raise RefusedError(
            f"anneal_schedule changes by {steepest:.4g} per us; the fastest is {1.0 / bounds_us[0]:.4g} per us"
        )
    if not bounds_us[0] <= times[-1] <= bounds_us[1]:
        raise RefusedError(f"anneal_schedule {times[-1]:g} is out of range [{bounds_us[0]:g}, {bounds_us[1]:g}]")
    return AnnealSchedule(tuple(times.tolist()), tuple(fractions.tolist()))
