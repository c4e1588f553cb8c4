"""The ideal hardware graphs, Zephyr and Pegasus, as one object each: qubits, colours, plane geometry and symmetries.

A qubit is a segment: an orientation u, a line (its perpendicular coordinate, in groups whose members are
interchangeable) and a start along that line. A new topology is one more class here.

Sources: Boothby, King and Raymond, Zephyr Topology of D-Wave Quantum Processors (2021); Boothby, Bunyk, Raymond and
Roy, Next-Generation Topology of D-Wave Quantum Processors (2019), for Pegasus.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final

import networkx as nx
import numpy as np
from dwave.graphs import (
    pegasus_coordinates,
    pegasus_four_color,
    pegasus_graph,
    pegasus_sublattice_mappings,
    zephyr_coordinates,
    zephyr_four_color,
    zephyr_graph,
    zephyr_sublattice_mappings,
)
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError

_LARGEST_SIZE: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """Qubits as segments: orientation, group of interchangeable lines, member of the group, start; (n,) int64 each."""

    u: NDArray[np.int64]
    group: NDArray[np.int64]
    member: NDArray[np.int64]
    start: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Symmetry:
    """A map of the plane: mirror x, mirror y, then exchange x and y."""

    mirror_x: bool = False
    mirror_y: bool = False
    exchange: bool = False


@dataclass(frozen=True, slots=True)
class Topology(ABC):
    """The ideal graph of one size. Qubits are named by linear label, as Ocean does.

    Attributes:
        size: grid size.
        family: name of the kind of graph.
        chip_size: grid size of today's full-size chip, the one a model's qubit labels refer to.
        smallest_size: smallest grid size that has qubits.
        members: lines in a group of interchangeable ones.
        group_width: places that a group of lines spans.
        length: places that a qubit reaches beyond its start.
        symmetries: the maps that the graph allows beside translations.
    """

    size: int
    family: ClassVar[str]
    chip_size: ClassVar[int]
    smallest_size: ClassVar[int] = 1
    members: ClassVar[int]
    group_width: ClassVar[int]
    length: ClassVar[int]
    symmetries: ClassVar[tuple[Symmetry, ...]]

    def __str__(self) -> str:
        return f"{self.family}:{self.size}"

    @property
    @abstractmethod
    def label_count(self) -> int:
        """Number of linear labels, whether a qubit bears them or not."""

    @property
    @abstractmethod
    def _edge(self) -> int:
        """Highest place on either axis."""

    @abstractmethod
    def colour_of(self, qubit: int) -> int:
        """Colour class 0..3 of a qubit; no coupler joins two qubits of one class."""

    @abstractmethod
    def segments(self, labels: NDArray[np.int64]) -> Segments:
        """Segments of linear labels."""

    @abstractmethod
    def labels(self, segments: Segments) -> NDArray[np.int64]:
        """Linear labels of segments, −1 where the chip has no such qubit."""

    @abstractmethod
    def _allowed(self, shifts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the shifts (n, 2) that map the infinite lattice to itself."""

    @abstractmethod
    def build(self) -> nx.Graph:
        """The graph, nodes by linear label."""

    @abstractmethod
    def _blocks(self, block: nx.Graph) -> Any:
        """Maps of the labels of a smaller graph of the family into this one, iterable."""

    def graph(self) -> nx.Graph:
        """The graph, nodes by linear label. Frozen: all callers get the same."""
        return _graph_of(self)

    def block(self, size: int) -> list[int]:
        """Labels, ascending, of the block of grid size ``size`` at the chip's first corner."""
        place = next(iter(self._blocks(type(self)(size).graph())))
        return sorted(place(qubit) for qubit in type(self)(size).graph())

    def image(self, symmetry: Symmetry, segments: Segments) -> Segments:
        """The image of each segment under ``symmetry``, up to a translation."""
        vertical = segments.u == 0
        flip_across = np.where(vertical, symmetry.mirror_x, symmetry.mirror_y)
        flip_along = np.where(vertical, symmetry.mirror_y, symmetry.mirror_x)
        # A mirrored pair of lines (2g, 2g + 1) is (−2g − 1, −2g): relabelled so that pairs start at even places.
        relabelled = self.group_width - 1
        group = np.where(flip_across, -segments.group - relabelled, segments.group)
        start = np.where(flip_along, -segments.start - self.length - relabelled, segments.start)
        u = 1 - segments.u if symmetry.exchange else segments.u
        return Segments(u, group, segments.member, start)

    def translations(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, 2) shifts (x, y), symmetries of the infinite lattice, that keep the box ``low``..``high`` on the chip."""
        ranges = [np.arange(-low[axis], self._edge - high[axis] + 1) for axis in (0, 1)]
        return self._allowed(np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 2))

    def extent(self, segments: Segments) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Lowest and highest (x, y) that the segments cover."""
        vertical = segments.u == 0
        across = segments.group * self.group_width
        lows = np.where(vertical, across, segments.start), np.where(vertical, segments.start, across)
        width, length = self.group_width - 1, self.length
        highs = lows[0] + np.where(vertical, width, length), lows[1] + np.where(vertical, length, width)
        return np.array([low.min() for low in lows]), np.array([high.max() for high in highs])


