"""A fixed code of showers: a few bits for each layer of a calorimeter, which a Boltzmann machine then learns to draw.

Each bit compares one observable x around one layer with what half of the training showers reach::

    b = +1 where x > c0 + c1 ln n + c2 (ln n)^2, else -1;  0 (missing) where nothing is hit

x is that of a window: the layer and ``reach`` layers on either side taken together. Windows overlap, so that the bits
of neighbouring layers agree more often than not, and bits that contradict each other are no shower's.

n is the window's number of hit voxels; c1 = c2 = 0 for observables that are not judged at given n. Incident energy is
left in the code on purpose: what the machine must know of the energy it learns through its condition. Empty windows
have no radius or angle, so their bits are missing, and a machine is fitted with them hidden instead of being taught
constants.

Observables, with voxel energies E_v at ring r (in ring widths, ring k at k + 1/2) and angle a, sums over the window W::

    share   ln(E_W / E_tot)              radius  ln(sum r E_v / E_W)
    width   sqrt(sum r^2 E_v / E_W - (sum r E_v / E_W)^2)
    cos_1   sum r cos(a) E_v / E_W   sin_1   likewise with sin(a)

Showers are in canonical orientation (``symmetry``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from qshower.model.grid import Grid
from qshower.sampler.errors import InvalidInputError

Observable = Literal["share", "radius", "width", "cos_1", "sin_1"]
OBSERVABLES: tuple[Observable, ...] = ("share", "radius", "width", "cos_1", "sin_1")
GIVEN_HITS: frozenset[Observable] = frozenset({"radius", "width"})
"""Observables that are judged at a given number of hits, so that their bits say something of their own."""

TERMS = 3
LEAST_ENERGY_MEV, LEAST_HITS, LEAST_RADIUS = 1e-3, 0.5, 0.3
LEAST_ROWS = 50
CHUNK_ROWS = 512

Doubles = NDArray[np.float64]
Number = TypeVar("Number", np.float64, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class ShowerCode:
    """Which observables have a bit, and where each bit turns.

    Attributes:
        observables: of the bits of one layer, in order.
        terms: (L, bits, 3) float64, c0, c1, c2 of the module's law.
        reach: layers on either side that a layer's window holds.
    """

    observables: tuple[Observable, ...]
    terms: Doubles
    reach: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.observables if name not in OBSERVABLES]
        if unknown or not self.observables or len(set(self.observables)) != len(self.observables):
            raise InvalidInputError("observables", self.observables, f"some of {OBSERVABLES}, each once")
        if self.terms.ndim != 3 or self.terms.shape[1:] != (len(self.observables), TERMS):
            raise InvalidInputError("terms", self.terms.shape, f"(layers, {len(self.observables)}, {TERMS})")

    @property
    def layers(self) -> int:
        """Number of calorimeter layers."""
        return int(self.terms.shape[0])

    @property
    def bits_per_layer(self) -> int:
        """Bits of one layer."""
        return len(self.observables)

    @property
    def bit_count(self) -> int:
        """Bits of a shower."""
        return self.layers * self.bits_per_layer

    @classmethod
    def fitted(
        cls,
        observables: Sequence[Observable],
        grid: Grid,
        showers: NDArray[np.float32],
        weights: Doubles,
        reach: int = 0,
    ) -> Self:
        """Terms such that half of the layers' weight is +1; showers (rows, L, A, R) in MeV, weights (rows,)."""
        values, hits = observe(tuple(observables), grid, showers, reach)
        layers = values.shape[1]
        terms = np.zeros((layers, len(observables), TERMS))
        for layer in range(layers):
            rows = np.flatnonzero(hits[:, layer] > 0)
            if not rows.size:
                continue
            weight = weights[rows]
            powers = _powers(hits[rows, layer])
            root = np.sqrt(weight / weight.mean())[:, None]
            for bit, name in enumerate(observables):
                value = values[rows, layer, bit]
                if name in GIVEN_HITS and len(rows) > LEAST_ROWS:
                    terms[layer, bit] = np.linalg.lstsq(powers * root, value * root[:, 0], rcond=None)[0]
                terms[layer, bit, 0] += _median(value - powers @ terms[layer, bit], weight)
        return cls(tuple(observables), terms, reach)

    def bits(self, grid: Grid, showers: NDArray[np.float32]) -> NDArray[np.int8]:
        """(rows, L, bits) of -1, +1, or 0 where missing, of showers (rows, L, A, R) in MeV, canonical orientation."""
        found = np.zeros((len(showers), self.layers, self.bits_per_layer), dtype=np.int8)
        for start in range(0, len(showers), CHUNK_ROWS):
            values, hits = observe(self.observables, grid, showers[start : start + CHUNK_ROWS], self.reach)
            border = np.einsum("nlt,lbt->nlb", _powers(hits), self.terms)
            found[start : start + CHUNK_ROWS] = np.where(values > border, 1, -1) * (hits > 0)[:, :, None]
        return found


def observe(
    observables: tuple[Observable, ...], grid: Grid, showers: NDArray[np.float32], reach: int
) -> tuple[Doubles, NDArray[np.int64]]:
    """Observables (rows, L, bits) and numbers of hits (rows, L) of the windows of showers (rows, L, A, R) in MeV."""
    parts = [
        _observe(observables, grid, showers[i : i + CHUNK_ROWS], reach) for i in range(0, len(showers), CHUNK_ROWS)
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _observe(
    observables: tuple[Observable, ...], grid: Grid, showers: NDArray[np.float32], reach: int
) -> tuple[Doubles, NDArray[np.int64]]:
    _, _, radial = grid.shape
    rings = np.arange(radial) + 0.5
    hits = _windowed(np.count_nonzero(showers > 0, axis=(2, 3)).astype(np.int64), reach)
    by_ring = showers.sum(axis=2, dtype=np.float64)
    total = np.maximum(by_ring.sum(axis=(1, 2))[:, None], LEAST_ENERGY_MEV)
    by_ring = _windowed(by_ring, reach)
    layer = by_ring.sum(axis=2)
    safe = np.maximum(layer, 1e-9)
    radius = by_ring @ rings / safe
    by_angle = showers.astype(np.float64) @ rings
    angles = 2 * np.pi * np.arange(grid.shape[1])[None, :] / np.array(grid.angular_bins)[:, None]
    columns: dict[Observable, Doubles] = {
        "share": np.log(np.maximum(layer, LEAST_ENERGY_MEV) / total),
        "radius": np.log(np.maximum(radius, LEAST_RADIUS)),
        "width": np.sqrt(np.maximum(by_ring @ (rings * rings) / safe - radius**2, 0.0)),
        "cos_1": _windowed((by_angle * np.cos(angles)).sum(axis=2), reach) / safe,
        "sin_1": _windowed((by_angle * np.sin(angles)).sum(axis=2), reach) / safe,
    }
    return np.stack([columns[name] for name in observables], axis=2), hits


def _windowed(values: NDArray[Number], reach: int) -> NDArray[Number]:
    """Sums over each layer (axis 1) and ``reach`` layers on either side."""
    summed = values.copy()
    for back in range(1, reach + 1):
        summed[:, back:] += values[:, :-back]
        summed[:, :-back] += values[:, back:]
    return summed


def _powers(hits: NDArray[np.int64]) -> Doubles:
    logs = np.log(np.maximum(hits, LEAST_HITS))
    return np.stack([np.ones_like(logs), logs, logs * logs], axis=-1)


def _median(values: Doubles, weights: Doubles) -> float:
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(below, 0.5 * below[-1])]])
