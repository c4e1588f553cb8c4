"""R-hat of dispersed starts: near 1 for a machine that mixes, far from it for one that keeps its start."""

from __future__ import annotations

import numpy as np

from qshower.evaluation.mixing import mixing
from tests.conftest import MachineMaker, SpinMaker


def test_a_warm_machine_forgets_its_start(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker
) -> None:
    machine = random_machine(rng, free=24, condition=4, coupling=0.2)
    found = mixing(machine, random_spins(rng, (3, 4)), sweeps=64, records=512)
    # 512 nearly independent records: R-hat - 1 is of the order of 1 / 512.
    assert found.energy < 1.02
    assert found.magnetisation < 1.02
    assert found.spin < 1.05
    assert found.most_spins <= found.spin
    assert (found.conditions, found.chains, found.records, found.frozen) == (3, 24, 512, 0)


def test_two_valleys_that_no_chain_leaves_are_seen(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker
) -> None:
    machine = random_machine(rng, free=24, condition=4, coupling=1.0)
    free = (machine.partitions[machine.edges] != 0).all(axis=1)
    bound = machine.with_parameters(0 * machine.h, np.where(free, np.float32(-1.0), np.float32(0)))
    found = mixing(bound, random_spins(rng, (2, 4)), sweeps=16, records=64)
    assert found.magnetisation > 2
    assert found.spin > 2


def test_spins_that_never_turn_are_counted_apart(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker
) -> None:
    machine = random_machine(rng, free=24, condition=4, coupling=0.1)
    h = machine.h.copy()
    h[machine.free_nodes[:6]] = 12
    found = mixing(machine.with_parameters(h, machine.j), random_spins(rng, (1, 4)), sweeps=16, records=128)
    assert found.frozen == 6 / 24
    assert found.spin < 1.2
