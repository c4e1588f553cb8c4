"""Random fields: what errors of h and J look like in the reads, and by how much they lower an apparent scale.

Law: a spin whose local field is x (in kT) has, given the others, the mean −tanh(x). With errors of h and J it feels
x + n instead, n constant over the reads of one programming and normal over programmings, with variance v_i. Averaged
over n the mean is weaker than −tanh(x), so that reads look hotter than they are: the scale that fits best is the r of

    Σ x_i ⟨tanh(x_i + n_i)⟩ = Σ x_i tanh(r x_i).

On a graph of many small errors (the cavity argument for spin glasses above their transition)

    v_i = a + b Σ_j q_ji,    q_j = ⟨tanh²(x_j + n_j)⟩,

over all j that a coupler joins to i, whatever J it has: copies side by side feel each other's spins. An error of h acts
always, one of J_ij only as far as spin j would be polarised without i: by q_ji = q_j − b q_i dq_j/dv_j. A machine that
is programmed k times stronger is polarised more, feels stronger random fields, and looks hotter still. a and b are
found from the reads, by how far each spin's mean strays from −tanh(x) in each programming; with them the scale that
would have been found at strength 1 follows from the one found at strength k.

The random fields n of one programming also move its reads' score, the slope Σ a σ(−a), a = −2 s x, of their log
pseudolikelihood: by Σ x_i (tanh(x_i + n_i) − tanh x_i) a read, nought on average and of variance

    Σ x_i² (1 − m_i²)² v_i = v c,    c = Σ x_i² (1 − m_i²),

c being the score's own curvature a read. This v is what a machine's strength has little part in, so that amplified
reads tell how far the score of a draw may be off. An error of J_ij moves the scores of both its ends, in one direction
if the coupling is weak: v_i's part that is due to J counts twice.

Errors are all of the local field; what they do to the model's own couplings is left out. Meant for weakly coupled
machines, the only ones that are amplified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.sparse import csr_array

from qshower.sampler.qpu.calibration.estimators import Estimate, slopes_and_curves
from qshower.sampler.qpu.drawing.part_reads import PartReads
from qshower.sampler.qpu.planning.gauge_shares import gauge_of_reads

_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(11)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_ROUNDS = 10
_STEPS = 20
_LEAST_READS = 4
"""Fewer reads of a programming say nothing of how far its spins stray."""
_LEAST_VARIANCE = 1e-4


@dataclass(frozen=True, slots=True)
class RandomFields:
    """Variance of the random fields: v = alone + each · Σ q, in kT², both at least 0."""

    alone: float
    each: float

    def variances(self, fields: NDArray[np.float64], adjacency: csr_array) -> NDArray[np.float64]:
        """(n,) variance at each spin, for ``fields`` (n,) without errors and ``adjacency`` (n, n)."""
        found = np.full(fields.shape, self.alone)
        for _ in range(_STEPS):
            found = self.alone + self.each * self.polarised(fields, found, adjacency)
        return found

    def polarised(
        self, fields: NDArray[np.float64], variances: NDArray[np.float64], adjacency: csr_array
    ) -> NDArray[np.float64]:
        """(n,) Σ_j q_ji, at least 0."""
        q, step = polarisation(fields, variances), 0.02 * variances + 1e-6
        slope = (polarisation(fields, variances + step) - q) / step
        sums: NDArray[np.float64] = adjacency @ q - self.each * q * (adjacency @ slope)
        return np.maximum(sums, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """The reads of all parts of one calibration, side by side, at the assumed beta_eff.

    Attributes:
        spins: (reads, n) int8.
        felt: (reads, n) local fields, in kT.
        copies: (n,) which part each spin is of.
        programming: (reads,) which programming each read came from.
        adjacency: (n, n) 1 where a coupler joins two spins.
    """

    spins: NDArray[np.int8]
    felt: NDArray[np.float64]
    copies: NDArray[np.int64]
    programming: NDArray[np.int64]
    adjacency: csr_array

    @classmethod
    def of(cls, parts: Sequence[PartReads], couplers: NDArray[np.int64], gauges: int) -> _Seen:
        """From parts of one programming, each drawn in ``gauges``; ``couplers`` (m, 2) are pairs of the chip's qubits.

        Raises:
            ValueError: the parts differ in their number of reads.
        """
        spins = np.concatenate([part.spins for part in parts], axis=1)
        felt = [part.factor * part.embedding.layout.local_fields(part.fields, part.spins) for part in parts]
        qubits = np.concatenate([part.embedding.layout.qubits for part in parts])
        column = np.full(1 + int(max(qubits.max(), couplers.max(initial=0))), -1)
        column[qubits] = np.arange(qubits.size)
        ends = column[couplers]
        one, other = ends[(ends >= 0).all(axis=1)].T
        rows, columns = np.concatenate([one, other]), np.concatenate([other, one])
        adjacency = csr_array((np.ones(rows.size), (rows, columns)), shape=(qubits.size, qubits.size))
        copies = np.repeat(np.arange(len(parts)), [part.spins.shape[1] for part in parts])
        return cls(spins, np.concatenate(felt, axis=1), copies, gauge_of_reads(len(spins), gauges), adjacency)

    @property
    def fields(self) -> NDArray[np.float64]:
        """(n,) mean local fields, in kT."""
        means: NDArray[np.float64] = self.felt.mean(axis=0)
        return means

    def strayed(self, scale: float) -> NDArray[np.float64]:
        """(n,) mean square over programmings of how far a spin's mean strays, its sampling variance taken off."""
        found = []
        for number in range(int(self.programming.max(initial=-1)) + 1):
            mine = self.programming == number
            if mine.sum() >= _LEAST_READS:
                off = self.spins[mine] + np.tanh(scale * self.felt[mine])
                found.append(off.mean(axis=0) ** 2 - off.var(axis=0, ddof=1) / mine.sum())
        return np.mean(found, axis=0) if found else np.zeros(self.felt.shape[1])


