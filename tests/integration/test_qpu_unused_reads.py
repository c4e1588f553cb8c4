"""Reads beyond the rows asked for go to whoever wants them, as states of the law that nobody else is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.errors import SamplerTimeoutError, SamplerUnavailableError
from qshower.sampler.latent_cache import LatentCache
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.ocean.problems import Collector, Submission, submit
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.unused_reads import MOST_ROWS, UnusedReads
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of
from tests.conftest import LawMaker

LEVELS = np.array([[1, 1, -1, 1], [-1, 1, -1, -1]], dtype=np.int8)


@pytest.fixture
def machine() -> BoltzmannMachine:
    rng = np.random.default_rng(3)
    lattice = compact_lattice("zephyr", 4, chip_size=2)
    return lattice.with_parameters(rng.normal(0, 0.4, 16), rng.normal(0, 0.4, len(lattice.edges)))


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorServer]:
    with EmulatorServer(EmulatorConfig(topology="zephyr:2", defects=0.02, beta=3.0, seed=4, sweeps=64)) as server:
        yield server


def request_of(machine: BoltzmannMachine, rows: list[int], **options: object) -> LatentRequest:
    conditions = np.repeat(LEVELS, rows, axis=0)
    streams = streams_of(3, len(conditions))
    return LatentRequest(machine, conditions, streams, SamplerOptions(**options), 120.0)  # type: ignore[arg-type]


def settings_for(emulator: EmulatorServer, folder: Path) -> QpuSettings:
    return QpuSettings(endpoint=emulator.endpoint, token="any", state_dir=folder, calibration_reads=600, max_copies=2)


class Listed:
    """A receiver that lists what it gets."""

    def __init__(self) -> None:
        self.given: list[UnusedReads] = []

    def __call__(self, reads: UnusedReads) -> None:
        self.given.append(reads)


def test_unused_reads_serve_later_requests(emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path) -> None:
    receiver = Listed()
    with QpuSampler(settings_for(emulator, tmp_path), receiver) as sampler:
        batch = sampler.sample(request_of(machine, [20, 5], num_reads=150))
    # The sampler is closed; what it left can be completed all the same.
    (unused,) = receiver.given
    assert unused.request.machine is machine
    spins, provenance = unused.states(), unused.provenance
    cache = LatentCache(machine, 100_000)
    assert cache.put(spins, provenance) == unused.rows
    assert batch.spins.shape == (25, 16)
    assert len(spins) == 2 * 150 - 25
    assert provenance.problem_ids == batch.provenance.problem_ids
    assert not any("unused" in note for note in batch.provenance.notes)
    clamped = spins[:, machine.condition_nodes]
    assert [int((clamped == level).all(axis=1).sum()) for level in LEVELS] == [130, 145]
    taken = cache.claim(np.repeat(LEVELS, [130, 145], axis=0))
    assert taken.complete
    assert taken.provenance.sampler == "qpu"
    assert taken.provenance.qpu_access_time_us == 0.0
    assert taken.provenance.qpu_timing_us == provenance.qpu_timing_us
    assert not cache.claim(LEVELS).served.any()


def test_unused_reads_follow_the_law_of_their_condition(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, enumerate_law: LawMaker
) -> None:
    receiver = Listed()
    with QpuSampler(settings_for(emulator, tmp_path), receiver) as sampler:
        sampler.sample(request_of(machine, [1, 1], num_reads=1000, refine_sweeps=16))
    (unused,) = receiver.given
    spins = np.concatenate([part.states() for part in unused.slices(300)])
    assert len(spins) == 1998
    for level in LEVELS:
        law = enumerate_law(machine, level)
        mine = spins[(spins[:, machine.condition_nodes] == level).all(axis=1)]
        assert len(mine) == 999
        energies = machine.energies(mine)
        mean = law.mean(law.energies)
        error = np.sqrt((law.mean(law.energies**2) - mean**2) / len(mine))
        # Five standard errors: a false alarm in two million.
        assert abs(energies.mean() - mean) < 5 * error


def test_rows_asked_for_survive_a_receiver_that_fails(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path
) -> None:
    class Failing(Listed):
        def __call__(self, reads: UnusedReads) -> None:
            raise OSError("no room")

    with QpuSampler(settings_for(emulator, tmp_path), Failing()) as sampler:
        batch = sampler.sample(request_of(machine, [4, 4], num_reads=50))
        assert "unused reads were not cached: OSError: no room" in batch.provenance.notes
        # Without unused reads there is nothing to hand over.
        assert sampler.sample(request_of(machine, [4, 4])).provenance.notes == ()


def test_slices_are_the_whole(emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path) -> None:
    receiver = Listed()
    with QpuSampler(settings_for(emulator, tmp_path), receiver) as sampler:
        sampler.sample(request_of(machine, [20, 5], num_reads=150))
    (unused,) = receiver.given
    slices = list(unused.slices(100))
    assert [part.rows for part in slices] == [100, 100, 75]
    # The streams are the rows' own, so that the same states come out.
    assert np.array_equal(np.concatenate([part.states() for part in slices]), unused.states())
    with pytest.raises(SamplerTimeoutError):
        unused.states(deadline_s=0.0)


def test_what_is_handed_over_is_bounded_and_shared_by_the_conditions(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path
) -> None:
    receiver = Listed()
    with QpuSampler(settings_for(emulator, tmp_path), receiver) as sampler:
        sampler.sample(request_of(machine, [1, 400], num_reads=5000))
    (unused,) = receiver.given
    assert unused.rows == MOST_ROWS
    counts = [int((unused.request.conditions == level).all(axis=1).sum()) for level in LEVELS]
    assert counts == [MOST_ROWS // 2] * 2


@pytest.mark.parametrize(
    ("options", "like_any"),
    [
        ({}, True),
        ({"num_reads": 50}, True),
        ({"num_reads": 50, "max_qpu_access_time_us": 1e6}, True),
        ({"num_reads": 50, "gauges": 1}, False),
        ({"refine_sweeps": 16}, False),
        ({"condition_mode": "fold"}, False),
        ({"annealing_time_us": 20.0}, False),
        ({"solver": "zephyr"}, False),
    ],
)
def test_which_reads_are_like_those_of_a_request_without_options(options: dict[str, object], like_any: bool) -> None:
    assert SamplerOptions(**options).leave_latents_alone() is like_any  # type: ignore[arg-type]


def programmings_of(emulator: EmulatorServer, folder: Path) -> QpuSettings:
    """Settings by which each level is a programming of its own."""
    return replace(settings_for(emulator, folder), max_copies=1, breaker_failures=100)


def test_what_came_of_a_draw_before_it_failed_is_kept(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, sent = Listed(), []

    def submit_and_fail_the_second(*args: object, **options: object) -> object:
        sent.append(args)
        if len(sent) == 2:
            emulator.arm("problem_failed:1")
        return submit(*args, **options)  # type: ignore[arg-type]

    with QpuSampler(replace(programmings_of(emulator, tmp_path), max_in_flight=1), receiver) as sampler:
        used_us = sampler.sample(request_of(machine, [1, 1])).provenance.qpu_access_time_us or 0.0
        monkeypatch.setattr("qshower.sampler.qpu.ocean.runner.submit", submit_and_fail_the_second)
        with pytest.raises(SamplerUnavailableError, match="failed the problem"):
            sampler.sample(request_of(machine, [30, 20]))
        budget = sampler.access.quota.status().used_today_us
    (unused,) = receiver.given
    assert len(sent) == 2
    assert unused.rows == 30
    assert (unused.request.conditions == LEVELS[0]).all()
    assert any("failed afterwards" in note for note in unused.provenance.notes)
    assert len(unused.provenance.problem_ids or ()) == 1
    # The failed one may have been billed: it keeps its reservation.
    answered_us = unused.provenance.qpu_access_time_us or 0.0
    assert budget > used_us + answered_us > used_us
    assert (np.abs(unused.states()) == 1).all()


def test_what_is_there_of_the_other_problems_when_one_fails_is_kept(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, abandon = Listed(), Collector.abandon

    def late(collector: Collector, submissions: Iterable[Submission]) -> None:
        given_up = list(submissions)
        for one in given_up:
            one.future.wait(60.0)
        abandon(collector, given_up)

    with QpuSampler(programmings_of(emulator, tmp_path), receiver) as sampler:
        sampler.sample(request_of(machine, [1, 1]))
        monkeypatch.setattr(Collector, "abandon", late)
        emulator.arm("problem_failed:1")
        with pytest.raises(SamplerUnavailableError, match="failed the problem"):
            sampler.sample(request_of(machine, [30, 20]))
    (unused,) = receiver.given
    assert unused.rows in (20, 30)
    assert len(np.unique(unused.request.conditions, axis=0)) == 1


def test_reads_are_kept_if_there_is_no_time_left_to_refine_them(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object) -> None:
        raise SamplerTimeoutError("no time left")

    receiver = Listed()
    with QpuSampler(programmings_of(emulator, tmp_path), receiver) as sampler:
        sampler.sample(request_of(machine, [1, 1]))
        monkeypatch.setattr("qshower.sampler.qpu.sampling.assemble", too_late)
        with pytest.raises(SamplerTimeoutError, match="no time left"):
            sampler.sample(request_of(machine, [30, 20]))
    (unused,) = receiver.given
    assert unused.rows == 50
