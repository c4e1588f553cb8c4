"""What every sampler must do, whatever it is made of."""

from __future__ import annotations

import dataclasses
import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qshower.sampler.errors import (
    InvalidInputError,
    SamplerCancelledError,
    SamplerTimeoutError,
    SamplerUnavailableError,
)
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.protocol import Sampler
from qshower.sampler.request import LatentRequest, SamplerOptions
from tests.conftest import RequestMaker
from tests.contract.conftest import ContractCase

SOME_VALUE: dict[str, Any] = {
    "sweeps": 4,
    "num_reads": 10,
    "annealing_time_us": 20.0,
    "gauges": 2,
    "refine_sweeps": 1,
    "condition_mode": "fold",
    "max_qpu_access_time_us": 1e6,
    "solver": "zephyr",
}


@pytest.fixture
def mixed(case: ContractCase, latent_request: RequestMaker) -> RequestMaker:
    """Builds a request over all levels in mixed order; ``picks`` says which level each row has."""

    def build(
        rows: int, *, seed: int = 3, first_index: int = 0, picks: NDArray[np.int64] | None = None, **changes: Any
    ) -> LatentRequest:
        if picks is None:
            picks = np.random.default_rng(rows).integers(0, len(case.levels), rows)
        changes.setdefault("options", case.options)
        return latent_request(case.machine, case.levels[picks], seed=seed, first_index=first_index, **changes)

    return build


def energy_by_hand(machine: BoltzmannMachine, spins: NDArray[np.int8]) -> float:
    total = sum(h * s for h, s in zip(machine.h.tolist(), spins.tolist(), strict=True))
    return total + sum(j * spins[a] * spins[b] for (a, b), j in zip(machine.edges, machine.j.tolist(), strict=True))


def test_it_is_a_sampler_of_its_name(case: ContractCase) -> None:
    assert isinstance(case.sampler, Sampler)
    assert case.sampler.name == case.name
    assert set(case.option_values) == case.sampler.capabilities.options
    assert set(SOME_VALUE) == {field.name for field in dataclasses.fields(SamplerOptions)}


def test_it_says_that_it_is_available(case: ContractCase) -> None:
    availability = case.sampler.availability(case.machine)
    assert availability.available
    assert availability.reason is None
    json.dumps(availability.detail)


@pytest.mark.parametrize("rows", [0, 1, 2, 57])
def test_answer_has_the_shape_asked_for_and_is_true(case: ContractCase, mixed: RequestMaker, rows: int) -> None:
    request = mixed(rows)
    conditions = request.conditions.copy()
    batch = case.sampler.sample(request)
    assert batch.spins.shape == (rows, 16)
    assert batch.spins.dtype == np.int8
    assert np.isin(batch.spins, (-1, 1)).all()
    assert batch.energies.shape == (rows,)
    assert batch.energies.dtype == np.float64
    assert np.array_equal(batch.spins[:, case.machine.condition_nodes], conditions)
    assert np.array_equal(request.conditions, conditions), "the request's own arrays were changed"
    by_hand = [energy_by_hand(case.machine, row) for row in batch.spins]
    assert np.allclose(batch.energies, by_hand, rtol=1e-6, atol=1e-5)


def test_all_rows_of_one_condition_and_all_orders(case: ContractCase, mixed: RequestMaker) -> None:
    for picks in ([2] * 9, [3, 2, 1, 0] * 3, [0, 0, 3, 3, 1]):
        batch = case.sampler.sample(mixed(len(picks), picks=np.array(picks)))
        assert np.array_equal(batch.spins[:, case.machine.condition_nodes], case.levels[picks])


def test_draws_differ_from_row_to_row(case: ContractCase, mixed: RequestMaker) -> None:
    batch = case.sampler.sample(mixed(60, picks=np.zeros(60, dtype=int)))
    assert len(np.unique(batch.spins, axis=0)) > 5


def test_provenance_is_its_own_and_can_be_written_as_json(case: ContractCase, mixed: RequestMaker) -> None:
    provenance = case.sampler.sample(mixed(3)).provenance
    assert provenance.sampler == case.name
    assert json.loads(json.dumps(dataclasses.asdict(provenance)))["sampler"] == case.name
    assert all(seconds >= 0 for seconds in provenance.elapsed_s.values())


def test_every_option_it_lacks_is_refused_by_name(case: ContractCase, mixed: RequestMaker) -> None:
    lacking = set(SOME_VALUE) - case.sampler.capabilities.options
    assert lacking, "no sampler takes every option"
    for option in sorted(lacking):
        request = mixed(2, options=SamplerOptions(**{option: SOME_VALUE[option]}))
        with pytest.raises(InvalidInputError, match=option) as caught:
            case.sampler.sample(request)
        assert caught.value.value == SOME_VALUE[option]


def test_every_option_it_has_is_taken(case: ContractCase, mixed: RequestMaker) -> None:
    for option, value in case.option_values.items():
        options = dataclasses.replace(case.options, **{option: value})
        assert case.sampler.sample(mixed(2, options=options)).spins.shape == (2, 16)


