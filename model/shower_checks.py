"""Do showers look like showers in MeV? Counts over one pass, and what they say, wherever a file is first read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESPONSE_RANGE = (1 / 300, 10.0)
"""Median E_tot/E_inc that some calorimeter may have; a wrong unit leaves it by a factor of 1000."""

MOSTLY_EMPTY = 0.5
BELOW_THRESHOLD_SHARE = 0.8
FAINT_ENERGY_MEV = 1e3
EXTREME_ENERGY_MEV = 1e7
ABOVE_THRESHOLD_FACTOR = 100.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What is odd about a set of showers.

    Attributes:
        code: short name, such as ``duplicates``.
        count: showers (or voxels) concerned.
        text: a sentence for the report.
        severe: whether nothing that is made of the showers can be right.
    """

    code: str
    count: int
    text: str
    severe: bool = False


@dataclass(frozen=True, slots=True)
class Tallies:
    """Counts of what showers should not hold, over all of a set, and what gives a wrong unit away.

    ``faint_showers`` have energy, but in no voxel as much as the threshold.
    """

    threshold_mev: float
    showers: int
    negative_showers: int
    first_negative_row: int | None
    below_threshold_voxels: int
    below_threshold_showers: int
    hit_voxels: int
    empty_showers: int
    faint_showers: int
    duplicate_showers: int
    first_duplicate_rows: tuple[int, int] | None
    largest_voxel_mev: float
    smallest_hit_mev: float
    median_energy_mev: float
    median_response: float


class ShowerTally:
    """Running counts over chunks of showers.

    Attributes:
        largest_mev: the largest voxel.
    """

    def __init__(self, threshold_mev: float) -> None:
        self._threshold_mev = threshold_mev
        # A float32 file rounds the threshold itself.
        self._threshold = np.float32(threshold_mev * (1 - 1e-6))
        self.largest_mev = 0.0
        self._smallest = np.inf
        self._rows = 0
        self._negative = self._below_voxels = self._below_showers = self._hits = 0
        self._empty = self._faint = 0
        self._first_negative: int | None = None
        self._digests: list[int] = []
        self._energies: list[NDArray[np.float64]] = []
        self._totals: list[NDArray[np.float64]] = []

    def add(self, incident_energies_mev: NDArray[np.float64], showers_mev: NDArray[np.float32]) -> None:
        """Count the next rows: energies (n,) and showers (n, voxels)."""
        first_row = self._rows
        self._rows += len(showers_mev)
        self._energies.append(np.array(incident_energies_mev))
        self._totals.append(showers_mev.sum(axis=1, dtype=np.float64))
        self.largest_mev = max(self.largest_mev, float(showers_mev.max()))
        negative = (showers_mev < 0).any(axis=1)
        if negative.any():
            self._negative += int(negative.sum())
            if self._first_negative is None:
                self._first_negative = first_row + int(np.flatnonzero(negative)[0])
        hit = showers_mev > 0
        self._smallest = min(self._smallest, float(np.min(showers_mev, where=hit, initial=np.inf)))
        hits = np.count_nonzero(hit, axis=1)
        self._hits += int(hits.sum())
        below = np.count_nonzero(hit & (showers_mev < self._threshold), axis=1)
        self._below_voxels += int(below.sum())
        self._below_showers += int((below > 0).sum())
        self._empty += int((hits == 0).sum())
        self._faint += int(((hits > 0) & (below == hits)).sum())
        for row, count in enumerate(hits):
            content = np.ascontiguousarray(showers_mev[row]).data if count else None
            self._digests.append(0 if content is None else _digest(content))

    def digests(self) -> NDArray[np.uint64]:
        """(rows,) a number for each shower, equal for equal voxels; 0 for a shower without energy."""
        return np.array(self._digests, dtype=np.uint64)

    def result(self) -> Tallies:
        """The counts so far."""
        energies, totals = np.concatenate(self._energies), np.concatenate(self._totals)
        digests = self.digests()
        filled = np.flatnonzero(digests)
        _, first, which = np.unique(digests[filled], return_index=True, return_inverse=True)
        repeats = np.flatnonzero(first[which] != np.arange(len(filled)))
        again = int(repeats[0]) if repeats.size else None
        return Tallies(
            threshold_mev=self._threshold_mev,
            showers=self._rows,
            negative_showers=self._negative,
            first_negative_row=self._first_negative,
            below_threshold_voxels=self._below_voxels,
            below_threshold_showers=self._below_showers,
            hit_voxels=self._hits,
            empty_showers=self._empty,
            faint_showers=self._faint,
            duplicate_showers=len(repeats),
            first_duplicate_rows=None if again is None else (int(filled[first[which[again]]]), int(filled[again])),
            largest_voxel_mev=self.largest_mev,
            smallest_hit_mev=self._smallest,
            median_energy_mev=float(np.median(energies)),
            median_response=float(np.median(totals / energies)),
        )


