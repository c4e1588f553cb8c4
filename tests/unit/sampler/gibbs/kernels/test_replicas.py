"""Replicas that exchange their states: the fast kernel against the plain one, and what a row may depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.errors import SamplerTimeoutError
from qshower.sampler.gibbs.kernels.replicas import run_tempering
from qshower.sampler.gibbs.program import program_of
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import streams_of
from qshower.sampler.tempering import temper
from tests.conftest import MachineMaker, SpinMaker

BETAS = np.array([0.2, 0.4, 0.7, 1.0])


@pytest.fixture(scope="module")
def machine(lattice_machine: MachineMaker) -> BoltzmannMachine:
    return lattice_machine(np.random.default_rng(5), "zephyr", nodes_per_partition=24, coupling=0.6)


def keys_of(rows: int) -> NDArray[np.uint64]:
    return np.random.default_rng(1).integers(0, 2**64, rows, dtype=np.uint64)


def drawn(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], keys: NDArray[np.uint64], rounds: int, **how: Any
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    spins = np.empty((conditions.shape[0], machine.node_count), dtype=np.int8)
    spins[:, machine.condition_nodes] = conditions
    counts = run_tempering(program_of(machine), spins, BETAS, rounds, keys, **how)
    return spins, counts


@pytest.mark.parametrize("rows", [1, 8, 9, 33, 70])
def test_fast_and_plain_kernels_give_the_same_spins(
    machine: BoltzmannMachine, random_spins: SpinMaker, rows: int
) -> None:
    conditions = random_spins(np.random.default_rng(rows), (rows, 24))
    plain, plain_counts = drawn(machine, conditions, keys_of(rows), 11, threads=1, plain=True)
    fast, fast_counts = drawn(machine, conditions, keys_of(rows), 11, threads=2)
    assert np.array_equal(plain, fast)
    assert np.array_equal(plain_counts, fast_counts)
    assert np.array_equal(fast[:, machine.condition_nodes], conditions)


def test_a_row_depends_on_its_key_and_condition_alone(machine: BoltzmannMachine, random_spins: SpinMaker) -> None:
    conditions = random_spins(np.random.default_rng(2), (70, 24))
    keys = keys_of(70)
    whole, _ = drawn(machine, conditions, keys, 7)
    assert len(np.unique(whole, axis=0)) == 70
    for part in (slice(0, 1), slice(60, 70), slice(3, 40)):
        assert np.array_equal(drawn(machine, conditions[part], keys[part], 7)[0], whole[part])


def test_strong_fields_and_no_rows(machine: BoltzmannMachine, random_spins: SpinMaker) -> None:
    strong = machine.with_parameters(machine.h, machine.j * np.float32(400))
    assert program_of(strong).wide
    conditions = random_spins(np.random.default_rng(3), (5, 24))
    spins, _ = drawn(strong, conditions, keys_of(5), 3)
    assert (np.abs(spins) == 1).all()
    none, counts = drawn(machine, conditions[:0], keys_of(0), 3)
    assert none.shape == (0, 96)
    assert counts.tolist() == [0, 0, 0]


def test_replicas_of_one_beta_always_exchange(machine: BoltzmannMachine, random_spins: SpinMaker) -> None:
    """A gain of 0 is always taken, so that counts tell how many exchanges there were: even pairs, then odd ones."""
    conditions = random_spins(np.random.default_rng(4), (10, 24))
    streams = streams_of(0, 10)
    _, accepted = temper(machine, conditions, streams, 5, np.ones(4))
    assert accepted.tolist() == [1.0, 1.0, 1.0]


def test_the_clock_is_looked_at_on_the_way(machine: BoltzmannMachine, random_spins: SpinMaker) -> None:
    conditions = random_spins(np.random.default_rng(6), (3, 24))
    looks = []

    def late() -> None:
        looks.append(1)
        if len(looks) > 2:
            raise SamplerTimeoutError("late")

    with pytest.raises(SamplerTimeoutError):
        drawn(machine, conditions, keys_of(3), 10_000, on_time=late, threads=1)
    assert len(looks) == 3
