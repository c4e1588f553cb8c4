"""Nats of the couplings between free spins: annealed importance sampling against enumeration.

Draws are exact. Limits are five standard errors of a seeded run: a false alarm needs a change of the code.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.evaluation.free_couplings import coupling_nats
from qshower.evaluation.priors import uncoupled
from qshower.sampler.machine import BoltzmannMachine
from tests.conftest import LawMaker, MachineMaker, SpinMaker

DRAWS = 2000


def exact(
    machine: BoltzmannMachine, enumerate_law: LawMaker, conditions: NDArray[np.int8], seed: int
) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.float64]]:
    """Draws (levels, draws, nodes), total correlations and ln Z of each condition."""
    rng = np.random.default_rng(seed)
    draws, nats, log_z = [], [], []
    for condition in conditions:
        law = enumerate_law(machine, condition)
        draws.append(law.spins[rng.choice(len(law.spins), DRAWS, p=law.probabilities)])
        up = np.clip(law.mean((law.spins[:, law.free] > 0).astype(float)), 1e-12, 1 - 1e-12)
        bits = -(up * np.log(up) + (1 - up) * np.log1p(-up)).sum()
        positive = law.probabilities > 0
        entropy = -(law.probabilities[positive] * np.log(law.probabilities[positive])).sum()
        nats.append(bits - entropy)
        log_z.append(float(np.logaddexp.reduce(-law.energies)))
    return np.stack(draws), np.array(nats), np.array(log_z)


@pytest.mark.parametrize("coupling", [0.1, 0.5, 1.5])
def test_a_cut_out_agrees_with_enumeration(
    rng: np.random.Generator,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    enumerate_law: LawMaker,
    coupling: float,
) -> None:
    machine = random_machine(rng, free=12, condition=4, coupling=coupling)
    draws, nats, log_z = exact(machine, enumerate_law, random_spins(rng, (3, 4)), 1)
    found = coupling_nats(machine, draws, chains=500, seed=2)
    assert (np.abs(found.log_z - log_z) < 5 * found.log_z_error + abs(found.gap)).all()
    assert (np.abs(found.nats - nats) < 5 * found.nats_error + abs(found.gap)).all()
    assert abs(found.gap) < 0.2
    assert (found.nats_error < 0.2).all()


def test_a_machine_without_such_couplings_has_none(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker, enumerate_law: LawMaker
) -> None:
    machine = uncoupled(random_machine(rng, free=12, condition=4, coupling=1.0))
    draws, nats, log_z = exact(machine, enumerate_law, random_spins(rng, (2, 4)), 3)
    np.testing.assert_allclose(nats, 0, atol=1e-9)
    found = coupling_nats(machine, draws, steps=4, chains=500, seed=4)
    # With nothing to anneal the works are those of the shift alone, which is small.
    np.testing.assert_allclose(found.log_z, log_z, atol=0.05)
    assert (np.abs(found.nats) < 5 * found.nats_error + 0.01).all()
