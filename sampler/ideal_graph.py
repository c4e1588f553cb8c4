"""The ideal graphs as plane geometry: every qubit is a segment, and the symmetries that map the graph to itself.

A qubit of either family is a segment: an orientation u, a line (its perpendicular coordinate, in groups whose members
are interchangeable) and a start along that line. Zephyr: the four k of one (u, w); Pegasus: the two k of one pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

_PEGASUS_START: Final = np.array(
    [[2, 2, 2, 2, 10, 10, 10, 10, 6, 6, 6, 6], [6, 6, 6, 6, 2, 2, 2, 2, 10, 10, 10, 10]], dtype=np.int64
)
"""Where along its line a Pegasus qubit (u, k) starts, modulo 12."""


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """Qubits as segments: orientation, group of interchangeable lines, member of the group, start; (n,) int64 each."""

    u: NDArray[np.int64]
    group: NDArray[np.int64]
    member: NDArray[np.int64]
    start: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between the two families: members of a group, lines a group spans, places a qubit reaches on."""

    members: int
    group_width: int
    length: int


FAMILIES: Final = {
    "zephyr": Family(members=4, group_width=1, length=1),
    "pegasus": Family(members=2, group_width=2, length=11),
}


@dataclass(frozen=True, slots=True)
class Symmetry:
    """A map of the plane that a family's ideal graph allows: mirror x, mirror y, then exchange x and y."""

    mirror_x: bool = False
    mirror_y: bool = False
    exchange: bool = False

    def apply(self, segments: Segments, kind: Family) -> Segments:
        """The image of each segment, up to a translation."""
        vertical = segments.u == 0
        flip_across = np.where(vertical, self.mirror_x, self.mirror_y)
        flip_along = np.where(vertical, self.mirror_y, self.mirror_x)
        group = np.where(flip_across, -segments.group, segments.group)
        start = np.where(flip_along, -segments.start - kind.length, segments.start)
        if kind.group_width == 2:
            # A mirrored pair (2g, 2g + 1) is (−2g − 1, −2g): relabelled −2g' − 2 so that pairs start at even places.
            group = np.where(flip_across, -segments.group - 1, segments.group)
            start = np.where(flip_along, -segments.start - kind.length - 1, segments.start)
        u = 1 - segments.u if self.exchange else segments.u
        return Segments(u, group, segments.member, start)


def symmetries(family: str) -> tuple[Symmetry, ...]:
    """The maps a family allows beside translations: all eight of the square, or the identity and one mirror."""
    if family == "pegasus":
        return (Symmetry(), Symmetry(mirror_x=True, mirror_y=True, exchange=True))
    flags = (False, True)
    return tuple(Symmetry(x, y, swap) for swap in flags for x in flags for y in flags)


@cache
def label_count(family: str, size: int) -> int:
    """Number of linear labels of the ideal graph."""
    return 16 * size * (2 * size + 1) if family == "zephyr" else 24 * size * (size - 1)


def segments_of(family: str, size: int, labels: NDArray[np.int64]) -> Segments:
    """Segments of linear labels: Zephyr (u, w, k, j, z) → start 2z + j; Pegasus (u, w, k, z) → start 12z + offset."""
    if family == "zephyr":
        rest, z = np.divmod(labels, size)
        rest, j = np.divmod(rest, 2)
        rest, k = np.divmod(rest, 4)
        u, w = np.divmod(rest, 2 * size + 1)
        return Segments(u, w, k, 2 * z + j)
    rest, z = np.divmod(labels, size - 1)
    rest, k = np.divmod(rest, 12)
    u, w = np.divmod(rest, size)
    return Segments(u, 6 * w + k // 2, k % 2, 12 * z + _PEGASUS_START[u, k])


def labels_of(
    family: str,
    size: int,
    u: NDArray[np.int64],
    group: NDArray[np.int64],
    member: NDArray[np.int64],
    start: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Linear labels of segments, −1 where the chip has no such qubit."""
    if family == "zephyr":
        inside = (group >= 0) & (group <= 2 * size) & (start >= 0) & (start < 2 * size)
        label = ((((u * (2 * size + 1) + group) * 4 + member) * 2 + start % 2) * size) + start // 2
    else:
        w, half = np.divmod(group, 6)
        k = 2 * half + member
        z, rest = np.divmod(start - _PEGASUS_START[u, k], 12)
        inside = (w >= 0) & (w < size) & (z >= 0) & (z < size - 1) & (rest == 0)
        label = ((u * size + w) * 12 + k) * (size - 1) + z
    return np.where(inside, label, -1)


def translations(family: str, size: int, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 2) shifts (x, y) that are symmetries of the infinite lattice and keep the box ``low``..``high`` on the chip.

    Zephyr moves by any whole step; Pegasus by (4, 8) and its multiples modulo 12.
    """
    edge = 2 * size if family == "zephyr" else 12 * size - 1
    ranges = [np.arange(-low[axis], edge - high[axis] + 1) for axis in (0, 1)]
    grid = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 2)
    if family == "pegasus":
        grid = grid[(grid[:, 0] % 4 == 0) & ((2 * grid[:, 0] - grid[:, 1]) % 12 == 0)]
    return grid


def extent(image: Segments, kind: Family) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lowest and highest (x, y) that the segments cover."""
    vertical = image.u == 0
    across = image.group * kind.group_width
    lows = np.where(vertical, across, image.start), np.where(vertical, image.start, across)
    width, length = kind.group_width - 1, kind.length
    highs = lows[0] + np.where(vertical, width, length), lows[1] + np.where(vertical, length, width)
    return np.array([low.min() for low in lows]), np.array([high.max() for high in highs])
