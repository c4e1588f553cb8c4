"""Slices of incident energy."""

from __future__ import annotations

import numpy as np
import pytest

from qshower.evaluation.energy_slices import energy_slices, energy_text
from qshower.model.geometry import named_geometry


def test_slices_of_a_narrow_reference() -> None:
    geometry = named_geometry("2")
    thirds = energy_slices(geometry, np.geomspace(2e3, 8e3, 300))
    assert len(thirds) == 3
    assert sum(int(part.contains(np.geomspace(2e3, 8e3, 300)).sum()) for part in thirds) == 300
    single = energy_slices(geometry, np.full(50, 65536.0))
    assert [int(part.contains(np.full(50, 65536.0)).sum()) for part in single] == [50]
    grid = energy_slices(named_geometry("1-photons"), np.repeat(2.0 ** np.arange(8, 23), 30))
    assert [part.label for part in grid[::7]] == ["256 MeV", "32.8 GeV", "4.19 TeV"]
    assert len(grid) == 15


@pytest.mark.parametrize(("energy", "text"), [(256, "256 MeV"), (1e3, "1 GeV"), (65536, "65.5 GeV"), (1e6, "1 TeV")])
def test_energies_for_people(energy: float, text: str) -> None:
    assert energy_text(energy) == text
