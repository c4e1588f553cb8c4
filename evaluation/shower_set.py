"""One pass over a shower file: everything the evaluation needs of it, in bounded memory.

Voxels are seen chunk by chunk and kept only as sums, histograms and, for a random few rows, as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.energy_slices import EnergySlice
from qshower.evaluation.features import FeatureSet, chunk_rows, compute_features, join_features
from qshower.model.geometry import Geometry
from qshower.model.shower_checks import ShowerTally, Tallies
from qshower.model.showers_file import open_showers

GROUPS = 20
"""Rows are dealt out to this many groups, row i to group i mod 20: the spread of groups gives statistical errors."""

VOXEL_BINS = 49

Array = NDArray[np.float64]
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True, eq=False)
class ShowerSet:
    """What is known of the showers of one file.

    Attributes:
        name: how figures call it.
        path: the file.
        features: high-level features of its N showers.
        rows: (N,) their rows in the file.
        tallies: counts of defects.
        digests: (N,) a number for each shower, 0 where it is empty, to find those that are in two sets.
        voxel_counts: (20, bins) voxel-energy histogram of each group of rows.
        mean_showers_mev: (slices, voxels) average shower of each slice of incident energy.
        slice_counts: (slices,) showers in each slice.
        kept: (K,) positions, in ``features``, of the showers whose voxels were kept.
        kept_mev: (K, voxels) float32 those showers.
        provenance: how the file says its showers came to be, if it was written by this project; else empty.
    """

    name: str
    path: Path
    features: FeatureSet
    rows: NDArray[np.int64]
    tallies: Tallies
    digests: NDArray[np.uint64]
    voxel_counts: NDArray[np.int64]
    mean_showers_mev: Array
    slice_counts: NDArray[np.int64]
    kept: NDArray[np.int64]
    kept_mev: NDArray[np.float32]
    provenance: Mapping[str, Any]

    @property
    def geometry(self) -> Geometry:
        """The voxel layout."""
        return self.features.geometry

    def __len__(self) -> int:
        return len(self.features)

    def half(self, parity: int) -> Self:
        """The showers on even (0) or odd (1) rows; average showers and counts of defects stay those of the file."""
        chosen = self.rows % 2 == parity
        position = np.cumsum(chosen) - 1
        of_kept = chosen[self.kept]
        counts = self.voxel_counts.copy()
        counts[1 - parity :: 2] = 0
        return type(self)(
            name=f"{self.name}, {'odd' if parity else 'even'} rows",
            path=self.path,
            features=self.features.take(chosen),
            rows=self.rows[chosen],
            tallies=self.tallies,
            digests=self.digests[chosen],
            voxel_counts=counts,
            mean_showers_mev=self.mean_showers_mev,
            slice_counts=self.slice_counts,
            kept=position[self.kept[of_kept]],
            kept_mev=self.kept_mev[of_kept],
            provenance=self.provenance,
        )


def voxel_edges(threshold_mev: float, largest_mev: float) -> Array:
    """(50,) the published edges of the voxel-energy histogram: logarithmic, from threshold to the largest voxel."""
    low = threshold_mev if threshold_mev > 0 else largest_mev * 1e-6
    return np.logspace(np.log10(low), np.log10(max(largest_mev, low * 1.001)), VOXEL_BINS + 1)


def load_shower_set(
    path: Path,
    geometry: Geometry,
    slices: Sequence[EnergySlice],
    *,
    name: str,
    keep: int,
    edges: Array | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ShowerSet:
    """Read a shower file once (twice if ``edges`` is None) and summarise it.

    Args:
        path: the file.
        geometry: its layout.
        slices: of incident energy, for the average showers.
        name: how figures call it.
        keep: how many showers, drawn at random, keep their voxels.
        edges: of the voxel-energy histogram; None to take them from this file, as for the reference.
        seed: of that draw.
        progress: called with the share that is done.

    Returns:
        Features and tallies of every shower, and the voxels of those that are kept.

    Raises:
        ShowerFileError: the file is unreadable, mis-shaped or holds values that are not finite.
    """
    with open_showers(path, geometry, allow_negative=True) as file:
        count = file.count
        energies = file.energies_mev()
        provenance = _provenance(file.attributes.get("provenance"))
        chosen = np.sort(np.random.default_rng(seed).permutation(count)[:keep])
        kept_mev = np.empty((len(chosen), geometry.voxel_count), dtype=np.float32)
        parts: list[FeatureSet] = []
        tally = ShowerTally(geometry.threshold_mev)
        sums = np.zeros((len(slices), geometry.voxel_count))
        counts = np.zeros((GROUPS, VOXEL_BINS), dtype=np.int64)
        members = np.stack([part.contains(energies) for part in slices]) if slices else np.zeros((0, count), bool)
        row = filled = 0
        for chunk_energies, showers in file.chunks(chunk_rows(geometry)):
            stop = row + len(showers)
            parts.append(compute_features(geometry, chunk_energies, showers))
            tally.add(chunk_energies, showers)
            sums += members[:, row:stop].astype(np.float32) @ showers
            inside = chosen[(chosen >= row) & (chosen < stop)]
            kept_mev[filled : filled + len(inside)] = showers[inside - row]
            if edges is not None:
                counts += _grouped_counts(showers, row, edges)
            row, filled = stop, filled + len(inside)
            if progress is not None:
                progress(row / count * (0.6 if edges is None else 1.0))
        if edges is None:
            own = voxel_edges(geometry.threshold_mev, tally.largest_mev)
            row = 0
            for _, showers in file.chunks(chunk_rows(geometry)):
                counts += _grouped_counts(showers, row, own)
                row += len(showers)
                if progress is not None:
                    progress(0.6 + 0.4 * row / count)
    slice_counts = members.sum(axis=1)
    return ShowerSet(
        name=name,
        path=path,
        features=join_features(parts),
        rows=np.arange(count),
        tallies=tally.result(),
        digests=tally.digests(),
        voxel_counts=counts,
        mean_showers_mev=sums / np.maximum(slice_counts, 1)[:, None],
        slice_counts=slice_counts,
        kept=chosen,
        kept_mev=kept_mev,
        provenance=provenance,
    )


def _provenance(text: str | None) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _grouped_counts(showers: NDArray[np.float32], first_row: int, edges: Array) -> NDArray[np.int64]:
    """(20, bins) histogram of the voxels of each group of rows."""
    counts = np.zeros((GROUPS, len(edges) - 1), dtype=np.int64)
    # The narrow type would round the last edge, the largest voxel itself, out of its bin.
    limits = edges.copy()
    limits[0], limits[-1] = limits[0] * (1 - 1e-6), limits[-1] * (1 + 1e-6)
    for group in range(GROUPS):
        rows = showers[(group - first_row) % GROUPS :: GROUPS]
        counts[group] = np.histogram(rows[rows > 0], bins=limits)[0]
    return counts
