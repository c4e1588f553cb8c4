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
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu.problems import Collector, Submission, submit
from qshower.sampler.qpu.sampler import QpuSampler
from qshower.sampler.qpu.settings import QpuSettings
from qshower.sampler.qpu.surplus import SURPLUS_ROWS, Surplus, drawn_by_default
from qshower.sampler.request import LatentRequest, SamplerOptions
from qshower.sampler.reservoir import Reservoir

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
    streams = np.stack([np.full(len(conditions), 3), np.arange(len(conditions))], axis=1).astype(np.uint64)
    return LatentRequest(machine, conditions, streams, SamplerOptions(**options), 120.0)  # type: ignore[arg-type]


def settings_for(emulator: EmulatorServer, folder: Path) -> QpuSettings:
    return QpuSettings(endpoint=emulator.endpoint, token="any", state_dir=folder, calibration_reads=600, max_copies=2)


class Listed:
    """A keeper that lists what it gets, and wants some more each time."""

    def __init__(self, wanted: int = 0) -> None:
        self.given: list[Surplus] = []
        self.asked: list[LatentRequest] = []
        self.wants = wanted

    def wanted(self, request: LatentRequest) -> int:
        self.asked.append(request)
        return self.wants

    def keep(self, surplus: Surplus) -> None:
        self.given.append(surplus)


def test_surplus_reads_serve_later_requests(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path
) -> None:
    keeper = Listed()
    with QpuSampler(settings_for(emulator, tmp_path), keeper) as sampler:
        reservoir = Reservoir(sampler, machine, LEVELS, per_level=200, max_bytes=400 * 66)
        batch = sampler.sample(request_of(machine, [20, 5], num_reads=150))
    # The sampler is closed; what it left can be completed all the same.
    (surplus,) = keeper.given
    assert surplus.request.machine is machine
    spins, provenance = surplus.states(), surplus.provenance
    assert reservoir.deposit(spins, provenance) == surplus.rows
    assert batch.spins.shape == (25, 16)
    assert len(spins) == 2 * 150 - 25
    assert provenance.problem_ids == batch.provenance.problem_ids
    assert not any("surplus" in note for note in batch.provenance.notes)
    clamped = spins[:, machine.condition_nodes]
    assert [int((clamped == level).all(axis=1).sum()) for level in LEVELS] == [130, 145]
    taken = reservoir.take(np.repeat(LEVELS, [130, 145], axis=0))
    assert taken.served.all()
    assert taken.provenance.sampler == "qpu"
    assert taken.provenance.qpu_access_time_us == 0.0
    assert taken.provenance.qpu_timing_us == provenance.qpu_timing_us
    assert not reservoir.take(LEVELS).served.any()


def test_surplus_states_follow_the_law_of_their_condition(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, enumerate_law
) -> None:
    keeper = Listed()
    with QpuSampler(settings_for(emulator, tmp_path), keeper) as sampler:
        sampler.sample(request_of(machine, [1, 1], num_reads=1000, refine_sweeps=16))
    (surplus,) = keeper.given
    spins = np.concatenate([piece.states() for piece in surplus.pieces(300)])
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


def test_rows_asked_for_survive_a_keeper_that_fails(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path
) -> None:
    class Failing(Listed):
        def keep(self, surplus: Surplus) -> None:
            raise OSError("no room")

    with QpuSampler(settings_for(emulator, tmp_path), Failing()) as sampler:
        batch = sampler.sample(request_of(machine, [4, 4], num_reads=50))
        assert "surplus reads were not kept: OSError: no room" in batch.provenance.notes
        # Without surplus there is nothing to hand over.
        assert sampler.sample(request_of(machine, [4, 4])).provenance.notes == ()


def test_a_keeper_says_how_many_it_wants(emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path) -> None:
    """No more than the settings allow, and none where options say how to draw."""
    settings = replace(settings_for(emulator, tmp_path), spare_reads=30)
    for wanted, bought in ((0, 0), (7, 7), (31, 30)):
        keeper = Listed(wanted)
        with QpuSampler(settings, keeper) as sampler:
            request = request_of(machine, [4, 4])
            sampler.sample(request_of(machine, [1]))
            keeper.given.clear()
            assert sampler.estimate(request).reads == 4 + bought
            assert sampler.sample(request).provenance.num_reads == 4 + bought
            assert keeper.asked[-1] is request
            assert [surplus.rows for surplus in keeper.given] == [2 * bought] * bool(bought)
            asked = len(keeper.asked)
            for options in ({"num_reads": 9}, {"gauges": 1}):
                assert sampler.sample(request_of(machine, [4, 4], **options)).provenance.num_reads in (4, 9)
            assert len(keeper.asked) == asked


