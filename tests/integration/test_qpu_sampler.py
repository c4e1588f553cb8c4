"""The QPU sampler as its callers see it: provenance, estimates, budgets, choice of solver, threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.errors import (
    BudgetExceededError,
    InvalidInputError,
    PlacementError,
    ProblemRangeError,
    SamplerUnavailableError,
    SolverNotFoundHereError,
)
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of


def machine_of(family: str, per_partition: int, spread: float = 0.3, size: int | None = None) -> BoltzmannMachine:
    rng = np.random.default_rng(5)
    lattice = compact_lattice(family, per_partition, chip_size=size)
    return lattice.with_parameters(rng.normal(0, spread, lattice.node_count), rng.normal(0, spread, len(lattice.edges)))


def request_of(machine: BoltzmannMachine, rows: int = 6, levels: int = 3, **options: object) -> LatentRequest:
    rng = np.random.default_rng(1)
    conditions = rng.choice(np.array([-1, 1], dtype=np.int8), size=(levels, machine.condition_nodes.size))
    streams = streams_of(2, rows)
    return LatentRequest(machine, conditions[np.arange(rows) % levels], streams, SamplerOptions(**options), 120.0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorServer]:
    with EmulatorServer(EmulatorConfig(topology="zephyr:3", defects=0.03, seed=1, sweeps=32)) as server:
        yield server


@pytest.fixture
def make_sampler(emulator: EmulatorServer, tmp_path: Path) -> Iterator[Callable[..., QpuSampler]]:
    made: list[QpuSampler] = []

    def make(**changes: object) -> QpuSampler:
        values: dict[str, object] = {"endpoint": emulator.endpoint, "token": "any", "state_dir": tmp_path}
        made.append(QpuSampler(QpuSettings(**({"calibration_reads": 100} | values | changes))))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for sampler in made:
        sampler.close()


@pytest.fixture(scope="module")
def machine() -> BoltzmannMachine:
    return machine_of("zephyr", 6, size=3)


def test_building_and_closing_one_opens_nothing(make_sampler: Callable[..., QpuSampler]) -> None:
    before = set(threading.enumerate())
    with make_sampler(endpoint="http://127.0.0.1:9/nobody") as sampler:
        assert sampler.name == "qpu"
    sampler.close()
    assert set(threading.enumerate()) == before


def test_provenance_says_how_it_came_to_be(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler()
    options: dict[str, Any] = {"num_reads": 7, "gauges": 2, "annealing_time_us": 50.0}
    first = sampler.sample(request_of(machine, 7, **options, refine_sweeps=3)).provenance
    assert first.sampler == "qpu"
    assert first.solver == emulator.solver_name
    assert first.graph_id == emulator.graph_id
    assert first.problem_ids is not None
    assert len(set(first.problem_ids)) == len(first.problem_ids) >= 4  # two of the calibration, two gauges
    assert first.annealing_time_us == 50.0
    assert (first.gauges, first.refine_sweeps, first.condition_mode, first.sweeps) == (2, 3, "fold", None)
    assert first.missing_qubits is not None
    assert any("measured with this draw" in note for note in first.notes)
    assert first.qpu_timing_us is not None
    assert first.qpu_timing_us["qpu_access_time"] == pytest.approx(first.qpu_access_time_us)
    second = sampler.sample(request_of(machine, 7, **options)).provenance
    assert (second.beta, second.beta_calibrated_at) == (first.beta, first.beta_calibrated_at)
    assert second.problem_ids is not None
    assert len(second.problem_ids) < len(first.problem_ids)
    assert second.notes == ()
    assert {"draw", "refine"} <= set(second.elapsed_s)


@pytest.mark.parametrize("options", [{}, {"gauges": 3}, {"num_reads": 40}, {"condition_mode": "flux_bias"}], ids=str)
def test_the_estimate_is_the_bill(
    make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine, options: dict[str, Any]
) -> None:
    sampler = make_sampler()
    request = request_of(machine, 9, **options)
    estimate = sampler.estimate(request)
    assert estimate.calibration_us > 0
    provenance = sampler.sample(request).provenance
    assert provenance.qpu_access_time_us == pytest.approx(estimate.access_time_us)
    again = sampler.estimate(request)
    assert again.calibration_us == 0
    assert again.access_time_us == pytest.approx(estimate.access_time_us - estimate.calibration_us)
    assert sampler.sample(request).provenance.num_reads == again.reads
    assert again.conditions == 3


def test_a_request_above_its_cap_is_refused_before_it_is_submitted(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler()
    sampler.sample(request_of(machine))
    submitted = emulator.backend.state()["submitted"]
    with pytest.raises(BudgetExceededError, match=r"cap of 0\.1 ms"):
        sampler.sample(request_of(machine, max_qpu_access_time_us=100.0))
    assert emulator.backend.state()["submitted"] == submitted
    assert sampler.availability(machine).detail["circuit"]["failures"] == 0


def test_budgets_hold_over_a_restart_and_name_their_figures(
    make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler()
    used = sampler.sample(request_of(machine)).provenance.qpu_access_time_us
    assert used is not None
    assert sampler.availability(machine).detail["budget"]["used_today_us"] == pytest.approx(used)
    estimate = sampler.estimate(request_of(machine)).access_time_us
    sampler.close()
    again = make_sampler(daily_budget_us=used + 1.5 * estimate)
    again.sample(request_of(machine))
    with pytest.raises(BudgetExceededError, match="per day are left until midnight UTC") as caught:
        again.sample(request_of(machine))
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 86400
    keyed = make_sampler(key_budget_us=1.5 * estimate)
    keyed.sample(replace(request_of(machine), account="alice"))
    with pytest.raises(BudgetExceededError, match="per day and key"):
        keyed.sample(replace(request_of(machine), account="alice"))
    keyed.sample(replace(request_of(machine), account="bob"))


def test_a_failed_problem_gives_no_reservation_back_and_a_refused_one_does(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler(availability_ttl_s=0.0)
    sampler.sample(request_of(machine))

    def used_us() -> float:
        return float(sampler.availability(machine).detail["budget"]["used_today_us"])

    before = used_us()
    emulator.arm("submit_refused:1")
    with pytest.raises(Exception, match="refused the problem"):
        sampler.sample(request_of(machine))
    assert used_us() == pytest.approx(before)
    emulator.arm("energies_wrong:1")
    with pytest.raises(Exception, match="energies do not belong"):
        sampler.sample(request_of(machine))
    assert used_us() == pytest.approx(before + sampler.estimate(request_of(machine)).access_time_us)


def test_a_solver_can_be_chosen_by_name_or_family(
    emulator: EmulatorServer, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler()
    for solver in (emulator.solver_name, "zephyr", f"{emulator.solver_name};graph_id={emulator.graph_id}"):
        assert sampler.sample(request_of(machine, solver=solver)).provenance.solver == emulator.solver_name
    with pytest.raises(SolverNotFoundHereError, match=f"online: {emulator.solver_name}"):
        sampler.sample(request_of(machine, solver="Advantage_system99"))
    with pytest.raises(SolverNotFoundHereError, match=f"{emulator.graph_id} today, not 01ab"):
        sampler.sample(request_of(machine, solver=f"{emulator.solver_name};graph_id=01ab"))
    with pytest.raises(SolverNotFoundHereError, match="no pegasus solver"):
        sampler.sample(request_of(machine, solver="pegasus"))
    with pytest.raises(SolverNotFoundHereError, match="no pegasus solver"):
        sampler.sample(request_of(machine_of("pegasus", 4)))
    by_environment = make_sampler(solver="Advantage_system99")
    with pytest.raises(SolverNotFoundHereError, match="Advantage_system99"):
        by_environment.sample(request_of(machine))
    assert sampler.availability(machine).available


def test_ocean_s_own_environment_names_endpoint_token_and_solver(
    emulator: EmulatorServer, tmp_path: Path, machine: BoltzmannMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
    monkeypatch.setenv("DWAVE_API_TOKEN", "from-the-environment")
    monkeypatch.setenv("DWAVE_API_SOLVER", emulator.solver_name)
    with QpuSampler(QpuSettings(state_dir=tmp_path, calibration_reads=50)) as sampler:
        assert sampler.sample(request_of(machine)).provenance.solver == emulator.solver_name
    monkeypatch.setenv("DWAVE_API_SOLVER", "Advantage_system99")
    with QpuSampler(QpuSettings(state_dir=tmp_path)) as sampler, pytest.raises(SolverNotFoundHereError):
        sampler.sample(request_of(machine))


def test_values_the_solver_does_not_take_are_invalid(
    make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine
) -> None:
    sampler = make_sampler()
    for name, value in (("annealing_time_us", 5000.0), ("num_reads", 20_000)):
        options: dict[str, Any] = {name: value}
        with pytest.raises(InvalidInputError, match=name):
            sampler.sample(request_of(machine, **options))


def test_a_machine_that_does_not_fit_is_refused(make_sampler: Callable[..., QpuSampler]) -> None:
    sampler = make_sampler()
    big = machine_of("zephyr", 302)
    with pytest.raises(PlacementError, match="larger than the chip"):
        sampler.sample(request_of(big))
    state = sampler.availability(big)
    assert not state.available
    assert "larger than the chip" in (state.reason or "")


@pytest.mark.parametrize("name", ["calibrations.json", "shims.json", "qpu_budget.json"])
def test_a_state_file_that_somebody_altered_makes_it_unavailable_until_it_is_put_right(
    name: str, make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine, tmp_path: Path
) -> None:
    sampler = make_sampler(availability_ttl_s=0.0)
    sampler.sample(request_of(machine))
    path = tmp_path / name
    sound = path.read_text() if path.exists() else "{}"
    path.write_text('{"secret-1.77": ')
    state = sampler.availability(machine)
    assert not state.available
    for said in (state.reason or "", str(unavailable(sampler, machine))):
        assert f"{name} is not as this program wrote it" in said
        assert "1.77" not in said
    path.write_text(sound)
    assert sampler.availability(machine).available
    sampler.sample(request_of(machine))


def unavailable(sampler: QpuSampler, machine: BoltzmannMachine) -> SamplerUnavailableError:
    with pytest.raises(SamplerUnavailableError) as caught:
        sampler.sample(request_of(machine))
    return caught.value


def test_out_of_range_problems_are_refused_or_rescaled_in_the_open(
    make_sampler: Callable[..., QpuSampler],
) -> None:
    hot = machine_of("zephyr", 6, spread=9.0, size=3)
    with pytest.raises(ProblemRangeError, match="outside"):
        make_sampler(range_policy="refuse").sample(request_of(hot))
    provenance = make_sampler(min_rescale=0.01).sample(request_of(hot)).provenance
    assert any("times hotter before refinement" in note for note in provenance.notes)


def test_many_threads_share_one_client(make_sampler: Callable[..., QpuSampler], machine: BoltzmannMachine) -> None:
    sampler = make_sampler()
    requests = [request_of(machine, rows, levels) for rows, levels in ((1, 1), (5, 2), (9, 3), (12, 4)) * 4]
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(sampler.sample, requests))
    for request, batch in zip(requests, batches, strict=True):
        assert batch.spins.shape == (request.rows, machine.node_count)
        assert np.array_equal(batch.spins[:, machine.condition_nodes], request.conditions)
    assert sum("measured with" in note for batch in batches for note in batch.provenance.notes) >= 1
    assert len(operations.calibrations(sampler.access)) == 1


@pytest.mark.parametrize("topology", ["zephyr:12", "pegasus:16"])
def test_the_full_machine_has_the_energies_and_magnetisations_of_gibbs(topology: str, tmp_path: Path) -> None:
    machine = machine_of(topology.split(":")[0], 302, spread=0.2)
    rows = 240
    request = request_of(machine, rows, levels=3)
    config = EmulatorConfig(
        topology=topology, defects=0.03, seed=2, beta=4.4, control_error_h=0.01, control_error_j=0.01, sweeps=192
    )
    with (
        EmulatorServer(config) as server,
        QpuSampler(
            QpuSettings(endpoint=server.endpoint, token="any", state_dir=tmp_path, calibration_reads=300)
        ) as sampler,
    ):
        batch = sampler.sample(request)
        (calibration,) = operations.calibrations(sampler.access)
    assert batch.provenance.missing_qubits
    # The temperature that fits best: errors of h and J make it a little hotter than the hidden one.
    assert abs(calibration.beta / 4.4 - 1) < 0.02 + 5 * calibration.beta_error / 4.4
    gibbs = GibbsSampler().sample(request)
    spread = gibbs.energies.std()
    # Five standard errors of a difference of means: a false alarm in two million for each comparison.
    for level in range(3):
        mine, theirs = batch.energies[level::3], gibbs.energies[level::3]
        error = np.sqrt((mine.var() + theirs.var()) / len(mine))
        assert abs(mine.mean() - theirs.mean()) < 5 * error + 0.05 * spread
    difference = batch.spins.mean(axis=0) - gibbs.spins.mean(axis=0)
    variance = (batch.spins.var(axis=0) + gibbs.spins.var(axis=0)) / rows
    z = difference[machine.free_nodes] / np.sqrt(variance[machine.free_nodes] + 1.0 / rows**2)
    assert abs(np.square(z).mean() - 1.0) < 0.25
