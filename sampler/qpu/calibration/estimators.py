"""Two estimates of an effective inverse temperature from reads.

Law: reads s of a programmed energy E(s), in kT at the assumed temperature, follow P(s) ∝ exp(−r·E(s)), r = 1 if the
assumption was right. *Maximum pseudolikelihood* maximises Σ log P(s_i | others) = Σ log σ(−2 r s_i f_i) over all reads
and spins, f_i the local field. *Energy matching* finds the r at which the mean energy of Gibbs chains is that of the
reads: of all r it gives the largest likelihood.

Errors: reads come in blocks, and only blocks differ by chance alone. To first order the r that was found is the sum of
what each block moves it by; its variance is B/(B − 1) Σ (move − mean move)², B blocks on one copy of the machine,
summed over the copies: that of a bootstrap over the blocks of each copy, in closed form, but for the factor, by which
the bootstrap of few blocks is too small. Copies have qubits and gauges of their own, so that they are independent;
their conditions are not drawn by chance, so that what copies differ by is no error. With C copies the standard error is
good to about 1/√(2 C (B − 1)): 20 % for four copies and four blocks on each.

Sources: Besag, Statistical Analysis of Non-Lattice Data, The Statistician 24, 179 (1975), doi:10.2307/2987782; for the
effective temperature of an annealer, by both methods, Raymond, Yarkoni and Andriyash, Global Warming: Temperature
Estimation in Annealers, Frontiers in ICT 3, 23 (2016), doi:10.3389/fict.2016.00023, arXiv:1606.00919. That it differs
from problem to problem: Benedetti et al., Estimation of Effective Temperatures in Quantum Annealers for Sampling
Applications, Physical Review A 94, 022308 (2016), arXiv:1510.07611.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LOWEST, _HIGHEST = 1e-2, 1e2


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Which block each read belongs to, and which copy of the machine each block was drawn on.

    Attributes:
        of_reads: (reads,) int64.
        copies: (blocks,) int64.
    """

    of_reads: NDArray[np.int64]
    copies: NDArray[np.int64]

    @classmethod
    def of(cls, per_copy: Sequence[NDArray[np.int64]]) -> Blocks:
        """From the blocks, from 0, of the reads of each copy, one copy after the other."""
        counts = np.array([int(blocks.max(initial=-1)) + 1 for blocks in per_copy])
        starts = np.cumsum(counts) - counts
        of_reads = np.concatenate([blocks + start for blocks, start in zip(per_copy, starts, strict=True)])
        return cls(of_reads, np.repeat(np.arange(counts.size), counts))

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(blocks,) sums of ``values`` (reads,)."""
        return np.bincount(self.of_reads, values, minlength=self.copies.size).astype(np.float64)

    def deviations(self, sums: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(blocks,) ``sums`` less each block's share, by ``weights``, of the sum over its copy."""
        per_copy = np.bincount(self.copies, sums) / np.maximum(np.bincount(self.copies, weights), 1e-12)
        deviations: NDArray[np.float64] = sums - weights * per_copy[self.copies]
        return deviations

    def variance(self, deviations: NDArray[np.float64]) -> float:
        """Variance of the sum over all blocks, from their ``deviations`` (blocks,)."""
        counts = np.bincount(self.copies)
        return float((np.bincount(self.copies, deviations**2) * counts / np.maximum(counts - 1, 1)).sum())

    @property
    def freedom(self) -> int:
        """Degrees of freedom of ``variance``."""
        return int((np.bincount(self.copies) - 1).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """An r found from reads.

    Attributes:
        value: r.
        blocks: of the reads.
        moves: (blocks,) what each block moved it by, beside what the copy it is on did.
        apart: standard error that has nothing to do with the reads: that of the chains.
    """

    value: float
    blocks: Blocks
    moves: NDArray[np.float64]
    apart: float = 0.0

    @property
    def error(self) -> float:
        """Its standard error."""
        return float(np.hypot(np.sqrt(self.blocks.variance(self.moves)), self.apart))

    @property
    def estimate(self) -> Estimate:
        """Value and standard error."""
        return Estimate(self.value, self.error)


def combined(one: Scale, other: Scale) -> Scale:
    """Two values found from the same reads, weighted by their inverse variances; the error minds that they go together.

    Chains of theirs are taken for independent.
    """
    variances = max(one.error, 1e-12) ** 2, max(other.error, 1e-12) ** 2
    share = variances[1] / (variances[0] + variances[1])
    return Scale(
        share * one.value + (1.0 - share) * other.value,
        one.blocks,
        share * one.moves + (1.0 - share) * other.moves,
        float(np.hypot(share * one.apart, (1.0 - share) * other.apart)),
    )


def pseudolikelihood_scale(pulls: NDArray[np.float64], blocks: Blocks) -> Scale:
    """The r of largest pseudolikelihood, from ``pulls`` (reads, n) = −2 s_i f_i.

    Returns:
        r and the blocks' shares in its error. A solver whose r is 1.1 draws at 1.1 times the beta_eff that was assumed.
    """
    a = pulls.astype(np.float64)
    r = 1.0
    for _ in range(60):
        slopes, curves = slopes_and_curves(a, r)
        step = float(slopes.sum()) / max(float(curves.sum()), 1e-12)
        new = float(np.clip(r + np.clip(step, -0.5 * r, r), _LOWEST, _HIGHEST))
        done, r = abs(new - r) < 1e-7 * r, new
        if done:
            break
    slopes, curves = (blocks.sums(one) for one in slopes_and_curves(a, r))
    return Scale(r, blocks, blocks.deviations(slopes, curves) / max(float(curves.sum()), 1e-12))


def slopes_and_curves(pulls: NDArray[np.float64], r: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(reads,) first derivative of each read's log pseudolikelihood with respect to r, and minus the second."""
    up = 1.0 / (1.0 + np.exp(np.clip(r * pulls, -500.0, 500.0)))  # σ(−r a)
    slopes: NDArray[np.float64] = (pulls * up).sum(axis=1)
    curves: NDArray[np.float64] = (pulls * pulls * up * (1.0 - up)).sum(axis=1)
    return slopes, curves


def energy_scale(
    energies: NDArray[np.float64],
    chains: Callable[[float], NDArray[np.float64]],
    start: float,
    blocks: Blocks,
    rounds: int = 3,
) -> Scale:
    """The r at which Gibbs chains have the mean energy of the reads.

    Args:
        energies: (copies, reads) energies of the reads at r = 1, in kT.
        chains: (copies, chains) energies of independent chains at a given r, for the same copies.
        start: first guess of r.
        blocks: of the reads, copy by copy.
        rounds: Newton steps, each with new chains.

    Returns:
        r, the blocks' shares in its error, and the error that comes from the chains.
    """
    sums = blocks.sums(energies.ravel())
    deviations = blocks.deviations(sums, blocks.sums(np.ones(energies.size))) / energies.size
    r, spread, apart = start, 1.0, 0.0
    for _ in range(rounds):
        drawn = chains(r)
        # d⟨E⟩/dr = −Var(E) on each copy: the spread between copies has no part in it.
        variances = drawn.var(axis=1, ddof=1)
        spread = max(float(variances.mean()), 1e-12)
        apart = float(np.sqrt(variances.mean() / drawn.size)) / spread
        step = (float(drawn.mean()) - float(energies.mean())) / spread
        r = float(np.clip(r + np.clip(step, -0.5 * r, r), _LOWEST, _HIGHEST))
    return Scale(r, blocks, -deviations / spread, apart)
