"""Burn-in from a random start: a ramp of beta, then a hold at the beta of the law.

A ramp reaches in 160 to 320 sweeps what plain sweeps at beta = 1 need thousands for in strongly coupled machines. The
ramp alone is an optimiser; the hold makes the last states draws from the law.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.request import checked_sweeps

RAMP_START = 0.05
"""Beta of the first sweep, as a fraction of the law's."""

RAMP_SHARE = 0.75
"""Part of the sweeps spent on the ramp; the rest is the hold."""


def ramp_and_hold(sweeps: int, beta: float = 1.0) -> NDArray[np.float64]:
    """Beta of each sweep, (sweeps,): linear from ``RAMP_START * beta``, the last quarter (one at least) at ``beta``.

    >>> ramp_and_hold(4).round(3).tolist()
    [0.05, 0.367, 0.683, 1.0]
    """
    checked_sweeps(sweeps, least=1)
    ramp = min(int(sweeps * RAMP_SHARE), sweeps - 1)
    betas = np.full(sweeps, beta, dtype=np.float64)
    betas[:ramp] = beta * (RAMP_START + (1.0 - RAMP_START) * np.arange(ramp) / max(ramp, 1))
    return betas