@dataclass(frozen=True, slots=True)
class Zephyr(Topology):
    """Labels count (u, w, k, j, z); a qubit starts at place 2z + j of line w. All symmetries of the square."""

    family: ClassVar[str] = "zephyr"
    chip_size: ClassVar[int] = 12
    members: ClassVar[int] = 4
    group_width: ClassVar[int] = 1
    length: ClassVar[int] = 1
    symmetries: ClassVar[tuple[Symmetry, ...]] = tuple(
        Symmetry(x, y, swap) for swap in (False, True) for x in (False, True) for y in (False, True)
    )

    @property
    def label_count(self) -> int:
        """Number of linear labels, all of which are qubits."""
        return 16 * self.size * (2 * self.size + 1)

    @property
    def _edge(self) -> int:
        return 2 * self.size

    def colour_of(self, qubit: int) -> int:
        """Colour class 0..3 of a qubit; no coupler joins two qubits of one class."""
        return int(zephyr_four_color(zephyr_coordinates(self.size).linear_to_zephyr(qubit), scheme=1))

    def segments(self, labels: NDArray[np.int64]) -> Segments:
        """Segments of linear labels."""
        rest, z = np.divmod(labels, self.size)
        rest, j = np.divmod(rest, 2)
        rest, k = np.divmod(rest, 4)
        u, w = np.divmod(rest, 2 * self.size + 1)
        return Segments(u, w, k, 2 * z + j)

    def labels(self, segments: Segments) -> NDArray[np.int64]:
        """Linear labels of segments, −1 where the chip has no such qubit."""
        group, start, size = segments.group, segments.start, self.size
        inside = (group >= 0) & (group <= 2 * size) & (start >= 0) & (start < 2 * size)
        line = (segments.u * (2 * size + 1) + group) * 4 + segments.member
        return np.where(inside, (line * 2 + start % 2) * size + start // 2, -1)

    def _allowed(self, shifts: NDArray[np.int64]) -> NDArray[np.int64]:
        return shifts

    def build(self) -> nx.Graph:
        """Zephyr's graph, as dwave-graphs makes it."""
        return zephyr_graph(self.size)

    def _blocks(self, block: nx.Graph) -> Any:
        return zephyr_sublattice_mappings(block, self.graph())


@dataclass(frozen=True, slots=True)
class Pegasus(Topology):
    """Labels count (u, w, k, z); a qubit starts at place 12z + offset(u, k). One mirror, about the antidiagonal."""

    family: ClassVar[str] = "pegasus"
    chip_size: ClassVar[int] = 16
    smallest_size: ClassVar[int] = 2
    members: ClassVar[int] = 2
    group_width: ClassVar[int] = 2
    length: ClassVar[int] = 11
    symmetries: ClassVar[tuple[Symmetry, ...]] = (Symmetry(), Symmetry(mirror_x=True, mirror_y=True, exchange=True))
    _start: ClassVar[NDArray[np.int64]] = np.array(
        [[2, 2, 2, 2, 10, 10, 10, 10, 6, 6, 6, 6], [6, 6, 6, 6, 2, 2, 2, 2, 10, 10, 10, 10]], dtype=np.int64
    )

    @property
    def label_count(self) -> int:
        """Number of linear labels; those outside the fabric are of no qubit."""
        return 24 * self.size * (self.size - 1)

    @property
    def _edge(self) -> int:
        return 12 * self.size - 1

    def colour_of(self, qubit: int) -> int:
        """Colour class 0..3 of a qubit; no coupler joins two qubits of one class."""
        return int(pegasus_four_color(pegasus_coordinates(self.size).linear_to_pegasus(qubit)))

    def segments(self, labels: NDArray[np.int64]) -> Segments:
        """Segments of linear labels."""
        rest, z = np.divmod(labels, self.size - 1)
        rest, k = np.divmod(rest, 12)
        u, w = np.divmod(rest, self.size)
        return Segments(u, 6 * w + k // 2, k % 2, 12 * z + self._start[u, k])

    def labels(self, segments: Segments) -> NDArray[np.int64]:
        """Linear labels of segments, −1 where the chip has no such qubit."""
        w, half = np.divmod(segments.group, 6)
        k = 2 * half + segments.member
        z, rest = np.divmod(segments.start - self._start[segments.u, k], 12)
        inside = (w >= 0) & (w < self.size) & (z >= 0) & (z < self.size - 1) & (rest == 0)
        return np.where(inside, ((segments.u * self.size + w) * 12 + k) * (self.size - 1) + z, -1)

    def _allowed(self, shifts: NDArray[np.int64]) -> NDArray[np.int64]:
        # The lattice repeats after (4, 8) and its multiples modulo 12.
        x, y = shifts.T
        mapped: NDArray[np.int64] = shifts[(x % 4 == 0) & ((2 * x - y) % 12 == 0)]
        return mapped

    def build(self) -> nx.Graph:
        """Pegasus's graph, as dwave-graphs makes it, of qubits that are on real chips."""
        return pegasus_graph(self.size, fabric_only=True)

    def _blocks(self, block: nx.Graph) -> Any:
        return pegasus_sublattice_mappings(block, self.graph())


TOPOLOGIES: Final[dict[str, type[Topology]]] = {kind.family: kind for kind in (Zephyr, Pegasus)}
"""The kinds of graph, by family."""


def topology_of(name: str) -> Topology:
    """The topology called ``name``; InvalidInputError for anything that is no hardware graph.

    >>> topology_of("zephyr:12").label_count
    4800
    >>> topology_of("pegasus:16").symmetries[1].exchange
    True
    """
    family, _, size = name.partition(":")
    kind = TOPOLOGIES.get(family)
    if kind is None or not size.isdecimal() or not 1 <= int(size) <= _LARGEST_SIZE:
        raise InvalidInputError("topology", name, "zephyr:M or pegasus:M with M from 1 to 32, such as zephyr:12")
    if int(size) < kind.smallest_size:
        allowed = f"{family}:M with M from {kind.smallest_size} to {_LARGEST_SIZE}"
        raise InvalidInputError("topology", name, allowed)
    return kind(int(size))


def ideal_graph(name: str) -> nx.Graph:
    """The graph of the topology called ``name``, nodes by linear label."""
    return topology_of(name).graph()


@cache
def _graph_of(topology: Topology) -> nx.Graph:
    return nx.freeze(topology.build())
