"""Random fields: what errors of h and J look like in the reads, and by how much they lower an apparent scale.

Law: a spin whose local field is x (in kT) has, given the others, the mean −tanh(x). With errors of h and J it feels
x + n instead, n constant over the reads of one programming and normal over programmings, with variance v_i. Averaged
over n the mean is weaker than −tanh(x), so that reads look hotter than they are: the scale that fits best is the r of

    Σ x_i ⟨tanh(x_i + n_i)⟩ = Σ x_i tanh(r x_i).

On a graph of many small errors (the cavity argument for spin glasses above their transition)

    v_i = a + b Σ_j q_j,    q_j = ⟨tanh²(x_j + n_j)⟩,

over the neighbours j of i: an error of h acts always, one of J_ij only as far as spin j is polarised. A machine that is
programmed k times stronger is polarised more, feels stronger random fields, and looks hotter still. a and b are found
from the reads, by how far each spin's mean strays from −tanh(x) in each programming; with them the scale that would
have been found at strength 1 follows from the one found at strength k.

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

from sampler.qpu.draw import PartReads, programming_of_reads
from sampler.qpu.temperature import Estimate, slopes_and_curves

_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(11)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_ROUNDS = 6
_STEPS = 20
_LEAST_READS = 4
"""Fewer reads of a programming say nothing of how far its spins stray."""
_LEAST_VARIANCE = 1e-4


@dataclass(frozen=True, slots=True)
class RandomFields:
    """Variance of the random fields: v = alone + each · Σ q, in kT², both at least 0."""

    alone: float
    each: float

    def variances(self, fields: NDArray[np.float64], adjacency: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) variance at each spin, for ``fields`` (n,) without errors and ``adjacency`` (n, n)."""
        found = np.full(fields.shape, self.alone)
        for _ in range(_STEPS):
            found = self.alone + self.each * (adjacency @ polarisation(fields, found))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """The reads of one part at the assumed beta_eff.

    Attributes:
        spins: (reads, n) int8.
        felt: (reads, n) local fields, in kT.
        programming: (reads,) which programming each read came from.
        adjacency: (n, n) 1 where two spins are coupled.
    """

    spins: NDArray[np.int8]
    felt: NDArray[np.float64]
    programming: NDArray[np.int64]
    adjacency: NDArray[np.float64]

    @classmethod
    def of(cls, reads: PartReads, gauges: int) -> _Seen:
        """From a part drawn in ``gauges`` programmings."""
        layout = reads.site.layout
        adjacency = np.zeros((layout.nodes.size, layout.nodes.size))
        adjacency[layout.ends[:, 0], layout.ends[:, 1]] = 1.0
        adjacency[layout.ends[:, 1], layout.ends[:, 0]] = 1.0
        felt = reads.factor * layout.local_fields(reads.fields, reads.spins)
        return cls(reads.spins, felt, programming_of_reads(reads.spins.shape[0], gauges), adjacency)

    def strayed(self, scale: float) -> NDArray[np.float64]:
        """(n,) mean square over programmings of how far a spin's mean strays, its sampling variance taken off."""
        found = []
        for number in range(int(self.programming.max(initial=-1)) + 1):
            mine = self.programming == number
            if mine.sum() >= _LEAST_READS:
                off = self.spins[mine] + np.tanh(scale * self.felt[mine])
                found.append(off.mean(axis=0) ** 2 - off.var(axis=0, ddof=1) / mine.sum())
        return np.mean(found, axis=0) if found else np.zeros(self.felt.shape[1])


def correction(parts: Sequence[PartReads], scale: float, strengths: Sequence[float], gauges: int) -> float:
    """What to multiply ``scale``, found with parts of ``strengths``, by to have what reads at strength 1 would show.

    1 if the reads were not amplified or show no random fields.
    """
    if all(strength == 1.0 for strength in strengths):
        return 1.0
    seen = [_Seen.of(reads, gauges) for reads in parts]
    true, noise = _without_errors(seen, scale)
    return true * _attenuation_of(seen, [true / strength for strength in strengths], noise) / scale