def correction(
    parts: Sequence[PartReads], couplers: NDArray[np.int64], scale: float, strengths: Sequence[float], gauges: int
) -> Estimate:
    """What to multiply ``scale``, found with parts of ``strengths``, by to have what reads at strength 1 would show.

    1 if the reads were not amplified or show no random fields. ``couplers`` (m, 2) are all pairs of qubits that the
    chip couples. The error is that of a and b as the spins' residuals tell it.
    """
    if all(strength == 1.0 for strength in strengths):
        return Estimate(1.0, 0.0)
    seen = _Seen.of(parts, couplers, gauges)
    weaker = 1.0 / np.array(strengths)[seen.copies]
    true, noise = _without_errors(seen, scale)

    def factor(fields: RandomFields) -> float:
        without = scale / _attenuation_of(seen, np.array(true), fields)
        return without * _attenuation_of(seen, without * weaker, fields) / scale

    value, covariance = factor(noise), _covariance(seen, true, noise)
    steps = np.sqrt(np.diag(covariance))
    moved = (RandomFields(noise.alone + steps[0], noise.each), RandomFields(noise.alone, noise.each + steps[1]))
    slopes = np.array([factor(fields) - value for fields in moved]) / np.maximum(steps, 1e-300)
    variance = float(slopes @ covariance @ slopes)
    return Estimate(value, float(np.sqrt(max(variance, 0.0))))


def field_variance(
    parts: Sequence[PartReads], couplers: NDArray[np.int64], scale: float, strengths: Sequence[float], gauges: int
) -> float:
    """The v by which the score of one programming of n reads and curvature C differs from another's: by v n C.

    That is beside the variance that the reads have by themselves. From how far spins stray; or, if the scores of the
    programmings themselves say by more than two standard errors that it is larger, from these.
    """
    seen = _Seen.of(parts, couplers, gauges)
    true, noise = _without_errors(seen, scale)
    x = true / np.array(strengths)[seen.copies] * seen.fields
    left = 1.0 - np.tanh(x) ** 2
    twice = 2.0 * noise.variances(x, seen.adjacency) - noise.alone
    expected = float((x**2 * left**2 * twice).sum()) / max(float((x**2 * left).sum()), 1e-12)
    direct = _spread_of_scores(seen, scale)
    if direct is not None and direct.value - 2.0 * direct.error > expected:
        return direct.value
    return expected


def random_fields(parts: Sequence[PartReads], couplers: NDArray[np.int64], scale: float, gauges: int) -> RandomFields:
    """The random fields in reads of ``parts``, each in ``gauges`` programmings, if ``scale`` is the true one."""
    seen, noise = _Seen.of(parts, couplers, gauges), RandomFields(_LEAST_VARIANCE, 0.0)
    for _ in range(_ROUNDS):
        noise = _fitted(seen, scale, noise)
    return noise


