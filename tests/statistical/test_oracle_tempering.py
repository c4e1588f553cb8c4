"""Parallel tempering against enumeration, on a machine where a ramp gets the weights of two valleys wrong."""

from __future__ import annotations

import numpy as np
import pytest

from sampler.gibbs.sampler import GibbsSampler
from sampler.request import SamplerOptions
from sampler.tempering import HOTTEST_BETA, TemperingSampler, ladder_of, temper

ROWS = 6000


@pytest.fixture
def two_valleys(rng, random_machine):
    """12 spins that all want to agree, with a barrier of tens of kT between up and down and a bias of a few kT."""
    machine = random_machine(rng, free=12, condition=3, density=1.0)
    between_free = (machine.partitions[machine.edges] != 0).all(axis=1)
    j = np.where(between_free, np.float32(-0.7), rng.normal(0, 0.05, machine.j.shape[0]).astype(np.float32))
    return machine.with_parameters(np.full(15, -0.08, np.float32), j)


def test_tempering_weighs_valleys_right_where_a_ramp_does_not(
    two_valleys, base_seed, judge, checks, rng, random_spins, latent_request, enumerate_law
):
    levels = rng.permutation(np.unique(random_spins(rng, (32, 3)), axis=0))[:2]
    conditions = rng.permutation(np.repeat(levels, ROWS // 2, axis=0))
    laws = {level.tobytes(): enumerate_law(two_valleys, level) for level in levels}
    request = latent_request(two_valleys, conditions, seed=base_seed, options=SamplerOptions(sweeps=128))
    with GibbsSampler() as ramp:
        assert judge.failed(checks.exact(laws, ramp.sample(request).spins, conditions)), "the machine is too easy"
    with TemperingSampler() as sampler:
        judge(checks.exact(laws, sampler.sample(request).spins, conditions))


def test_tempering_of_random_machines(
    base_seed, judge, checks, rng, random_machine, random_spins, latent_request, enumerate_law
):
    machine = random_machine(rng, free=14, condition=4, coupling=0.7)
    levels = rng.permutation(np.unique(random_spins(rng, (32, 4)), axis=0))[:2]
    conditions = rng.permutation(np.repeat(levels, ROWS // 2, axis=0))
    request = latent_request(machine, conditions, seed=base_seed, options=SamplerOptions(sweeps=66))
    with TemperingSampler() as sampler:
        spins = sampler.sample(request).spins
    judge(checks.exact({level.tobytes(): enumerate_law(machine, level) for level in levels}, spins, conditions))


@pytest.mark.parametrize("family", ["zephyr", "pegasus"])
def test_ladder_of_a_full_machine_exchanges_everywhere(family, rng, lattice_machine, random_spins, latent_request):
    machine = lattice_machine(rng, family)
    betas = ladder_of(machine)
    assert betas[0] == HOTTEST_BETA
    assert betas[-1] == 1.0
    assert (np.diff(betas) > 0).all()
    assert np.array_equal(betas, ladder_of(machine))
    request = latent_request(machine, random_spins(rng, (32, 302)))
    _, accepted = temper(machine, request.conditions, request.streams, 80, betas)
    # About 0.4 by design; 32 rows x 10 attempts know each to 0.03.
    assert (accepted > 0.2).all()
    assert (accepted < 0.7).all()
