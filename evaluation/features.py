"""The high-level features of showers, in the CaloChallenge's order and scaling.

For one layer with voxel energies E_v at (x_v, y_v) = (r_v cos a_v, r_v sin a_v), sums over the layer's voxels::

    E_layer    = sum E_v                                       MeV
    centre_eta = sum x_v E_v / (E_layer + 1e-16)               mm, likewise centre_phi with y and centre_r with r
    width_eta  = sqrt(max(0, sum x_v^2 E_v / (E_layer + 1e-16) - centre_eta^2)), likewise phi and r
    sparsity   = 1 - (voxels with E_v > 0) / voxels

Centres and widths in eta and phi exist for layers with more than one angular bin. Source: the CaloChallenge's
evaluation, arXiv:2410.21611.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qshower.model.geometry import Geometry
from qshower.sampler.errors import DefectError

LAYER_FLOOR_MEV = 1e-8
"""Added to energies before the logarithm, so that an empty layer has one."""

CENTRE_FLOOR_MEV = 1e-16
CHUNK_BYTES = 64_000_000
LENGTH_SCALE_MM = 100.0

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """Features of N showers; L layers, A of them with angular bins. Energies in MeV, lengths in mm.

    Attributes:
        geometry: the layout.
        e_inc_mev: (N,) incident energy.
        e_tot_mev: (N,) deposited energy.
        e_layer_mev: (N, L) deposited energy of each layer.
        centre_eta_mm, centre_phi_mm, width_eta_mm, width_phi_mm: (N, A).
        sparsity: (N, L) share of empty voxels.
        centre_r_mm, width_r_mm: (N, L).
    """

    geometry: Geometry
    e_inc_mev: Array
    e_tot_mev: Array
    e_layer_mev: Array
    centre_eta_mm: Array
    centre_phi_mm: Array
    width_eta_mm: Array
    width_phi_mm: Array
    sparsity: Array
    centre_r_mm: Array
    width_r_mm: Array

    def __len__(self) -> int:
        return int(self.e_inc_mev.shape[0])

    def take(self, rows: ArrayLike) -> Self:
        """The features of some rows: indices or a mask."""
        index = np.asarray(rows)
        values = {name: getattr(self, name)[index] for name in _array_names()}
        return type(self)(geometry=self.geometry, **values)

    def matrix(self) -> Array:
        """(N, D) published feature vector: D = 30, 46, 362, 362 for 1-photons, 1-pions, 2 and 3."""
        return np.column_stack(
            [
                self.research_matrix(),
                np.log10(self.e_tot_mev + LAYER_FLOOR_MEV),
                self.sparsity,
                self.centre_r_mm / LENGTH_SCALE_MM,
                self.width_r_mm / LENGTH_SCALE_MM,
            ]
        )

    def research_matrix(self) -> Array:
        """(N, 1 + L + 4 A) the research code's shorter vector, 226 for dataset 2: the first columns of ``matrix``."""
        return np.column_stack(
            [
                np.log10(self.e_inc_mev),
                np.log10(self.e_layer_mev + LAYER_FLOOR_MEV),
                self.centre_eta_mm / LENGTH_SCALE_MM,
                self.centre_phi_mm / LENGTH_SCALE_MM,
                self.width_eta_mm / LENGTH_SCALE_MM,
                self.width_phi_mm / LENGTH_SCALE_MM,
            ]
        )


def compute_features(
    geometry: Geometry, incident_energies_mev: ArrayLike, showers_mev: NDArray[np.float32]
) -> FeatureSet:
    """All features of showers (N, voxels) in MeV, worked out in chunks of 64 MB.

    Raises:
        InvalidInputError: the shapes do not fit each other or the geometry.
    """
    energies = np.asarray(incident_energies_mev, dtype=np.float64).reshape(-1)
    if showers_mev.ndim != 2 or showers_mev.shape[1] != geometry.voxel_count:
        raise DefectError("showers_mev", f"shape {showers_mev.shape}", f"(N, {geometry.voxel_count})")
    if energies.shape[0] != showers_mev.shape[0]:
        raise DefectError("incident_energies_mev", f"{energies.shape[0]} rows", f"{showers_mev.shape[0]} rows")
    rows = chunk_rows(geometry)
    starts = range(0, max(1, len(energies)), rows)
    return join_features([_chunk_features(geometry, energies[i : i + rows], showers_mev[i : i + rows]) for i in starts])


def chunk_rows(geometry: Geometry) -> int:
    """How many showers make a chunk of 64 MB in double precision."""
    return max(1, CHUNK_BYTES // (8 * geometry.voxel_count))


def join_features(parts: Sequence[FeatureSet]) -> FeatureSet:
    """The features of several chunks of one geometry, as one set."""
    if not parts:
        raise DefectError("parts", "nothing", "at least one chunk of features")
    values = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _array_names()}
    return FeatureSet(geometry=parts[0].geometry, **values)


@lru_cache(maxsize=1)
def _array_names() -> tuple[str, ...]:
    return tuple(field.name for field in fields(FeatureSet) if field.name != "geometry")


@lru_cache(maxsize=16)
def _moment_weights(geometry: Geometry) -> tuple[Array, ...]:
    """Per layer (voxels, 7): 1, x, y, r, x², y², r², the weights of the sums over voxels."""
    x, y, r = geometry.x_mm(), geometry.y_mm(), geometry.r_mm()
    weights = np.column_stack([np.ones_like(r), x, y, r, x * x, y * y, r * r])
    return tuple(weights[voxels] for voxels in geometry.layer_slices())


def _chunk_features(geometry: Geometry, energies: Array, showers: NDArray[np.float32]) -> FeatureSet:
    count, layers = showers.shape[0], geometry.layer_count
    weights = _moment_weights(geometry)
    double = showers.astype(np.float64)
    if geometry.is_regular:
        moments = (double.reshape(count * layers, -1) @ weights[0]).reshape(count, layers, 7)
        hit = np.count_nonzero((showers > 0).reshape(count, layers, -1), axis=2)
    else:
        slices = geometry.layer_slices()
        moments = np.stack([double[:, voxels] @ weight for voxels, weight in zip(slices, weights, strict=True)], axis=1)
        hit = np.stack([np.count_nonzero(showers[:, voxels] > 0, axis=1) for voxels in slices], axis=1)
    e_layer = moments[:, :, 0]
    means = moments / (e_layer[:, :, None] + CENTRE_FLOOR_MEV)
    centres = means[:, :, 1:4]
    widths = np.sqrt(np.clip(means[:, :, 4:7] - centres**2, 0.0, None))
    angular = np.array([layer.angular_bins > 1 for layer in geometry.layers])
    sizes = np.array([layer.voxel_count for layer in geometry.layers])
    return FeatureSet(
        geometry=geometry,
        e_inc_mev=energies,
        e_tot_mev=e_layer.sum(axis=1),
        e_layer_mev=e_layer.copy(),
        centre_eta_mm=centres[:, angular, 0],
        centre_phi_mm=centres[:, angular, 1],
        width_eta_mm=widths[:, angular, 0],
        width_phi_mm=widths[:, angular, 1],
        sparsity=1.0 - hit / sizes,
        centre_r_mm=centres[:, :, 2].copy(),
        width_r_mm=widths[:, :, 2].copy(),
    )
