"""What is particular to the annealing sampler; what every sampler must do is in the contract suite."""

from __future__ import annotations

import numpy as np
import pytest

from qshower.sampler.annealing import AnnealingSampler, annealing_schedule
from qshower.sampler.errors import InvalidInputError, SamplerTimeoutError
from qshower.sampler.request import SamplerOptions
from tests.conftest import MachineMaker, RequestMaker, SpinMaker


@pytest.mark.parametrize("sweeps", [1, 2, 3, 64, 1001])
def test_schedule_ramps_up_and_holds_at_one(sweeps: int) -> None:
    betas = annealing_schedule(sweeps)
    assert betas.shape == (sweeps,)
    assert (np.diff(betas) >= 0).all()
    assert (betas[sweeps // 2 :] == 1.0).all()
    assert (betas > 0).all()
    assert (betas <= 1.0).all()


@pytest.mark.parametrize("sweeps", [0, -1, 1_000_001, True, 1.5])
def test_bad_sweeps_are_refused(
    rng: np.random.Generator,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    latent_request: RequestMaker,
    sweeps: bool | int | float,
) -> None:
    machine = random_machine(rng)
    spins = random_spins(rng, (2, 3))
    with AnnealingSampler() as sampler, pytest.raises(InvalidInputError, match=r"options\.sweeps") as caught:
        sampler.sample(latent_request(machine, spins, options=SamplerOptions(sweeps=sweeps)))  # type: ignore[arg-type]
    assert caught.value.value == sweeps


@pytest.mark.parametrize("threads", [0, -2, True, 1.5, "2"])
def test_bad_thread_count_is_refused(threads: bool | int | float | str) -> None:
    with pytest.raises(InvalidInputError, match="threads"):
        AnnealingSampler(threads=threads)  # type: ignore[arg-type]


def test_same_spins_whatever_the_threads(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker, latent_request: RequestMaker
) -> None:
    machine = random_machine(rng)
    request = latent_request(machine, random_spins(rng, (37, 3)), seed=2**64 - 1, options=SamplerOptions(sweeps=16))
    answers = []
    for threads in (1, 2, 5):
        with AnnealingSampler(threads=threads) as sampler:
            answers.append(sampler.sample(request).spins)
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], answers[2])


def test_streams_that_differ_only_in_high_bits_give_other_spins(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker, latent_request: RequestMaker
) -> None:
    machine = random_machine(rng, free=16, coupling=0.1)
    conditions = np.repeat(random_spins(rng, (1, 3)), 40, axis=0)
    with AnnealingSampler() as sampler:
        low = sampler.sample(latent_request(machine, conditions, seed=1)).spins
        high = sampler.sample(latent_request(machine, conditions, seed=1 + 2**40)).spins
        far = sampler.sample(latent_request(machine, conditions, seed=1, first_index=2**40)).spins
    # 16 nearly free spins: two independent rows coincide with probability about 2^-16.
    for other in (high, far):
        assert (low != other).any(axis=1).sum() >= 38


@pytest.mark.parametrize("rows", [1, 500])
def test_deadline_ends_a_draw_between_rows_and_within_one(
    rng: np.random.Generator,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    latent_request: RequestMaker,
    rows: int,
) -> None:
    machine = random_machine(rng)
    sweeps = 1_000_000 if rows == 1 else 20_000
    request = latent_request(
        machine, random_spins(rng, (rows, 3)), options=SamplerOptions(sweeps=sweeps), deadline_s=0.01
    )
    with AnnealingSampler(threads=1) as sampler:
        with pytest.raises(SamplerTimeoutError, match="deadline"):
            sampler.sample(request)
        # The sampler is as good as new afterwards.
        assert sampler.sample(latent_request(machine, random_spins(rng, (3, 3)))).spins.shape == (3, 15)


def test_machine_without_condition_or_without_free_spins(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker, latent_request: RequestMaker
) -> None:
    with AnnealingSampler() as sampler:
        unconditioned = random_machine(rng, free=5, condition=0)
        assert sampler.sample(latent_request(unconditioned, np.empty((4, 0), np.int8))).spins.shape == (4, 5)
        clamped = random_machine(rng, free=0, condition=3)
        conditions = random_spins(rng, (4, 3))
        assert np.array_equal(sampler.sample(latent_request(clamped, conditions)).spins, conditions)


def test_provenance_says_what_was_done(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker, latent_request: RequestMaker
) -> None:
    machine = random_machine(rng)
    with AnnealingSampler() as sampler:
        assert sampler.availability(machine).available
        batch = sampler.sample(latent_request(machine, random_spins(rng, (2, 3)), options=SamplerOptions(sweeps=5)))
    assert (batch.provenance.sampler, batch.provenance.sweeps, batch.provenance.beta) == ("annealing", 5, 1.0)
    assert batch.provenance.elapsed_s["sample"] >= 0
    assert not sampler.availability(machine).available
