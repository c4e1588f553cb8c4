"""A fixed code of showers: a few bits for each layer of a calorimeter, which a Boltzmann machine then learns to draw.

A layer's first bits, if the code has such, name the cell of its share of the energy (``share_cells``). Each bit after
them compares one observable x around one layer with what half of the training showers reach::

    b = +1 where x > c0 + c1 ln n + c2 (ln n)^2, else -1;  0 (missing) where nothing is hit

x is that of a window: the layer and ``reach`` layers on either side taken together. Windows overlap, so that the bits
of neighbouring layers agree more often than not, and bits that contradict each other are no shower's.

n is the window's number of hit voxels; c1 = c2 = 0 for observables that are not judged at given n. Incident energy is
left in these bits on purpose: what the machine must know of the energy it learns through its condition. Empty windows
have no radius or angle, so their bits are missing, and a machine is fitted with them hidden instead of being taught
constants.

Observables, with voxel energies E_v at ring r (in ring widths, ring k at k + 1/2) and angle a, sums over the window W::

    share   ln(E_W / E_tot)              radius  ln(sum r E_v / E_W)
    width   sqrt(sum r^2 E_v / E_W - (sum r E_v / E_W)^2)
    cos_1   sum r cos(a) E_v / E_W   sin_1   likewise with sin(a)
    outer   share of E_W beyond the inner third of the rings

Showers are in canonical orientation (``symmetry``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from qshower.model.grid import Grid
from qshower.model.share_cells import ShareCells, weighted_quantiles
from qshower.sampler.errors import DefectError, InvalidInputError

Observable = Literal["share", "radius", "width", "cos_1", "sin_1", "outer"]
OBSERVABLES: tuple[Observable, ...] = ("share", "radius", "width", "cos_1", "sin_1", "outer")
GIVEN_HITS: tuple[Observable, ...] = ("radius", "width")
"""Observables that are judged at a given number of hits by default, so that their bits say something of their own."""

TERMS = 3
LEAST_ENERGY_MEV, LEAST_HITS, LEAST_RADIUS = 1e-3, 0.5, 0.3
LEAST_ROWS = 50
CHUNK_ROWS = 512
MEDIAN = np.array([0.5])

Doubles = NDArray[np.float64]
Number = TypeVar("Number", np.float64, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class ShowerCode:
    """Which observables have a bit, and where each bit turns.

    Attributes:
        observables: of the bits of one layer, in order.
        terms: (L, bits, 3) float64, c0, c1, c2 of the module's law.
        reach: layers on either side that a layer's window holds.
        share: cells of the layers' shares, whose bits come first; None for none.
    """

    observables: tuple[Observable, ...]
    terms: Doubles
    reach: int = 0
    share: ShareCells | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.observables if name not in OBSERVABLES]
        empty = not self.observables and self.share is None
        if unknown or empty or len(set(self.observables)) != len(self.observables):
            raise InvalidInputError("observables", self.observables, f"some of {OBSERVABLES}, each once")
        if self.terms.ndim != 3 or self.terms.shape[1:] != (len(self.observables), TERMS):
            raise InvalidInputError("terms", self.terms.shape, f"(layers, {len(self.observables)}, {TERMS})")
        if self.share is not None and len(self.share.terms) != len(self.terms):
            raise DefectError("share", f"{len(self.share.terms)} layers", f"cells of {len(self.terms)} layers")

    @property
    def layers(self) -> int:
        """Number of calorimeter layers."""
        return int(self.terms.shape[0])

    @property
    def bits_per_layer(self) -> int:
        """Bits of one layer."""
        return self.share_bits + len(self.observables)

    @property
    def share_bits(self) -> int:
        """Bits of a layer that name the cell of its share."""
        return 0 if self.share is None else self.share.bits_per_layer

    @property
    def bit_count(self) -> int:
        """Bits of a shower."""
        return self.layers * self.bits_per_layer

    @classmethod
    def fitted(
        cls,
        observables: Sequence[Observable],
        grid: Grid,
        energies_mev: Doubles,
        showers: NDArray[np.float32],
        weights: Doubles,
        *,
        reach: int = 0,
        given_hits: Sequence[Observable] = GIVEN_HITS,
        share_cells: int = 0,
        share_given_energy: float = 1.0,
    ) -> Self:
        """Terms such that half of the layers' weight is +1, and cells of equal weight.

        Args:
            observables: with a bit in each layer.
            grid: of the showers.
            energies_mev: (rows,) incident energies.
            showers: (rows, L, A, R) in MeV, canonical orientation.
            weights: (rows,).
            reach: layers on either side that a window holds.
            given_hits: which observables are judged at given hits.
            share_cells: cells of a layer's share, a power of 2; 0 for none.
            share_given_energy: as ``ShareCells.fitted`` has it.
        """
        values, hits = observe(tuple(observables), grid, showers, reach)
        layers = grid.shape[0]
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
                if name in given_hits and len(rows) > LEAST_ROWS:
                    terms[layer, bit] = np.linalg.lstsq(powers * root, value * root[:, 0], rcond=None)[0]
                terms[layer, bit, 0] += weighted_quantiles(value - powers @ terms[layer, bit], weight, MEDIAN)[0]
        share = None
        if share_cells:
            shares, own = observe(("share",), grid, showers, 0)
            filled = own > 0
            share = ShareCells.fitted(
                share_cells,
                np.exp(shares[:, :, 0]) * filled,
                filled,
                energies_mev,
                weights,
                given_energy=share_given_energy,
            )
        return cls(tuple(observables), terms, reach, share)

    def bits(self, grid: Grid, energies_mev: Doubles, showers: NDArray[np.float32]) -> NDArray[np.int8]:
        """(rows, L, bits) of -1, +1, or 0 where missing.

        Of incident energies (rows,) and showers (rows, L, A, R), both in MeV, in canonical orientation.
        """
        found = np.zeros((len(showers), self.layers, self.bits_per_layer), dtype=np.int8)
        first = self.share_bits
        for start in range(0, len(showers), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            values, hits = observe(self.observables, grid, showers[part], self.reach)
            border = np.einsum("nlt,lbt->nlb", _powers(hits), self.terms)
            found[part, :, first:] = np.where(values > border, 1, -1) * (hits > 0)[:, :, None]
            if self.share is not None:
                shares, own = observe(("share",), grid, showers[part], 0)
                named = self.share.bits(np.exp(shares[:, :, 0]) * (own > 0), energies_mev[part])
                found[part, :, :first] = named * (own > 0)[:, :, None]
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
        "outer": by_ring[:, :, max(1, radial // 3) :].sum(axis=2) / safe,
    }
    chosen = [columns[name] for name in observables]
    return np.stack(chosen, axis=2) if chosen else np.zeros((*hits.shape, 0)), hits


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
