"""Compiled borders of the cells of a layer's energy share: see ``model.share_cells``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qshower.model.decoder_shape import REFERENCE_MEV
from qshower.model.drawing.fast_math import log_64
from qshower.sampler.jit.kernel import kernel

Doubles = NDArray[np.float64]


@kernel(error_model="numpy")
def cell_borders(energies_mev: Doubles, terms: Doubles, span: Doubles) -> Doubles:
    """(rows, L, cells − 1) rising borders at incident energies (rows,); ``terms`` and ``span`` of a ``ShareCells``."""
    rows, (layers, borders, powers) = energies_mev.shape[0], terms.shape
    found = np.empty((rows, layers, borders))
    for row in range(rows):
        t = log_64(energies_mev[row] / REFERENCE_MEV)
        for layer in range(layers):
            held = min(max(t, span[layer, 0]), span[layer, 1])
            for border in range(borders):
                value = terms[layer, border, powers - 1]
                for power in range(powers - 2, -1, -1):
                    value = value * held + terms[layer, border, power]
                found[row, layer, border] = max(value, found[row, layer, border - 1]) if border else value
    return found


@kernel(error_model="numpy")
def cell_limits(
    bits: NDArray[np.int8], energies_mev: Doubles, terms: Doubles, span: Doubles
) -> tuple[Doubles, Doubles]:
    """Lowest and highest x, (rows, L) each, of the cells that the first of ``bits`` (rows, L, ≥ bits) name."""
    borders = cell_borders(energies_mev, terms, span)
    rows, layers, last = borders.shape
    low, high = np.empty((rows, layers)), np.empty((rows, layers))
    for row in range(rows):
        for layer in range(layers):
            cell = 0
            for border in range(last):
                cell += 1 if bits[row, layer, border] > 0 else 0
            low[row, layer] = borders[row, layer, cell - 1] if cell > 0 else -np.inf
            high[row, layer] = borders[row, layer, cell] if cell < last else np.inf
    return low, high
