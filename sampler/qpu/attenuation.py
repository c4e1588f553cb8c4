"""Random fields: what errors of h and J look like in the reads, and by how much they lower an apparent scale.

Law: a spin whose local field is x (in kT) has, given the others, the mean −tanh(x). With errors of h and J it feels
x + n instead, n constant over the reads of one programming, with a variance v_i over programmings. Averaged over n the
mean is weaker than −tanh(x), so that reads look hotter than they are: the scale that fits best is the r at which

    Σ x_i ⟨tanh(x_i + n_i)⟩ = Σ x_i tanh(r x_i).

To lowest order the variance at spin i is v_i = a + b Σ_j m_j² over its neighbours j: an error of h acts always, one of
J_ij only as far as spin j is polarised (its random part is met by the reaction of j on i). A machine that is programmed
k times stronger is polarised more, feels stronger random fields, and looks hotter still. a and b are found from the
reads, by regression of each spin's squared deviation in each programming; with them the scale that would have been
found at strength 1 follows from the one found at strength k.

To first order in the couplings; meant for weak machines, the only ones that are amplified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from sampler.qpu.draw import PartReads, programming_of_reads

_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(11)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_LEAST_READS = 4
"""Fewer reads of a programming say nothing of how its spins deviate."""


@dataclass(frozen=True, slots=True)
class RandomFields:
    """Variance of the random fields that spins feel, v = alone + each · Σ m², in kT², both at least 0."""

    alone: float
    each: float


@dataclass(frozen=True, slots=True, eq=False)
class _Deviations:
    """Mean fields and squared deviations of the spins of one part in one programming, all (n,)."""

    fields: NDArray[np.float64]
    softness: NDArray[np.float64]
    polarised: NDArray[np.float64]
    squared: NDArray[np.float64]


def random_fields(parts: Sequence[PartReads], scale: float, gauges: int) -> RandomFields:
    """The random fields in reads of ``parts``, each in ``gauges`` programmings, that fit best at ``scale``."""
    return _regression([one for reads in parts for one in _deviations(reads, scale, gauges)])


def attenuation(fields: NDArray[np.float64], variances: NDArray[np.float64]) -> float:
    """The r that solves Σ x ⟨tanh(x + n)⟩ = Σ x tanh(r x), for ``fields`` x and ``variances`` of n, both (n,)."""
    noisy = np.tanh(fields[:, None] + np.sqrt(variances)[:, None] * _POINTS) @ _WEIGHTS
    r = 1.0
    for _ in range(50):
        plain = np.tanh(r * fields)
        slope = float((fields**2 * (1.0 - plain**2)).sum())
        step = float((fields * (noisy - plain)).sum()) / max(slope, 1e-300)
        r += float(np.clip(step, -0.5 * r, r))
        if abs(step) < 1e-9:
            break
    return r


def correction(parts: Sequence[PartReads], scale: float, strengths: Sequence[float], gauges: int) -> float:
    """What to multiply ``scale``, found with parts of ``strengths``, by to have what reads at strength 1 would show.

    1 if the reads were not amplified, are too few, or show no random fields.
    """
    deviations = [_deviations(reads, scale, gauges) for reads in parts]
    if all(strength == 1.0 for strength in strengths) or not all(deviations):
        return 1.0
    noise = _regression([one for some in deviations for one in some])
    strong: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    weak: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for reads, some, strength in zip(parts, deviations, strengths, strict=True):
        adjacency = _adjacency(reads)
        felt = np.mean([one.fields for one in some], axis=0)
        for fields, kept in ((felt, strong), (felt / strength, weak)):
            kept.append((fields, noise.alone + noise.each * (adjacency @ np.tanh(fields) ** 2)))
    at_strength, at_one = (
        attenuation(np.concatenate([x for x, _ in some]), np.concatenate([v for _, v in some]))
        for some in (strong, weak)
    )
    return at_one / at_strength


def _regression(deviations: list[_Deviations]) -> RandomFields:
    """Least squares of the squared deviations, both variances held at 0 or above."""
    if not deviations:
        return RandomFields(0.0, 0.0)
    soft = np.concatenate([one.softness for one in deviations]) ** 2
    design = np.stack([soft, soft * np.concatenate([one.polarised for one in deviations])], axis=1)
    (alone, each), _ = nnls(design, np.concatenate([one.squared for one in deviations]))
    return RandomFields(float(alone), float(each))


def _deviations(reads: PartReads, scale: float, gauges: int) -> list[_Deviations]:
    """One for each programming of enough reads."""
    layout = reads.site.layout
    adjacency = _adjacency(reads)
    block_of = programming_of_reads(reads.spins.shape[0], gauges)
    found = []
    for block in range(int(block_of.max(initial=-1)) + 1):
        spins = reads.spins[block_of == block]
        count = spins.shape[0]
        if count < _LEAST_READS:
            continue
        felt = scale * reads.factor * layout.local_fields(reads.fields, spins)
        expected = -np.tanh(felt)
        deviation = spins - expected
        mean = deviation.mean(axis=0)
        found.append(
            _Deviations(
                fields=felt.mean(axis=0),
                softness=(1.0 - expected**2).mean(axis=0),
                polarised=adjacency @ expected.mean(axis=0) ** 2,
                # The variance of a mean of that many reads is no random field.
                squared=mean**2 - deviation.var(axis=0, ddof=1) / count,
            )
        )
    return found


def _adjacency(reads: PartReads) -> NDArray[np.float32]:
    """(n, n) 1 where two placed spins are coupled."""
    layout = reads.site.layout
    adjacency = np.zeros((layout.nodes.size, layout.nodes.size), dtype=np.float32)
    adjacency[layout.ends[:, 0], layout.ends[:, 1]] = 1.0
    adjacency[layout.ends[:, 1], layout.ends[:, 0]] = 1.0
    return adjacency