def test_bad_values_of_its_options_are_refused(case: ContractCase, mixed: RequestMaker) -> None:
    for option, values in case.bad_values.items():
        for value in values:
            request = mixed(2, options=dataclasses.replace(case.options, **{option: value}))
            with pytest.raises(InvalidInputError, match=option):
                case.sampler.sample(request)


def test_a_deadline_already_passed_is_a_timeout(case: ContractCase, mixed: RequestMaker) -> None:
    with pytest.raises(SamplerTimeoutError):
        case.sampler.sample(mixed(50, deadline_s=0.0))
    assert case.sampler.sample(mixed(2, deadline_s=120.0)).spins.shape == (2, 16)


def test_a_draw_that_nobody_waits_for_is_stopped(case: ContractCase, mixed: RequestMaker) -> None:
    with pytest.raises(SamplerCancelledError):
        case.sampler.sample(dataclasses.replace(mixed(50), given_up=lambda: True))
    assert case.sampler.sample(mixed(2)).spins.shape == (2, 16)


def test_a_row_depends_on_its_own_stream_and_condition_alone(case: ContractCase, mixed: RequestMaker) -> None:
    if not case.sampler.capabilities.reproducible:
        pytest.skip("does not claim to be reproducible")
    picks = np.random.default_rng(1).integers(0, 4, 41)
    whole = case.sampler.sample(mixed(41, picks=picks, seed=9)).spins
    assert np.array_equal(whole, case.sampler.sample(mixed(41, picks=picks, seed=9)).spins)
    with case.build() as another:
        assert np.array_equal(whole, another.sample(mixed(41, picks=picks, seed=9)).spins)
    for row in (0, 7, 40):
        alone = case.sampler.sample(mixed(1, picks=picks[[row]], seed=9, first_index=row))
        assert np.array_equal(alone.spins[0], whole[row])
    tail = case.sampler.sample(mixed(11, picks=picks[30:], seed=9, first_index=30))
    assert np.array_equal(tail.spins, whole[30:])
    assert not np.array_equal(whole, case.sampler.sample(mixed(41, picks=picks, seed=10)).spins)


@given(
    seed=st.integers(0, 2**64 - 1),
    first_index=st.integers(0, 2**64 - 1),
    picks=st.lists(st.integers(0, 3), min_size=1, max_size=40).map(np.array),
    cuts=st.sets(st.integers(1, 39), max_size=4),
    order=st.randoms(use_true_random=False),
    strength=st.sampled_from([0.0, 1.0, 4.0]),
    sweeps=st.integers(1, 20),
    threads=st.integers(1, 4),
)
@settings(max_examples=25, deadline=None)
def test_a_row_is_the_same_in_any_batch_on_any_threads_for_any_seed(
    case: ContractCase,
    latent_request: RequestMaker,
    seed: int,
    first_index: int,
    picks: NDArray[np.int64],
    cuts: set[int],
    order: random.Random,
    strength: float,
    sweeps: int,
    threads: int,
) -> None:
    if not case.sampler.capabilities.reproducible:
        pytest.skip("does not claim to be reproducible")
    machine = case.machine.with_parameters(case.machine.h, case.machine.j * np.float32(strength))
    streams = np.stack(
        [np.full(len(picks), seed, np.uint64), np.uint64(first_index) + np.arange(len(picks), dtype=np.uint64)], axis=1
    )

    def drawn(sampler: Sampler, rows: NDArray[np.int64]) -> NDArray[np.int8]:
        options = dataclasses.replace(case.options, sweeps=sweeps)
        request = latent_request(machine, case.levels[picks[rows]], options=options)
        request.streams[:] = streams[rows]
        return sampler.sample(request).spins

    whole = drawn(case.sampler, np.arange(len(picks)))
    rows = order.sample(range(len(picks)), len(picks))
    with case.build(threads=threads) as another:
        for batch in np.split(np.array(rows), sorted(cuts)):
            assert np.array_equal(drawn(another, batch), whole[batch])


def test_several_threads_may_share_it(case: ContractCase, mixed: RequestMaker) -> None:
    requests = [mixed(rows, seed=rows) for rows in (1, 5, 17, 30, 2, 9, 23, 12)]
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(case.sampler.sample, requests))
    for request, batch in zip(requests, batches, strict=True):
        batch.checked(request)
        if case.sampler.capabilities.reproducible:
            assert np.array_equal(batch.spins, case.sampler.sample(request).spins)


def test_answers_are_not_shared(case: ContractCase, mixed: RequestMaker) -> None:
    request = mixed(6, seed=5)
    first = case.sampler.sample(request)
    kept = first.spins.copy()
    second = case.sampler.sample(mixed(6, seed=6))
    assert not np.shares_memory(first.spins, second.spins)
    assert np.array_equal(first.spins, kept)


def test_it_is_a_context_manager_and_closes_once_and_for_all(case: ContractCase, mixed: RequestMaker) -> None:
    with case.build() as sampler:
        assert isinstance(sampler, Sampler)
        assert sampler.sample(mixed(2)).spins.shape == (2, 16)
    sampler.close()
    if sampler.availability(case.machine).available:
        # What holds nothing open has nothing to refuse.
        sampler.sample(mixed(2))
        return
    assert sampler.availability(case.machine).reason
    with pytest.raises(SamplerUnavailableError, match="closed"):
        sampler.sample(mixed(2))