def test_pieces_are_the_whole(emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path) -> None:
    keeper = Listed()
    with QpuSampler(settings_for(emulator, tmp_path), keeper) as sampler:
        sampler.sample(request_of(machine, [20, 5], num_reads=150))
    (surplus,) = keeper.given
    pieces = list(surplus.pieces(100))
    assert [piece.rows for piece in pieces] == [100, 100, 75]
    # The streams are the rows' own, so that the same states come out.
    assert np.array_equal(np.concatenate([piece.states() for piece in pieces]), surplus.states())
    with pytest.raises(SamplerTimeoutError):
        surplus.states(deadline_s=0.0)


def test_what_is_handed_over_is_bounded_and_shared_by_the_conditions(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path
) -> None:
    keeper = Listed()
    with QpuSampler(settings_for(emulator, tmp_path), keeper) as sampler:
        sampler.sample(request_of(machine, [1, 400], num_reads=5000))
    (surplus,) = keeper.given
    assert surplus.rows == SURPLUS_ROWS
    counts = [int((surplus.request.conditions == level).all(axis=1).sum()) for level in LEVELS]
    assert counts == [SURPLUS_ROWS // 2] * 2


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
    assert drawn_by_default(SamplerOptions(**options)) is like_any  # type: ignore[arg-type]


def programmings_of(emulator: EmulatorServer, folder: Path) -> QpuSettings:
    """Settings by which each level is a programming of its own."""
    return replace(settings_for(emulator, folder), max_copies=1, breaker_failures=100)


def test_what_came_of_a_draw_before_it_failed_is_kept(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, sent = Listed(), []

    def submit_and_fail_the_second(*args: object, **options: object) -> object:
        sent.append(args)
        if len(sent) == 2:
            emulator.arm("problem_failed:1")
        return submit(*args, **options)  # type: ignore[arg-type]

    with QpuSampler(replace(programmings_of(emulator, tmp_path), max_in_flight=1), keeper) as sampler:
        used_us = sampler.sample(request_of(machine, [1, 1])).provenance.qpu_access_time_us or 0.0
        monkeypatch.setattr("qshower.sampler.qpu.runner.submit", submit_and_fail_the_second)
        with pytest.raises(SamplerUnavailableError, match="failed the problem"):
            sampler.sample(request_of(machine, [30, 20]))
        budget = sampler._ledger.state()["used_today_us"]
    (surplus,) = keeper.given
    assert len(sent) == 2
    assert surplus.rows == 30
    assert (surplus.request.conditions == LEVELS[0]).all()
    assert any("failed afterwards" in note for note in surplus.provenance.notes)
    assert len(surplus.provenance.problem_ids or ()) == 1
    # The failed one may have been billed: it keeps its reservation.
    answered_us = surplus.provenance.qpu_access_time_us or 0.0
    assert budget > used_us + answered_us > used_us
    assert (np.abs(surplus.states()) == 1).all()


def test_what_is_there_of_the_other_problems_when_one_fails_is_kept(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, abandon = Listed(), Collector.abandon

    def late(collector: Collector, submissions: Iterable[Submission]) -> None:
        given_up = list(submissions)
        for one in given_up:
            one.future.wait(60.0)
        abandon(collector, given_up)

    with QpuSampler(programmings_of(emulator, tmp_path), keeper) as sampler:
        sampler.sample(request_of(machine, [1, 1]))
        monkeypatch.setattr(Collector, "abandon", late)
        emulator.arm("problem_failed:1")
        with pytest.raises(SamplerUnavailableError, match="failed the problem"):
            sampler.sample(request_of(machine, [30, 20]))
    (surplus,) = keeper.given
    assert surplus.rows in (20, 30)
    assert len(np.unique(surplus.request.conditions, axis=0)) == 1


def test_reads_are_kept_if_there_is_no_time_left_to_refine_them(
    emulator: EmulatorServer, machine: BoltzmannMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object) -> None:
        raise SamplerTimeoutError("no time left")

    keeper = Listed()
    with QpuSampler(programmings_of(emulator, tmp_path), keeper) as sampler:
        sampler.sample(request_of(machine, [1, 1]))
        monkeypatch.setattr("qshower.sampler.qpu.sampler.assemble", too_late)
        with pytest.raises(SamplerTimeoutError, match="no time left"):
            sampler.sample(request_of(machine, [30, 20]))
    (surplus,) = keeper.given
    assert surplus.rows == 50
