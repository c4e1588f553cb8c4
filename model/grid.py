"""The regular grid a network works on: voxels of any layered geometry as (layers, angular, radial) with a mask.

Layers with fewer bins than the widest occupy the first ones of each axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.model.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Grid:
    """Bins of each layer, and where its voxels lie on the grid.

    Attributes:
        angular_bins: (layers,) angular bins of each layer.
        radial_bins: (layers,) radial bins of each layer.
    """

    angular_bins: tuple[int, ...]
    radial_bins: tuple[int, ...]

    @classmethod
    def of(cls, geometry: Geometry) -> Grid:
        """The grid of a geometry."""
        return cls(
            tuple(layer.angular_bins for layer in geometry.layers),
            tuple(len(layer.r_edges_mm) - 1 for layer in geometry.layers),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(layers, angular, radial)."""
        return len(self.angular_bins), max(self.angular_bins), max(self.radial_bins)

    @property
    def regular(self) -> bool:
        """Every layer fills the grid."""
        return len(set(self.angular_bins)) == 1 and len(set(self.radial_bins)) == 1

    def mask(self) -> NDArray[np.bool_]:
        """(layers, angular, radial), True where there is a voxel."""
        _, angular, radial = self.shape
        in_angle = np.arange(angular)[None, :, None] < np.array(self.angular_bins)[:, None, None]
        in_radius = np.arange(radial)[None, None, :] < np.array(self.radial_bins)[:, None, None]
        return in_angle & in_radius

    def from_voxels(self, voxels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(rows, voxels) in CaloChallenge order → (rows, layers, angular, radial), 0 where there is no voxel."""
        if self.regular:
            return voxels.reshape(-1, *self.shape)
        grid = np.zeros((len(voxels), *self.shape), dtype=np.float32)
        grid[:, self.mask()] = voxels
        return grid

    def to_voxels(self, grid: NDArray[np.float32]) -> NDArray[np.float32]:
        """(rows, layers, angular, radial) → (rows, voxels) in CaloChallenge order."""
        if self.regular:
            return np.ascontiguousarray(grid.reshape(len(grid), -1))
        return np.ascontiguousarray(grid[:, self.mask()])
