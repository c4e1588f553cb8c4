"""Is a submission fit to be judged? Checks of a sample against the reference, before any figure.

What makes every figure meaningless (wrong units, a wrong order of rows or voxels, negative energies, other incident
energies) is an error that says what is wrong and how to mend it; what only weakens figures is a warning with counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp, spearmanr

from qshower.evaluation.shower_set import ShowerSet
from qshower.model.geometry import Geometry
from qshower.model.shower_checks import Finding, findings_of, shared_rows
from qshower.sampler.errors import ShowerFileError

GEV_PER_MEV = 1000.0
UNIT_FACTOR_RANGE = (300.0, 3000.0)
RESPONSE_FACTOR_LIMIT = 50.0
RESPONSE_WARNING = 0.2
ENERGY_LAW_P_VALUE = 1e-3
ORDERED_CORRELATION = 0.5
SHUFFLED_SHARE = 0.3
FIT_FOR_DOUBT = 0.15
FIT_RATIO = 1 / 3
COUNT_IMBALANCE = 1.1
LEAST_FOR_ORDER = 50
LEAST_OVERLAP = 0.01
MOSTLY_INSIDE = 0.9
LEAST_FOR_RANGE = 20
MOST_RANGES = 12
# Extremes of two sets drawn from one law differ by a few per cent.
RANGE_MARGIN = 0.1

Array = NDArray[np.float64]


def check_sample(reference: ShowerSet, sample: ShowerSet) -> tuple[Finding, ...]:
    """Warnings about a sample.

    Raises:
        ShowerFileError: the sample cannot be judged; the message explains the defect.
    """
    _refuse_negative(sample)
    _refuse_empty(sample)
    _refuse_units(reference, sample)
    _refuse_shuffled_rows(reference, sample)
    _refuse_voxel_order(reference, sample)
    return tuple(_warnings(reference, sample))


def check_reference(reference: ShowerSet) -> tuple[Finding, ...]:
    """Warnings about the reference alone; ShowerFileError if it cannot serve as one."""
    _refuse_negative(reference)
    _refuse_empty(reference)
    return findings_of(reference.tallies)


def _refuse_negative(showers: ShowerSet) -> None:
    tallies = showers.tallies
    if tallies.negative_showers:
        raise ShowerFileError(
            f"{showers.path}: dataset showers, row {tallies.first_negative_row}",
            f"negative voxel energies in {tallies.negative_showers} of {len(showers)} showers",
            "voxel energies >= 0 in MeV; set those below the threshold to 0",
        )


def _refuse_empty(showers: ShowerSet) -> None:
    if showers.tallies.empty_showers == len(showers):
        raise ShowerFileError(
            f"{showers.path}: dataset showers", "no voxel above 0 in any shower", "showers that deposit energy"
        )


def _refuse_units(reference: ShowerSet, sample: ShowerSet) -> None:
    low, high = UNIT_FACTOR_RANGE
    ratio = float(np.median(reference.features.e_inc_mev) / np.median(sample.features.e_inc_mev))
    inside = _overlap(reference.features.e_inc_mev, sample.features.e_inc_mev)
    few = min(len(reference), len(sample)) < LEAST_FOR_RANGE
    # A reference that spans three decades overlaps with its own copy in GeV: what counts is that MeV fit far better.
    in_gev = low < ratio < high and _overlap(
        reference.features.e_inc_mev, sample.features.e_inc_mev * GEV_PER_MEV
    ) > max(MOSTLY_INSIDE, 2 * inside)
    if in_gev or (inside < LEAST_OVERLAP and (low < ratio < high or not few)):
        hint = (
            "they look like GeV: multiply incident_energies (and showers, if they are in GeV too) by 1000"
            if low < ratio < high
            else "generate showers at the reference's energies"
        )
        raise ShowerFileError(
            f"{sample.path}: dataset incident_energies",
            f"median {np.median(sample.features.e_inc_mev):.6g}, {inside:.1%} within the reference's range",
            f"MeV, {reference.features.e_inc_mev.min():.6g} to {reference.features.e_inc_mev.max():.6g}; {hint}",
        )
    response = _median_response(reference) / max(_median_response(sample), 1e-300)
    if response > RESPONSE_FACTOR_LIMIT or response < 1 / RESPONSE_FACTOR_LIMIT:
        hint = (
            "the voxels look like GeV: multiply showers by 1000"
            if low < response < high
            else "check the unit and the normalisation of showers"
        )
        raise ShowerFileError(
            f"{sample.path}: dataset showers",
            f"median E_tot/E_inc {_median_response(sample):.3g}",
            f"about {_median_response(reference):.3g}, as the reference; {hint}",
        )


def _overlap(reference: Array, sample: Array) -> float:
    inside = (sample >= reference.min() * (1 - RANGE_MARGIN)) & (sample <= reference.max() * (1 + RANGE_MARGIN))
    return float(inside.mean())


def _median_response(showers: ShowerSet) -> float:
    return float(np.median(showers.features.e_tot_mev / showers.features.e_inc_mev))


def _refuse_shuffled_rows(reference: ShowerSet, sample: ShowerSet) -> None:
    if len(sample) < LEAST_FOR_ORDER or np.ptp(np.log(sample.features.e_inc_mev)) < np.log(2):
        return
    expected, found = _energy_correlation(reference), _energy_correlation(sample)
    if expected > ORDERED_CORRELATION and found < SHUFFLED_SHARE * expected:
        raise ShowerFileError(
            f"{sample.path}: rows of incident_energies and showers",
            f"rank correlation of E_inc and E_tot {found:.2f}",
            f"about {expected:.2f}, as the reference: shower i must belong to incident energy i",
        )


def _energy_correlation(showers: ShowerSet) -> float:
    return float(spearmanr(showers.features.e_inc_mev, showers.features.e_tot_mev).statistic)


def _refuse_voxel_order(reference: ShowerSet, sample: ShowerSet) -> None:
    """Compare the average shower with the reference's, as it is and as if voxels had been written in another order."""
    mean_reference, mean_sample = _mean_profile(reference, sample)
    if mean_reference is None or mean_sample is None:
        return
    as_is = _profile_distance(mean_reference, mean_sample)
    if as_is < FIT_FOR_DOUBT:
        return
    scored = [
        (_profile_distance(mean_reference, mean_sample[order]), name)
        for name, order in voxel_orders(reference.geometry)
    ]
    best, name = min(scored)
    if best < FIT_RATIO * as_is:
        raise ShowerFileError(
            f"{sample.path}: dataset showers",
            f"voxels that look as if written in the order {name}: read so, the average shower differs from the "
            f"reference's by {best:.3f}, as it stands by {as_is:.3f} (0 is equal, 1 is disjoint)",
            "layer slowest, then angle, then radius fastest",
        )


