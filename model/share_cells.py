"""Cells of a layer's share of the energy: equal parts of its law at given incident energy, named by a few bits.

The share is that of the energy which the layers before have left::

    x = ln( share_l / (1 - sum of share_k over k < l, plus 0.001) ),   share_l = E_l / E_tot

so that layers drawn one after another from any cells have the right sum, and what neighbouring layers have in common
is of one sign: a late shower leaves small shares of what is left to all layers up to its maximum. With
t = ln(E_inc / 10^4.5 MeV) the borders of a layer's cells are polynomials of t::

    c_k(t) = sum_p c_kp t^p,  p = 0..3,  t held within the layer's ``span``

Each border has a bit, +1 where x is above it, and the number of bits that are +1 names the cell. Any law of two layers'
cells is then one of pair couplings between their bits, where cells in binary would need couplings of four bits; and
bits that are not in order, which showers never have, name a cell as well. A decoder that draws x from within the cell
(``model.depth_decoder``) cannot mend what contradicts itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import LEAST_REMAINING, REFERENCE_MEV, SHARE_POWERS
from qshower.sampler.errors import InvalidInputError

WINDOWS = 20
"""Of incident energy, in which the borders are measured; each reaches as far again into its neighbours."""
LEAST_ROWS = 50
LEAST_SHARE = 1e-9

# numba, which takes half a second to load, is imported by what computes borders; a configuration does without.

Doubles = NDArray[np.float64]
Spins = NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class ShareCells:
    """Borders of the cells of each layer.

    Attributes:
        terms: (L, cells - 1, 4) coefficients of the borders.
        span: (L, 2) lowest and highest t.
    """

    terms: Doubles
    span: Doubles

    def __post_init__(self) -> None:
        if self.terms.ndim != len(("layer", "border", "power")) or self.terms.shape[2] != SHARE_POWERS:
            raise InvalidInputError("terms", self.terms.shape, f"(layers, cells - 1, {SHARE_POWERS})")
        if self.span.shape != (len(self.terms), 2):
            raise InvalidInputError("span", self.span.shape, f"({len(self.terms)}, 2)")

    @property
    def bits_per_layer(self) -> int:
        """Bits that name a cell: one for each border."""
        return int(self.terms.shape[1])

    @classmethod
    def fitted(
        cls,
        cells: int,
        shares: Doubles,
        filled: NDArray[np.bool_],
        energies_mev: Doubles,
        weights: Doubles,
        *,
        given_energy: float = 1.0,
    ) -> Self:
        """Borders between ``cells`` equal parts of each layer's law, of the layers that are ``filled``.

        Of ``shares`` (rows, L) of the total energy, at incident energies (rows,), with ``weights`` (rows,).

        ``given_energy`` g: the borders used at E_inc are those measured at 10^4.5 MeV (E_inc / 10^4.5 MeV)^g. With 1
        the cells say nothing of the incident energy, with less they say a little.
        """
        layers, values = shares.shape[1], log_of_rest(shares)
        t = np.log(energies_mev / REFERENCE_MEV)
        terms = np.zeros((layers, cells - 1, SHARE_POWERS))
        span = np.zeros((layers, 2))
        middles = np.linspace(t.min(), t.max(), WINDOWS)
        reach = max(middles[1] - middles[0], 1e-6)
        levels = np.arange(1, cells) / cells
        for layer in range(layers):
            rows = np.flatnonzero(filled[:, layer])
            if not rows.size:
                continue
            places, borders, counts = [], [], []
            for middle in middles:
                near = rows[np.abs(t[rows] - middle) <= reach]
                if len(near) >= LEAST_ROWS:
                    places.append(np.average(t[near], weights=weights[near]))
                    borders.append(weighted_quantiles(values[near, layer], weights[near], levels))
                    counts.append(len(near))
            if not places:
                terms[layer, :, 0] = weighted_quantiles(values[rows, layer], weights[rows], levels)
                continue
            degree = min(SHARE_POWERS, 1 + len(places) // 3)
            root = np.sqrt(counts)[:, None]
            powers = np.array(places)[:, None] ** np.arange(degree)
            terms[layer, :, :degree] = np.linalg.lstsq(powers * root, np.array(borders) * root, rcond=None)[0].T
            span[layer] = min(places), max(places)
        terms *= given_energy ** np.arange(SHARE_POWERS)
        # As they are stored, so that a bundle that is read gives the same bits.
        return cls(
            terms.astype(np.float32).astype(np.float64), (span / given_energy).astype(np.float32).astype(np.float64)
        )

    def borders(self, energies_mev: Doubles) -> Doubles:
        """(rows, L, cells - 1) rising borders at incident energies (rows,)."""
        from qshower.model.drawing.share_kernels import cell_borders

        found: Doubles = cell_borders(np.asarray(energies_mev, dtype=np.float64), self.terms, self.span)
        return found

    def bits(self, shares: Doubles, energies_mev: Doubles) -> Spins:
        """(rows, L, bits_per_layer) of -1 and +1 of shares (rows, L), whether the layers are filled or not."""
        above = log_of_rest(shares)[:, :, None] > self.borders(energies_mev)
        return np.where(above, 1, -1).astype(np.int8)

    def limits(self, bits: Spins, energies_mev: Doubles) -> tuple[Doubles, Doubles]:
        """Lowest and highest x, (rows, L) each, of the cells that ``bits`` (rows, L, bits_per_layer) name."""
        from qshower.model.drawing.share_kernels import cell_limits

        low, high = cell_limits(bits, np.asarray(energies_mev, dtype=np.float64), self.terms, self.span)
        return low, high


def log_of_rest(shares: Doubles) -> Doubles:
    """The module's x of shares (rows, L) of the total energy."""
    rest = np.maximum(1 - (shares.cumsum(axis=1) - shares), 0.0)
    found: Doubles = np.log(np.maximum(shares, LEAST_SHARE)) - np.log(rest + LEAST_REMAINING)
    return found


def weighted_quantiles(values: Doubles, weights: Doubles, levels: Doubles) -> Doubles:
    """The values that the shares ``levels`` of the weight lie below."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    found: Doubles = values[order[np.searchsorted(below, levels * below[-1])]]
    return found
