"""Two estimates of an effective inverse temperature from reads.

Law: reads s of a programmed energy E(s), in kT at the assumed temperature, follow P(s) ∝ exp(−r·E(s)), r = 1 if the
assumption was right. *Maximum pseudolikelihood* maximises Σ log P(s_i | others) = Σ log σ(−2 r s_i f_i) over all reads
and spins, f_i the local field. *Energy matching* finds the r at which the mean energy of Gibbs chains is that of the
reads: of all r it gives the largest likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BOOTSTRAPS = 100
MIN_BLOCKS = 5
"""Fewer programmings, or sets of them, than these do not show how much they differ."""
_LOWEST, _HIGHEST = 1e-2, 1e2


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its standard error."""

    value: float
    error: float

    def times(self, factor: float, share_in_doubt: float) -> Estimate:
        """Multiplied by ``factor``, of whose distance from 1 that share is taken for its standard error."""
        doubt = self.value * (factor - 1.0) * share_in_doubt
        return Estimate(self.value * factor, float(np.hypot(self.error * factor, doubt)))


def combined(one: Estimate, other: Estimate) -> Estimate:
    """Two estimates of one number, weighted by their inverse variances.

    The error is that of fully correlated estimates, which is the largest it can be: both come from the same reads.
    """
    variances = max(one.error, 1e-12) ** 2, max(other.error, 1e-12) ** 2
    share = variances[1] / (variances[0] + variances[1])
    return Estimate(share * one.value + (1.0 - share) * other.value, share * one.error + (1.0 - share) * other.error)


def pseudolikelihood_scale(
    pulls: NDArray[np.float64], rng: np.random.Generator, blocks: NDArray[np.int64] | None = None
) -> Estimate:
    """The r of largest pseudolikelihood, from ``pulls`` (reads, n) = −2 s_i f_i, with a bootstrap error.

    ``blocks`` (reads,) numbers, from 0, the programming of each read, or its set of gauges. With ``MIN_BLOCKS`` or
    more, whole blocks are resampled, so that the error holds what control errors add; otherwise reads are.
    """
    a = pulls.astype(np.float64)
    r = 1.0
    for _ in range(60):
        up = 1.0 / (1.0 + np.exp(np.clip(r * a, -500, 500)))  # σ(−r a)
        slope, curve = float((a * up).sum()), float((a * a * up * (1.0 - up)).sum())
        step = slope / max(curve, 1e-12)
        new = float(np.clip(r + np.clip(step, -0.5 * r, r), _LOWEST, _HIGHEST))
        if abs(new - r) < 1e-7 * r:
            r = new
            break
        r = new
    up = 1.0 / (1.0 + np.exp(np.clip(r * a, -500, 500)))
    slopes, curves = (a * up).sum(axis=1), (a * a * up * (1.0 - up)).sum(axis=1)
    # One Newton step on each resample: near the maximum as good as a new fit, at a thousandth of the cost.
    if blocks is not None and blocks.max(initial=0) + 1 >= MIN_BLOCKS:
        slopes, curves = np.bincount(blocks, slopes), np.bincount(blocks, curves)
    weights = rng.multinomial(len(slopes), np.full(len(slopes), 1.0 / len(slopes)), size=_BOOTSTRAPS)
    resampled = r + (weights @ slopes) / np.maximum(weights @ curves, 1e-12)
    return Estimate(r, float(resampled.std(ddof=1)))


def energy_scale(
    energies: NDArray[np.float64],
    chains: Callable[[float], NDArray[np.float64]],
    start: float,
    rng: np.random.Generator,
    rounds: int = 3,
    blocks: NDArray[np.int64] | None = None,
) -> Estimate:
    """The r at which Gibbs chains have the mean energy of the reads; the error by a bootstrap over reads and chains.

    Args:
        energies: (conditions, reads) energies of the reads at r = 1, in kT.
        chains: (conditions, chains) energies of independent chains at a given r, for the same conditions.
        start: first guess of r.
        rng: randomness of the bootstrap.
        rounds: Newton steps, each with new chains.
        blocks: (reads,) the programming of each read, as in ``pseudolikelihood_scale``.
    """
    error_of_reads = _error_of_mean(energies, rng)
    if blocks is not None and blocks.max(initial=0) + 1 >= MIN_BLOCKS:
        means = np.stack([energies[:, blocks == block].mean() for block in range(int(blocks.max()) + 1)])
        error_of_reads = float(means.std(ddof=1)) / np.sqrt(means.size)
    r, error = start, 0.0
    for _ in range(rounds):
        drawn = chains(r)
        # d⟨E⟩/dr = −Var(E) at each condition: the spread between conditions has no part in it.
        spread = max(float(drawn.var(axis=1).mean()), 1e-12)
        error = float(np.hypot(error_of_reads, _error_of_mean(drawn, rng))) / spread
        step = (float(drawn.mean()) - float(energies.mean())) / spread
        r = float(np.clip(r + np.clip(step, -0.5 * r, r), _LOWEST, _HIGHEST))
    return Estimate(r, error)


def _error_of_mean(values: NDArray[np.float64], rng: np.random.Generator) -> float:
    """Bootstrap error of the mean of ``values`` (conditions, draws), resampled within each condition."""
    count = values.shape[1]
    weights = rng.multinomial(count, np.full(count, 1.0 / count), size=(_BOOTSTRAPS, values.shape[0]))
    return float(np.einsum("bcd,cd->b", weights, values).std(ddof=1)) / values.size
