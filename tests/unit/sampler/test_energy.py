"""Energies of many rows against the definition, edge by edge."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import MachineMaker, SpinMaker


@pytest.mark.parametrize("rows", [0, 1, 8, 9, 64, 65, 150])
def test_energies_are_those_of_the_definition(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker, rows: int
) -> None:
    machine = random_machine(rng, coupling=2.0)
    spins = random_spins(rng, (rows, machine.node_count))
    expected = spins @ machine.h.astype(np.float64)
    for (one, other), weight in zip(machine.edges, machine.j.astype(np.float64), strict=True):
        expected = expected + weight * spins[:, one] * spins[:, other]
    found = machine.energies(spins)
    assert found.shape == (rows,)
    assert found.dtype == np.float64
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-9)


def test_a_rows_energy_does_not_depend_on_the_others_or_on_the_layout(
    rng: np.random.Generator, lattice_machine: MachineMaker, random_spins: SpinMaker
) -> None:
    machine = lattice_machine(rng, "pegasus", nodes_per_partition=20)
    spins = random_spins(rng, (50, machine.node_count))
    whole = machine.energies(spins)
    assert np.array_equal(machine.energies(spins[7:8]), whole[7:8])
    assert np.array_equal(machine.energies(np.asfortranarray(spins)), whole)
    assert np.array_equal(machine.energies(spins[::3]), whole[::3])