def attenuation(fields: NDArray[np.float64], variances: NDArray[np.float64]) -> float:
    """The r that solves Σ x ⟨tanh(x + n)⟩ = Σ x tanh(r x), for ``fields`` x and ``variances`` of n, both (n,)."""
    noisy = _noisy_tanh(fields, variances) @ _WEIGHTS
    r = 1.0
    for _ in range(50):
        plain = np.tanh(r * fields)
        slope = float((fields**2 * (1.0 - plain**2)).sum())
        step = float((fields * (noisy - plain)).sum()) / max(slope, 1e-300)
        r += float(np.clip(step, -0.5 * r, r))
        if abs(step) < 1e-9:
            break
    return r


def polarisation(fields: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) ⟨tanh²(x + n)⟩."""
    squares: NDArray[np.float64] = _noisy_tanh(fields, variances) ** 2 @ _WEIGHTS
    return squares


def _without_errors(seen: _Seen, scale: float) -> tuple[float, RandomFields]:
    """The scale there would be without errors, of which ``scale`` is seen, and the random fields."""
    true, noise = scale, RandomFields(_LEAST_VARIANCE, 0.0)
    # The scale without errors says how far spins stray, and that says by how much the apparent one is lower.
    for _ in range(_ROUNDS):
        noise = _fitted(seen, true, noise)
        true = scale / _attenuation_of(seen, np.array(true), noise)
    return true, noise


def _spread_of_scores(seen: _Seen, scale: float) -> Estimate | None:
    """v from how the scores of the programmings differ on each copy; None if there is but one of them."""
    count = int(seen.programming.max(initial=-1)) + 1
    if count < 2:
        return None
    between = within = weight = 0.0
    copies = int(seen.copies.max()) + 1
    sizes = np.bincount(seen.programming)
    for copy in range(copies):
        mine = seen.copies == copy
        slopes, curves = slopes_and_curves(-2.0 * seen.spins[:, mine] * seen.felt[:, mine], scale)
        sums, squares = np.bincount(seen.programming, slopes), np.bincount(seen.programming, slopes**2)
        between += float(((sums - sizes * slopes.mean()) ** 2).sum()) * count / (count - 1)
        within += float((sizes / np.maximum(sizes - 1, 1) * (squares - sums**2 / sizes)).sum())
        weight += float((sizes * np.bincount(seen.programming, curves)).sum())
    weight, freedom = max(weight, 1e-12), copies * (count - 1)
    return Estimate((between - within) / weight, float(np.sqrt(2.0 / freedom)) * between / weight)


def _fitted(seen: _Seen, scale: float, noise: RandomFields) -> RandomFields:
    """One Gauss-Newton step from ``noise`` to the random fields by which spins stray as far as they do."""
    design, residuals = _linear(seen, scale, noise)
    target = residuals + design @ np.array([noise.alone, noise.each])
    (alone, each), _ = nnls(design, target)
    return RandomFields(float(alone), float(each))


def _covariance(seen: _Seen, scale: float, noise: RandomFields) -> NDArray[np.float64]:
    """(2, 2) covariance of a and b, spins taken for independent, each as uncertain as its residual."""
    design, residuals = _linear(seen, scale, noise)
    inverse = np.linalg.pinv(design.T @ design)
    found: NDArray[np.float64] = inverse @ (design.T * residuals**2) @ design @ inverse
    return found


def _linear(seen: _Seen, scale: float, noise: RandomFields) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, 2) how far each spin strays by a and by b, to first order at ``noise``, and (n,) what that leaves."""
    fields = scale * seen.fields
    v = np.maximum(noise.variances(fields, seen.adjacency), _LEAST_VARIANCE)
    strays, more = _straying(fields, v), _straying(fields, 1.05 * v)
    slope = (more - strays) / (0.05 * v)
    design = np.stack([slope, slope * noise.polarised(fields, v, seen.adjacency)], axis=1)
    linear = strays + design @ np.array([noise.alone, noise.each]) - slope * v
    return design, seen.strayed(scale) - linear


def _straying(fields: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) ⟨(tanh(x + n) − tanh(x))²⟩."""
    squares: NDArray[np.float64] = (_noisy_tanh(fields, variances) - np.tanh(fields)[:, None]) ** 2 @ _WEIGHTS
    return squares


def _noisy_tanh(fields: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, points) tanh(x + n) at the points of the quadrature over n."""
    values: NDArray[np.float64] = np.tanh(fields[:, None] + np.sqrt(variances)[:, None] * _POINTS)
    return values


def _attenuation_of(seen: _Seen, scales: NDArray[np.float64], noise: RandomFields) -> float:
    """The attenuation over all spins, each at a scale of its own."""
    fields = scales * seen.fields
    return attenuation(fields, noise.variances(fields, seen.adjacency))
