"""The Gibbs kernels' law, against enumeration and closed forms.

Every p-value goes to the judge, whose false-alarm rate holds for the whole suite. Most tests here start chains from
exact draws: then any number of sweeps must leave the law as it is, so that nothing depends on how fast chains mix.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.gibbs.chains import draw, refine
from qshower.sampler.gibbs.program import program_of
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import streams_of
from tests.conftest import LawMaker, MachineMaker, SpinMaker
from tests.judge import Judge
from tests.statistical.conftest import Checks


def isolated(fields: NDArray[np.float64]) -> BoltzmannMachine:
    count = fields.shape[0]
    return BoltzmannMachine(
        h=fields.astype(np.float32),
        j=np.zeros(0, np.float32),
        edges=np.zeros((0, 2), np.int32),
        partitions=(1 + np.arange(count) % 3).astype(np.int8),
        qubits=np.arange(count),
        topology="none",
    )


@pytest.mark.parametrize("beta", [0.05, 1.0, 3.0])
def test_one_update_has_the_exact_probability_far_into_the_tail(
    base_seed: int, judge: Judge, checks: Checks, random_spins: SpinMaker, beta: float
) -> None:
    """2·10⁷ updates of spins without neighbours, flip chances from 1/2 down to 10⁻⁷."""
    fields = np.linspace(-8.0, 8.0, 100) / beta
    machine = isolated(fields)
    rows = 200_000
    spins = refine(machine, np.ones((rows, 100), np.int8), 1, streams_of(base_seed, rows), beta=beta)
    scale = program_of(machine, beta=beta).scale
    held = np.rint(machine.h[:].astype(np.float64) * scale) / scale
    chances = 1.0 / (1.0 + np.exp(2.0 * beta * held))
    judge({f"one update, beta {beta}": checks.binomial_tests((spins > 0).sum(axis=0), rows, chances)})


def test_consecutive_updates_and_sweeps_are_independent(base_seed: int, judge: Judge, checks: Checks) -> None:
    """Updates that share one output of the generator, and those that follow each other, agree half the time."""
    machine = isolated(np.zeros(63))
    rows = 40_000
    streams = streams_of(base_seed, rows)
    one = refine(machine, np.ones((rows, 63), np.int8), 1, streams)
    two = refine(machine, np.ones((rows, 63), np.int8), 2, streams)
    order = program_of(machine).graph.order
    along = (one[:, order][:, 1:] == one[:, order][:, :-1]).sum(axis=0)
    across = (one == two).sum(axis=0)
    between = (one[1:] == one[:-1]).sum(axis=0)
    judge(
        {
            "one after another": checks.binomial_tests(along, rows, np.full(62, 0.5)),
            "sweep after sweep": checks.binomial_tests(across, rows, np.full(63, 0.5)),
            "row after row": checks.binomial_tests(between, rows - 1, np.full(63, 0.5)),
        }
    )


CASES = {
    "narrow": {"coupling": 0.5, "field": 0.3},
    "strong": {"coupling": 2.5, "field": 2.0},
    "wide": {"coupling": 40.0, "field": 40.0},
}


@pytest.mark.parametrize("sweeps", [1, 6])
@pytest.mark.parametrize("name", list(CASES))
def test_sweeps_keep_exact_draws_exact(
    base_seed: int,
    judge: Judge,
    checks: Checks,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    enumerate_law: LawMaker,
    name: str,
    sweeps: int,
) -> None:
    rng = np.random.default_rng([base_seed, len(name), sweeps])
    machine = random_machine(rng, free=11, condition=4, **CASES[name])
    assert program_of(machine).wide == (name == "wide")
    levels = np.unique(random_spins(rng, (3, 4)), axis=0)
    laws = {level.tobytes(): enumerate_law(machine, level) for level in levels}
    start = rng.permutation(np.concatenate([law.draw(rng, 30_000) for law in laws.values()]))
    spins = refine(machine, start, sweeps, streams_of(base_seed, start.shape[0]))
    p_values = checks.exact(laws, spins, start[:, machine.condition_nodes])
    judge({f"{name}, {sweeps} sweeps: {key}": p for key, p in p_values.items()})


@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_another_beta_is_the_law_of_scaled_parameters(
    base_seed: int,
    judge: Judge,
    checks: Checks,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    enumerate_law: LawMaker,
    beta: float,
) -> None:
    rng = np.random.default_rng([base_seed, 17])
    machine = random_machine(rng, free=10, condition=3, coupling=0.3)
    level = random_spins(rng, (1, 3))
    law = enumerate_law(machine.with_parameters(beta * machine.h, beta * machine.j), level[0])
    conditions = np.repeat(level, 40_000, axis=0)
    spins = draw(machine, conditions, streams_of(base_seed, 40_000), 1000, beta=beta)
    p_values = checks.exact({level[0].tobytes(): law}, spins, conditions)
    judge({f"beta {beta}: {key}": p for key, p in p_values.items()})


def test_freed_condition_gives_the_joint_law(
    base_seed: int,
    judge: Judge,
    checks: Checks,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    enumerate_law: LawMaker,
) -> None:
    rng = np.random.default_rng([base_seed, 23])
    machine = random_machine(rng, free=8, condition=3, coupling=0.4)
    # All states of the condition, each with its weight: the joint law by the chain rule of the enumerated conditionals.
    levels = ((np.arange(8)[:, None] >> np.arange(3)) & 1).astype(np.int8) * 2 - 1
    laws = [enumerate_law(machine, level.astype(np.int8)) for level in levels]
    least = min(law.energies.min() for law in laws)
    weights = np.array([np.exp(least - law.energies).sum() for law in laws])
    start = random_spins(rng, (60_000, machine.node_count))
    spins = refine(machine, start, 80, streams_of(base_seed, 60_000), free_condition=True)
    level_of = (spins[:, machine.condition_nodes] > 0) @ (1 << np.arange(3))
    counts = np.array(
        [np.bincount(law.index_of(spins[level_of == number]), minlength=256) for number, law in enumerate(laws)]
    )
    joint = np.concatenate([law.probabilities * w for law, w in zip(laws, weights / weights.sum(), strict=True)])
    judge({"freed condition": checks.g_test(counts.ravel(), joint)})


def test_saturated_spins_follow_their_fields(
    base_seed: int, random_machine: MachineMaker, random_spins: SpinMaker, rng: np.random.Generator
) -> None:
    """Biases and couplings of tens to millions of kT: spins that the law decides are decided."""
    for size in (60.0, 1e4, 1e8, 1e30):
        machine = random_machine(rng, free=12, condition=3, coupling=0.2)
        sign = random_spins(rng, (machine.node_count,))
        strong = machine.with_parameters(-size * sign, machine.j)
        start = random_spins(rng, (500, machine.node_count))
        spins = refine(strong, start, 1, streams_of(base_seed, 500))
        assert (spins[:, machine.free_nodes] == sign[machine.free_nodes]).all(), size
        chain = isolated(np.zeros(30)).partitions
        edges = np.stack([np.arange(29), np.arange(1, 30)], axis=1).astype(np.int32)
        glued = BoltzmannMachine(
            np.full(30, 1e-3, np.float32), np.full(29, -size, np.float32), edges, chain, np.arange(30), "none"
        )
        spins = draw(glued, np.zeros((200, 0), np.int8), streams_of(base_seed, 200), 400)
        agree = (spins[:, 1:] == spins[:, :-1]).mean()
        assert agree > 0.9, (size, agree)


def test_conditions_are_never_violated_under_pressure(
    base_seed: int, random_machine: MachineMaker, random_spins: SpinMaker, rng: np.random.Generator
) -> None:
    """Neighbours that pull at held spins with 30 kT do not move them."""
    machine = random_machine(rng, free=12, condition=6, coupling=30.0, field=30.0)
    conditions = random_spins(rng, (3000, 6))
    spins = draw(machine, conditions, streams_of(base_seed, 3000), 20)
    assert np.array_equal(spins[:, machine.condition_nodes], conditions)


def test_a_ramp_reaches_what_a_hold_alone_does_not(
    base_seed: int, lattice_machine: MachineMaker, random_spins: SpinMaker, rng: np.random.Generator
) -> None:
    """A rugged machine: chains held at beta 1 from the start are still far above ramped ones after as many sweeps.

    No false alarm to speak of: the bound is tens of standard errors away.
    """
    machine = lattice_machine(rng, "zephyr", nodes_per_partition=100, coupling=1.5)
    start = random_spins(rng, (512, 400))
    streams = streams_of(base_seed, 512)
    ramped = draw(machine, start[:, machine.condition_nodes], streams, 160)
    held = refine(machine, start, 160, streams)
    gap = machine.energies(held) - machine.energies(ramped)
    assert gap.mean() > 10.0, gap.mean()