def _mean_profile(reference: ShowerSet, sample: ShowerSet) -> tuple[Array | None, Array | None]:
    """The average showers of the slice of incident energy in which both have most showers, each summing to 1."""
    if not len(reference.slice_counts):
        return None, None
    counts = np.minimum(reference.slice_counts, sample.slice_counts)
    part = int(np.argmax(counts))
    if counts[part] < LEAST_FOR_ORDER:
        return None, None
    first, second = reference.mean_showers_mev[part], sample.mean_showers_mev[part]
    if first.sum() <= 0 or second.sum() <= 0:
        return None, None
    return first / first.sum(), second / second.sum()


def _profile_distance(first: Array, second: Array) -> float:
    return float(0.5 * np.sum((first - second) ** 2 / (first + second + 1e-16)))


def voxel_orders(geometry: Geometry) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Orders in which voxels are likely to be written by mistake.

    ``mean[order]`` is the shower in the right order if the file was written in the wrong one.
    """
    index = np.arange(geometry.voxel_count)
    if geometry.is_regular:
        axes = ("layer", "angle", "radius")
        shape = geometry.block_shape
        for wrong in permutations(range(3)):
            if wrong != (0, 1, 2):
                block = index.reshape([shape[axis] for axis in wrong])
                right = block.transpose([wrong.index(axis) for axis in range(3)])
                yield ", ".join(axes[axis] for axis in wrong), right.reshape(-1)
        block = index.reshape(shape)
        yield "last layer first", block[::-1].reshape(-1)
        yield "outer radius first", block[:, :, ::-1].reshape(-1)
        return
    swapped, outwards = [], []
    for layer, voxels in zip(geometry.layers, geometry.layer_slices(), strict=True):
        part = index[voxels]
        swapped.append(part.reshape(layer.radial_bins, layer.angular_bins).T.reshape(-1))
        outwards.append(part.reshape(layer.angular_bins, layer.radial_bins)[:, ::-1].reshape(-1))
    yield "layer, radius, angle", np.concatenate(swapped)
    yield "outer radius first", np.concatenate(outwards)
    starts = np.cumsum([0] + [layer.voxel_count for layer in reversed(geometry.layers)])
    backwards = [index[low:high] for low, high in zip(starts[:-1], starts[1:], strict=True)]  # noqa: RUF007
    yield "last layer first", np.concatenate(backwards[::-1])


@dataclass(frozen=True, slots=True)
class Shared:
    """Showers that two sets have in common: how many, and a sentence that names their rows."""

    count: int
    text: str


def describe_shared(first: ShowerSet, second: ShowerSet) -> Shared | None:
    """The showers of ``second`` that are in ``first`` as well, voxel by voxel; None if there are none."""
    rows, others = shared_rows(first.digests, second.digests)
    if not rows.size:
        return None
    return Shared(
        rows.size,
        f"{rows.size} showers are equal, voxel by voxel, in {second.name} (rows {_ranges(second.rows[rows])}) and "
        f"{first.name} (rows {_ranges(np.unique(first.rows[others]))}): an AUC of these two would say nothing.",
    )


def find_copies(others: Sequence[ShowerSet], sample: ShowerSet) -> tuple[Finding, ...]:
    """A finding for each set that has showers in common with the sample."""
    found = [shared for other in others if (shared := describe_shared(other, sample)) is not None]
    hint = "Memorised, or a file beside itself?"
    return tuple(Finding("copies", shared.count, f"{shared.text} {hint}", severe=True) for shared in found)


def _ranges(rows: NDArray[np.int64]) -> str:
    """Growing row numbers in words: 0-9, 12, 40-41."""
    parts = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    named = [f"{part[0]}" if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts[:MOST_RANGES]]
    left = sum(len(part) for part in parts[MOST_RANGES:])
    return ", ".join(named) + (f" and {left} more" if left else "")


def _warnings(reference: ShowerSet, sample: ShowerSet) -> Iterator[Finding]:
    yield from findings_of(sample.tallies)
    first, second = reference.features.e_inc_mev, sample.features.e_inc_mev
    law = ks_2samp(np.log(first), np.log(second))
    if law.pvalue < ENERGY_LAW_P_VALUE:
        yield Finding(
            "energy_law",
            len(sample),
            f"Incident energies do not follow the reference's law (Kolmogorov-Smirnov distance {law.statistic:.3f}, "
            f"p = {law.pvalue:.1e}): every figure that depends on the energy is off for that reason alone.",
        )
    outside = len(sample) - round(_overlap(first, second) * len(sample))
    if outside:
        yield Finding("energy_range", outside, f"{outside} incident energies lie well outside the reference's range.")
    yield from find_copies([reference], sample)
    ratio = _median_response(sample) / _median_response(reference)
    if abs(ratio - 1) > RESPONSE_WARNING:
        yield Finding("normalisation", len(sample), f"The median of E_tot/E_inc is {ratio:.2f} times the reference's.")
    larger, smaller = max(len(sample), len(reference)), min(len(sample), len(reference))
    if larger > COUNT_IMBALANCE * smaller:
        yield Finding(
            "imbalance",
            larger - smaller,
            f"{len(sample)} showers against {len(reference)} of the reference: distances and classifiers use "
            f"{smaller} of each, drawn at random.",
        )