def field_variance(parts: Sequence[PartReads], scale: float, strengths: Sequence[float], gauges: int) -> float:
    """The v by which the score of one programming of n reads and curvature C differs from another's: by v n C.

    That is beside the variance that the reads have by themselves. From how far spins stray; or, if the scores of the
    programmings themselves say by more than two standard errors that it is larger, from these.
    """
    seen = [_Seen.of(reads, gauges) for reads in parts]
    true, noise = _without_errors(seen, scale)
    moved = curve = 0.0
    for one, strength in zip(seen, strengths, strict=True):
        x = true / strength * one.felt.mean(axis=0)
        left = 1.0 - np.tanh(x) ** 2
        variances = noise.variances(x, one.adjacency)
        moved += float((x**2 * left**2 * (2.0 * variances - noise.alone)).sum())
        curve += float((x**2 * left).sum())
    expected = moved / max(curve, 1e-12)
    seen_directly = _spread_of_scores(seen, scale)
    if seen_directly is not None and seen_directly.value - 2.0 * seen_directly.error > expected:
        return seen_directly.value
    return expected


def random_fields(parts: Sequence[PartReads], scale: float, gauges: int) -> RandomFields:
    """The random fields in reads of ``parts``, each in ``gauges`` programmings, if ``scale`` is the true one."""
    seen, noise = [_Seen.of(reads, gauges) for reads in parts], RandomFields(_LEAST_VARIANCE, 0.0)
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


def _without_errors(seen: Sequence[_Seen], scale: float) -> tuple[float, RandomFields]:
    """The scale there would be without errors, of which ``scale`` is seen, and the random fields."""
    true, noise = scale, RandomFields(_LEAST_VARIANCE, 0.0)
    # The scale without errors says how far spins stray, and that says by how much the apparent one is lower.
    for _ in range(_ROUNDS):
        noise = _fitted(seen, true, noise)
        true = scale / _attenuation_of(seen, [true] * len(seen), noise)
    return true, noise


def _spread_of_scores(seen: Sequence[_Seen], scale: float) -> Estimate | None:
    """v from how the scores of the programmings differ on each copy; None if no copy has two of them."""
    between = within = weight = 0.0
    freedom = 0
    for one in seen:
        count = int(one.programming.max(initial=-1)) + 1
        if count < 2:
            continue
        slopes, curves = slopes_and_curves(-2.0 * one.spins * one.felt, scale)
        sizes = np.bincount(one.programming)
        sums, squares = np.bincount(one.programming, slopes), np.bincount(one.programming, slopes**2)
        between += float(((sums - sizes * slopes.mean()) ** 2).sum()) * count / (count - 1)
        within += float((sizes / np.maximum(sizes - 1, 1) * (squares - sums**2 / sizes)).sum())
        weight += float((sizes * np.bincount(one.programming, curves)).sum())
        freedom += count - 1
    if not freedom:
        return None
    weight = max(weight, 1e-12)
    return Estimate((between - within) / weight, float(np.sqrt(2.0 / freedom)) * between / weight)


def _fitted(seen: Sequence[_Seen], scale: float, noise: RandomFields) -> RandomFields:
    """One Gauss-Newton step from ``noise`` to the random fields by which spins stray as far as they do."""
    slopes, sums, targets = [], [], []
    for one in seen:
        fields = scale * one.felt.mean(axis=0)
        v = np.maximum(noise.variances(fields, one.adjacency), _LEAST_VARIANCE)
        strays, more = _straying(fields, v), _straying(fields, 1.05 * v)
        slope = (more - strays) / (0.05 * v)
        slopes.append(slope)
        sums.append(slope * (one.adjacency @ polarisation(fields, v)))
        targets.append(one.strayed(scale) - strays + slope * v)
    (alone, each), _ = nnls(np.stack([np.concatenate(slopes), np.concatenate(sums)], axis=1), np.concatenate(targets))
    return RandomFields(float(alone), float(each))


def _straying(fields: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) ⟨(tanh(x + n) − tanh(x))²⟩."""
    squares: NDArray[np.float64] = (_noisy_tanh(fields, variances) - np.tanh(fields)[:, None]) ** 2 @ _WEIGHTS
    return squares


def _noisy_tanh(fields: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, points) tanh(x + n) at the points of the quadrature over n."""
    values: NDArray[np.float64] = np.tanh(fields[:, None] + np.sqrt(variances)[:, None] * _POINTS)
    return values


def _attenuation_of(seen: Sequence[_Seen], scales: Sequence[float], noise: RandomFields) -> float:
    """The attenuation over all parts, each at a scale of its own."""
    fields = [scale * one.felt.mean(axis=0) for one, scale in zip(seen, scales, strict=True)]
    variances = [noise.variances(x, one.adjacency) for x, one in zip(fields, seen, strict=True)]
    return attenuation(np.concatenate(fields), np.concatenate(variances))
