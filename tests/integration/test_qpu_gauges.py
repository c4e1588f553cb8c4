"""Gauges through the unmodified client, on an emulator whose errors are the chip's own, whatever is programmed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.unused_reads import UnusedReads
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

ERROR_KT = 4.0 * 0.08


class Taking:
    """A receiver that keeps all unused reads."""

    def __init__(self) -> None:
        self.given: list[UnusedReads] = []

    def __call__(self, reads: UnusedReads) -> None:
        self.given.append(reads)


@pytest.fixture(scope="module")
def machine() -> BoltzmannMachine:
    """Independent spins: the mean of each is −tanh(h)."""
    lattice = compact_lattice("zephyr", 40, chip_size=3)
    rng = np.random.default_rng(5)
    return lattice.with_parameters(rng.normal(0, 0.3, lattice.node_count), np.zeros(len(lattice.edges)))


@pytest.fixture(scope="module")
def receiver() -> Taking:
    return Taking()


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory, receiver: Taking) -> Iterator[QpuSampler]:
    config = EmulatorConfig(
        topology="zephyr:6", defects=0.0, seed=1, sweeps=16, beta=4.0, control_error_h=0.08, systematic_share=1.0
    )
    folder = tmp_path_factory.mktemp("gauges")
    with EmulatorServer(config) as emulator:
        settings = QpuSettings(
            endpoint=emulator.endpoint, token="any", state_dir=folder, calibration_reads=400, refine_sweeps=0
        )
        with QpuSampler(settings, receiver=receiver) as built:
            yield built


def request_of(machine: BoltzmannMachine, groups: list[int], **options: object) -> LatentRequest:
    rng = np.random.default_rng(3)
    levels = rng.choice(np.array([-1, 1], dtype=np.int8), size=(len(groups), machine.condition_nodes.size))
    conditions = np.repeat(levels, groups, axis=0)
    streams = streams_of(3, len(conditions))
    return LatentRequest(machine, conditions, streams, SamplerOptions(**options), 120.0)  # type: ignore[arg-type]


def error(machine: BoltzmannMachine, spins: np.ndarray) -> float:
    """Root mean square error of the free spins' means, sampling noise taken off."""
    exact = -np.tanh(machine.h[machine.free_nodes].astype(float))
    off = spins[:, machine.free_nodes].mean(axis=0) - exact
    return float(np.sqrt(max(0.0, (off**2 - (1 - exact**2) / len(spins)).mean())))


def test_without_gauges_the_chips_errors_are_seen(sampler: QpuSampler, machine: BoltzmannMachine) -> None:
    spins = sampler.sample(request_of(machine, [1600, 400], num_reads=1600)).spins
    for group in (spins[:1600], spins[1600:]):
        assert 0.7 * ERROR_KT < error(machine, group) < 1.1 * ERROR_KT


@pytest.mark.parametrize(
    ("groups", "options"),
    [
        ([1600, 1600], {"num_reads": 1600}),
        ([1600, 400, 400], {"num_reads": 1600}),
        ([400, 401], {"num_reads": 1600}),
        ([400, 1601], {"num_reads": 1601, "condition_mode": "flux_bias"}),
        ([1600, 400], {}),
    ],
    ids=["equal", "unequal", "spare", "flux_bias", "packed"],
)
def test_rows_of_every_condition_are_averaged_over_all_gauges(
    sampler: QpuSampler, machine: BoltzmannMachine, groups: list[int], options: dict[str, object]
) -> None:
    batch = sampler.sample(request_of(machine, groups, gauges=4, **options))
    assert batch.provenance.gauges == 4
    for start, stop in pairwise(np.cumsum([0, *groups])):
        # To first order nothing is left of the errors, 0.3 without gauges; sampling noise, taken off, leaves 0.02.
        assert error(machine, batch.spins[start:stop]) < 0.07


def test_reads_that_nobody_asked_for_are_averaged_over_all_gauges_too(
    sampler: QpuSampler, machine: BoltzmannMachine, receiver: Taking
) -> None:
    receiver.given.clear()
    sampler.sample(request_of(machine, [1600, 600], gauges=4, num_reads=1600))
    (reads,) = receiver.given
    assert reads.rows == 1000
    assert error(machine, reads.states()) < 0.07


def test_fewer_reads_than_gauges_are_drawn_and_told_as_what_they_are(
    sampler: QpuSampler, machine: BoltzmannMachine
) -> None:
    before = sampler.sample(request_of(machine, [3], gauges=1, num_reads=3)).provenance.problem_ids
    assert before is not None
    provenance = sampler.sample(request_of(machine, [3], gauges=8, num_reads=3)).provenance
    assert provenance.problem_ids is not None
    assert (provenance.gauges, len(provenance.problem_ids) - len(before)) == (3, 2)
    assert any("1 of 1 programmings have fewer reads than the 8 gauges" in note for note in provenance.notes)
    provenance = sampler.sample(request_of(machine, [3], gauges=8, num_reads=20)).provenance
    assert provenance.gauges == 8
    assert not any("fewer reads" in note for note in provenance.notes)
