"""Slices of incident energy: figures are shown for each of them as well as for all showers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.model.geometry import Geometry

Array = NDArray[np.float64]

LEAST_ROWS = 20
EDGE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class EnergySlice:
    """Incident energies from ``low_mev`` up to, and without, ``high_mev``."""

    low_mev: float
    high_mev: float
    label: str

    def contains(self, energies_mev: Array) -> NDArray[np.bool_]:
        """(N,) which energies lie in the slice."""
        return (energies_mev >= self.low_mev) & (energies_mev < self.high_mev)


def energy_slices(geometry: Geometry, energies_mev: Array) -> tuple[EnergySlice, ...]:
    """The slices in which a reference with these incident energies has enough showers.

    Dataset 1: one slice per power of two, since its energies are 2^8 … 2^22 MeV. Others: one per decade; if all
    energies lie in one decade, three of equal width in its logarithm.
    """
    low, high = float(energies_mev.min()), float(energies_mev.max())
    if geometry.name.startswith("1-"):
        first, last = int(np.floor(np.log2(low) + EDGE_TOLERANCE)), int(np.floor(np.log2(high) + EDGE_TOLERANCE))
        edges = [2.0**power for power in range(first, last + 2)]
    else:
        first, last = int(np.floor(np.log10(low) + EDGE_TOLERANCE)), int(np.ceil(np.log10(high) - EDGE_TOLERANCE))
        edges = [10.0**power for power in range(first, last + 1)]
        if last - first <= 1:
            edges = np.geomspace(low, high, 4).tolist() if high > low else [low, high]
    # Energies stored in single precision may lie a rounding above the last edge.
    edges[0], edges[-1] = edges[0] * (1 - EDGE_TOLERANCE), edges[-1] * (1 + EDGE_TOLERANCE)
    slices = (
        EnergySlice(start, stop, _label(start, stop, single=geometry.name.startswith("1-")))
        for start, stop in itertools.pairwise(edges)
    )
    return tuple(part for part in slices if int(part.contains(energies_mev).sum()) >= LEAST_ROWS)


def _label(low: float, high: float, *, single: bool) -> str:
    return energy_text(low) if single else f"{energy_text(low)} to {energy_text(high)}"


def energy_text(energy_mev: float) -> str:
    """An energy in the unit a reader would choose: 256 MeV, 65.5 GeV, 1 TeV."""
    for scale, unit in ((1e6, "TeV"), (1e3, "GeV")):
        if energy_mev >= scale * (1 - 1e-3):
            return f"{energy_mev / scale:.3g} {unit}"
    return f"{energy_mev:.3g} MeV"
