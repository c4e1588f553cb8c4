"""Faults planted on purpose: the checks that pass correct samplers must fail each of these.

The faulty samplers wrap the real Gibbs sampler and hand back answers that are formally right (shapes, condition,
energies): only their distribution is wrong. The size of each sample is that of the suite's own tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.provenance import Provenance
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions
from tests.conftest import ExactLaw, LawMaker, MachineMaker, RequestMaker, SpinMaker
from tests.judge import Judge
from tests.statistical.conftest import Checks

Laws = tuple[LatentRequest, dict[bytes, ExactLaw]]

ROWS_PER_CONDITION = 8000


def answered(request: LatentRequest, spins: NDArray[np.int8]) -> NDArray[np.int8]:
    """Spins of a wrong draw as a formally right answer to ``request``."""
    spins = spins.copy()
    spins[:, request.machine.condition_nodes] = request.conditions
    return spins


def draw(
    request: LatentRequest,
    *,
    machine: BoltzmannMachine | None = None,
    conditions: NDArray[np.int8] | None = None,
    **changes: Any,
) -> NDArray[np.int8]:
    changed = LatentRequest(
        machine or request.machine,
        request.conditions if conditions is None else conditions,
        request.streams,
        dataclasses.replace(request.options, **changes),
    )
    with GibbsSampler() as sampler:
        return answered(request, sampler.sample(changed).spins)


def colder(request: LatentRequest) -> NDArray[np.int8]:
    machine = request.machine
    return draw(request, machine=machine.with_parameters(machine.h * 1.03, machine.j * 1.03))


def warmer(request: LatentRequest) -> NDArray[np.int8]:
    machine = request.machine
    return draw(request, machine=machine.with_parameters(machine.h * 0.97, machine.j * 0.97))


def optimiser(request: LatentRequest) -> NDArray[np.int8]:
    machine = request.machine
    return draw(request, machine=machine.with_parameters(machine.h * 3, machine.j * 3))


def free_edge(machine: BoltzmannMachine) -> np.int64:
    """The free coupling of median strength: not the easiest to notice."""
    free = np.flatnonzero((machine.partitions[machine.edges] != 0).all(axis=1))
    return free[np.argsort(np.abs(machine.j[free]))[free.shape[0] // 2]]


def coupling_flipped(request: LatentRequest) -> NDArray[np.int8]:
    machine = request.machine
    j = machine.j.copy()
    j[free_edge(machine)] *= -1
    return draw(request, machine=machine.with_parameters(machine.h, j))


def coupling_forgotten(request: LatentRequest) -> NDArray[np.int8]:
    machine = request.machine
    j = machine.j.copy()
    j[free_edge(machine)] = 0
    return draw(request, machine=machine.with_parameters(machine.h, j))


def fields_flipped(request: LatentRequest) -> NDArray[np.int8]:
    machine = request.machine
    h = machine.h.copy()
    h[machine.free_nodes] *= -1
    return draw(request, machine=machine.with_parameters(h, machine.j))


def every_field_a_little_high(request: LatentRequest) -> NDArray[np.int8]:
    machine = request.machine
    return draw(request, machine=machine.with_parameters(machine.h + np.float32(0.03), machine.j))


def stale_clamp_of_the_row_before(request: LatentRequest) -> NDArray[np.int8]:
    return draw(request, conditions=np.roll(request.conditions, 1, axis=0))


def stale_clamp_of_the_first_row(request: LatentRequest) -> NDArray[np.int8]:
    return draw(request, conditions=np.repeat(request.conditions[:1], request.rows, axis=0))


def condition_ignored(request: LatentRequest) -> NDArray[np.int8]:
    machine = request.machine
    j = np.where((machine.partitions[machine.edges] == 0).any(axis=1), np.float32(0), machine.j)
    return draw(request, machine=machine.with_parameters(machine.h, j))


def one_condition_spin_flipped(request: LatentRequest) -> NDArray[np.int8]:
    conditions = request.conditions.copy()
    conditions[:, 0] *= -1
    return draw(request, conditions=conditions)


def too_few_sweeps(request: LatentRequest) -> NDArray[np.int8]:
    return draw(request, sweeps=2)


def one_spin_never_updated(request: LatentRequest) -> NDArray[np.int8]:
    spins = draw(request)
    node = request.machine.free_nodes[3]
    spins[:, node] = np.random.default_rng(1).choice(np.array([-1, 1], np.int8), request.rows)
    return spins


def half_the_rows_are_copies(request: LatentRequest) -> NDArray[np.int8]:
    spins = draw(request)
    for level in np.unique(request.conditions, axis=0):
        rows = np.flatnonzero((request.conditions == level).all(axis=1))
        half = rows.shape[0] // 2
        spins[rows[:half]] = spins[rows[half : 2 * half]]
    return spins


def one_seed_for_all_rows(request: LatentRequest) -> NDArray[np.int8]:
    streams = np.zeros_like(request.streams)
    return draw(dataclasses.replace(request, streams=streams))


FAULTS = [
    colder,
    warmer,
    optimiser,
    coupling_flipped,
    coupling_forgotten,
    fields_flipped,
    every_field_a_little_high,
    stale_clamp_of_the_row_before,
    stale_clamp_of_the_first_row,
    condition_ignored,
    one_condition_spin_flipped,
    too_few_sweeps,
    one_spin_never_updated,
    half_the_rows_are_copies,
    one_seed_for_all_rows,
]


@pytest.fixture(scope="module")
def laws(
    base_seed: int,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    latent_request: RequestMaker,
    enumerate_law: LawMaker,
    checks: Checks,
) -> Laws:
    """A machine of 12 free spins, three conditions, a request that mixes them, and their exact laws."""
    rng = np.random.default_rng([base_seed, 77])
    machine = random_machine(rng, free=12, condition=4, coupling=0.5)
    levels = rng.permutation(np.unique(random_spins(rng, (32, 4)), axis=0))[:3]
    conditions = rng.permutation(np.repeat(levels, ROWS_PER_CONDITION, axis=0))
    exact = {level.tobytes(): enumerate_law(machine, level) for level in levels}
    options = SamplerOptions(sweeps=checks.sweeps_for(exact.values(), ROWS_PER_CONDITION))
    return latent_request(machine, conditions, seed=base_seed, options=options), exact


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_checks_see_each_fault(
    fault: Callable[[LatentRequest], NDArray[np.int8]], laws: Laws, judge: Judge, checks: Checks
) -> None:
    request, exact = laws
    spins = fault(request)
    # The answer's form gives nothing away.
    LatentBatch(spins, request.machine.energies(spins), Provenance("gibbs")).checked(request)
    assert judge.failed(checks.exact(exact, spins, request.conditions))


def test_the_checks_pass_the_same_draw_without_a_fault(laws: Laws, judge: Judge, checks: Checks) -> None:
    request, exact = laws
    judge(checks.exact(exact, draw(request), request.conditions))


def test_the_checks_pass_exact_draws_as_often_as_they_say(
    rng: np.random.Generator,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    enumerate_law: LawMaker,
    checks: Checks,
) -> None:
    """False alarms at a level of 0.02 on exact draws: at most what a binomial of that chance gives in 1e-6 of runs."""
    machine = random_machine(rng, free=6, condition=2, coupling=0.5)
    levels = np.unique(random_spins(rng, (16, 2)), axis=0)[:3]
    exact = {level.tobytes(): enumerate_law(machine, level) for level in levels}
    conditions = np.repeat(levels, 1000, axis=0)
    alarms = dict.fromkeys(("states", "coincidences", "energies", "magnetisations", "two-point", "mean"), 0)
    rounds = 150
    for _ in range(rounds):
        spins = np.concatenate([law.draw(rng, 1000) for law in exact.values()])
        for name, p in checks.exact(exact, spins, conditions).items():
            alarms[name.split()[0]] += p < 0.02
    for name, count in alarms.items():
        trials = rounds * (2 if name == "mean" else 3)
        assert checks.binomial_tests(np.array([count]), trials, np.array([0.02])) > 1e-6 or count < 0.02 * trials, (
            alarms
        )