def shared_rows(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of ``second`` whose showers are in ``first`` as well, and a row of each in ``first``, from their digests."""
    known, place = np.unique(first, return_index=True)
    at = np.minimum(np.searchsorted(known, second), len(known) - 1)
    rows = np.flatnonzero((second != 0) & (known[at] == second))
    return rows, place[at[rows]]


def _digest(content: memoryview) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def findings_of(tallies: Tallies) -> tuple[Finding, ...]:
    """What is odd about a set of showers by itself, the severe first."""
    found = [*_unit_findings(tallies), *_count_findings(tallies)]
    return tuple(sorted(found, key=lambda finding: not finding.severe))


def _unit_findings(tallies: Tallies) -> Iterator[Finding]:
    response, energy = tallies.median_response, tallies.median_energy_mev
    low, high = RESPONSE_RANGE
    if 0 < response < low or response > high:
        if response < low:
            guess = "showers are in GeV, or incident_energies in keV"
        else:
            guess = "incident_energies are in GeV, or showers in keV"
        yield Finding(
            "units",
            tallies.showers,
            f"The median of E_tot/E_inc is {response:.3g}, which no calorimeter has: it looks as if {guess}; "
            "both must be in MeV.",
            severe=True,
        )
        return
    below = tallies.below_threshold_voxels / max(tallies.hit_voxels, 1)
    threshold = tallies.threshold_mev
    if below > BELOW_THRESHOLD_SHARE and energy < FAINT_ENERGY_MEV:
        guess, reason = "GeV", f"{below:.0%} of the voxels hit lie below the readout threshold of {threshold:g} MeV"
    elif tallies.smallest_hit_mev > ABOVE_THRESHOLD_FACTOR * threshold > 0 and energy > EXTREME_ENERGY_MEV:
        guess = "keV"
        reason = f"no voxel hit is below {tallies.smallest_hit_mev:.3g}, the readout threshold being {threshold:g} MeV"
    else:
        return
    yield Finding(
        "units",
        tallies.showers,
        f"Energies look like {guess}: the median of incident_energies is {energy:.4g}, and {reason}; both must be in "
        "MeV.",
        severe=True,
    )


def _count_findings(tallies: Tallies) -> Iterator[Finding]:
    if tallies.negative_showers:
        yield Finding(
            "negative",
            tallies.negative_showers,
            f"{tallies.negative_showers} showers hold negative voxel energies (first: row "
            f"{tallies.first_negative_row}): set those below the threshold to 0.",
            severe=True,
        )
    if tallies.duplicate_showers and tallies.first_duplicate_rows is not None:
        first, second = tallies.first_duplicate_rows
        yield Finding(
            "duplicates",
            tallies.duplicate_showers,
            f"{tallies.duplicate_showers} showers repeat an earlier one, voxel by voxel (first: rows {first} and "
            f"{second}): errors are underestimated.",
        )
    if tallies.below_threshold_voxels:
        share = tallies.below_threshold_voxels / max(tallies.hit_voxels, 1)
        yield Finding(
            "below_threshold",
            tallies.below_threshold_voxels,
            f"{tallies.below_threshold_voxels} voxels ({share:.2%} of those hit) in {tallies.below_threshold_showers} "
            f"showers lie below the readout threshold of {tallies.threshold_mev:g} MeV: set them to 0.",
        )
    for code, count, what in (
        ("empty", tallies.empty_showers, "have no energy at all"),
        ("faint", tallies.faint_showers, f"have no voxel above the threshold of {tallies.threshold_mev:g} MeV"),
    ):
        if count:
            lost = tallies.empty_showers + tallies.faint_showers > MOSTLY_EMPTY * tallies.showers
            yield Finding(code, count, f"{count} of {tallies.showers} showers {what}.", severe=lost)
