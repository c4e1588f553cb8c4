"""Average showers and their longitudinal and radial profiles in slices of incident energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.evaluation.energy_slices import EnergySlice
from qshower.evaluation.shower_set import ShowerSet
from qshower.model.geometry import Geometry

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """Averages over the showers of one slice, in MeV per shower.

    Attributes:
        longitudinal: (L,) energy of each layer.
        radii_mm: (R,) ring centres, over all distinct rings of the geometry.
        radial: (R,) energy of each ring, summed over layers and angles.
        rings: (L, R) energy by layer and ring; NaN where a layer has no such ring.
        count: showers averaged.
    """

    longitudinal: Array
    radii_mm: Array
    radial: Array
    rings: Array
    count: int


def slice_profiles(showers: ShowerSet, slices: Sequence[EnergySlice]) -> tuple[Profiles, ...]:
    """The profiles of each slice."""
    return tuple(
        profiles_of(showers.geometry, showers.mean_showers_mev[index], int(showers.slice_counts[index]))
        for index in range(len(slices))
    )


def profiles_of(geometry: Geometry, mean_shower_mev: Array, count: int) -> Profiles:
    """The profiles of an average shower (voxels,)."""
    every_radius = np.unique(np.concatenate([_ring_centres(layer.r_edges_mm) for layer in geometry.layers]))
    rings = np.full((geometry.layer_count, len(every_radius)), np.nan)
    for row, (layer, voxels) in enumerate(zip(geometry.layers, geometry.layer_slices(), strict=True)):
        energy = mean_shower_mev[voxels].reshape(layer.angular_bins, layer.radial_bins).sum(axis=0)
        rings[row, np.searchsorted(every_radius, _ring_centres(layer.r_edges_mm))] = energy
    return Profiles(
        longitudinal=np.nansum(rings, axis=1),
        radii_mm=every_radius,
        radial=np.nansum(rings, axis=0),
        rings=rings,
        count=count,
    )


def _ring_centres(edges: tuple[float, ...]) -> Array:
    values = np.asarray(edges, dtype=np.float64)
    return np.asarray((values[:-1] + values[1:]) / 2, dtype=np.float64)
