"""The symmetry of showers on the calorimeter's axis: rotations by one angular bin, and mirror images.

The group ``dihedral`` has 2·A elements for A angular bins. Element g < A rotates by g bins; element g ≥ A mirrors
(angular bin a → −a mod A) and then rotates by g − A bins. Training showers are brought to a canonical orientation;
generated ones are turned by a uniformly random element, so that the law of generated showers is invariant exactly.
Layers with one angular bin stay as they are; showers of calorimeters without the symmetry use the group ``none``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qshower.model.grid import Grid
from qshower.model.manifest import Symmetry
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.jit.kernel import kernel


def group_order(symmetry: Symmetry, grid: Grid) -> int:
    """Number of elements; InvalidInputError if the grid does not allow the symmetry."""
    if symmetry == "none":
        return 1
    widest = grid.shape[1]
    if not set(grid.angular_bins) <= {1, widest}:
        raise InvalidInputError("symmetry", symmetry, "none, since the layers have different angular bins")
    return 2 * widest


def fitting_symmetry(chosen: Symmetry | None, grid: Grid) -> Symmetry:
    """The symmetry chosen, or the one that the grid allows; InvalidInputError if it does not allow the chosen."""
    if chosen is None:
        return "dihedral" if set(grid.angular_bins) <= {1, grid.shape[1]} else "none"
    group_order(chosen, grid)
    return chosen


def turn(showers: NDArray[np.float32], elements: NDArray[np.int64], grid: Grid) -> NDArray[np.float32]:
    """Showers (rows, layers, A, radial) turned by one element (rows,) of the dihedral group each."""
    turning = np.array([bins == grid.shape[1] for bins in grid.angular_bins])
    turned: NDArray[np.float32] = _turn(showers, elements, turning)
    return turned


@kernel()
def _turn(showers: NDArray[np.float32], elements: NDArray[np.int64], turning: NDArray[np.bool_]) -> NDArray[np.float32]:
    rows, layers, angular, radial = showers.shape
    turned = np.empty_like(showers)
    for row in range(rows):
        shift = elements[row] % angular
        mirrored = elements[row] >= angular
        for layer in range(layers):
            for angle in range(angular):
                source = angle
                if turning[layer]:
                    source = (angle - shift) % angular
                    if mirrored:
                        source = (angular - source) % angular
                for ring in range(radial):
                    turned[row, layer, angle, ring] = showers[row, layer, source, ring]
    return turned


def canonical_elements(showers: NDArray[np.float32], grid: Grid) -> NDArray[np.int64]:
    """The element that brings each shower's centre of energy to an angle in [0, π/A] around bin 0's centre.

    Radii count in bins: any fixed weights that grow outwards define an orientation.
    """
    _, angular, radial = grid.shape
    turning = [layer for layer, bins in enumerate(grid.angular_bins) if bins == angular]
    ring = showers[:, turning].sum(axis=1) @ (np.arange(radial) + 0.5)
    angle = 2 * np.pi * np.arange(angular) / angular
    centre = np.arctan2(ring @ np.sin(angle), ring @ np.cos(angle)) / (2 * np.pi) * angular
    nearest = np.rint(centre)
    # A mirrored shower has its centre at -centre, so that it must be rotated by +nearest instead.
    element = np.where(centre < nearest, angular + nearest % angular, (-nearest) % angular)
    result: NDArray[np.int64] = element.astype(np.int64)
    return result
