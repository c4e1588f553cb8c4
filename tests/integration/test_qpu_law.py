"""The whole QPU path against exact laws, through the unmodified client and the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of
from tests.conftest import ExactLaw, LawMaker

ROWS = 4000
BETA = 3.0
FALSE_ALARM = 1e-5
"""Of each chi-squared test here."""


def small_machine(family: str, seed: int = 1) -> BoltzmannMachine:
    """16 nodes, 12 of them free: 4096 states."""
    rng = np.random.default_rng(seed)
    lattice = compact_lattice(family, 4, chip_size=2 if family == "zephyr" else 3)
    return lattice.with_parameters(rng.normal(0, 0.4, 16), rng.normal(0, 0.4, len(lattice.edges)))


def request_of(machine: BoltzmannMachine, conditions: np.ndarray, **options: object) -> LatentRequest:
    rows = len(conditions)
    streams = streams_of(3, rows)
    return LatentRequest(machine, conditions.astype(np.int8), streams, SamplerOptions(**options), 120.0)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["zephyr:2", "pegasus:3"])
def emulator(request: pytest.FixtureRequest) -> Iterator[EmulatorServer]:
    with EmulatorServer(EmulatorConfig(topology=request.param, defects=0.0, beta=BETA, seed=4, sweeps=96)) as server:
        yield server


@pytest.fixture(scope="module")
def sampler(emulator: EmulatorServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QpuSampler]:
    settings = QpuSettings(
        endpoint=emulator.endpoint,
        token="any",
        state_dir=tmp_path_factory.mktemp("qpu"),
        calibration_reads=3000,
        max_copies=2,
    )
    with QpuSampler(settings) as built:
        yield built


def chi_squared_excess(law: ExactLaw, spins: np.ndarray) -> float:
    """Chi-squared of the states drawn, rare ones pooled, in standard deviations above its expectation.

    The tail of a chi-squared with many degrees of freedom is heavier than a normal one: 6 of these standard deviations
    are passed with a probability below ``FALSE_ALARM`` from 20 degrees of freedom on.
    """
    counts = np.bincount(law.index_of(spins), minlength=law.probabilities.size).astype(float)
    expected = law.probabilities * len(spins)
    order = np.argsort(-expected)
    counts, expected = counts[order], expected[order]
    common = int((expected >= 8).sum())
    counts = np.append(counts[:common], counts[common:].sum())
    expected = np.append(expected[:common], expected[common:].sum())
    freedom = len(counts) - 1
    assert freedom >= 20
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize(
    "options", [{}, {"gauges": 4}, {"condition_mode": "flux_bias"}], ids=["fold", "gauges", "flux"]
)
def test_draws_follow_the_law_of_every_condition(
    emulator: EmulatorServer, sampler: QpuSampler, enumerate_law: LawMaker, options: dict[str, object]
) -> None:
    machine = small_machine(emulator.config.topology.split(":")[0])
    levels = np.array([[1, 1, -1, 1], [-1, 1, -1, -1]], dtype=np.int8)
    picks = np.arange(2 * ROWS) % 2
    batch = sampler.sample(request_of(machine, levels[picks], refine_sweeps=8, **options))
    assert batch.provenance.missing_qubits == 0
    for level in (0, 1):
        law = enumerate_law(machine, levels[level])
        assert chi_squared_excess(law, batch.spins[picks == level]) < 6
        # The other condition's law must be told apart by this test, or conditions could be mixed up unseen.
        swapped = batch.spins[picks != level].copy()
        swapped[:, machine.condition_nodes] = levels[level]
        assert chi_squared_excess(law, swapped) > 20


def test_the_raw_draw_has_the_energy_of_the_law_without_refinement(
    emulator: EmulatorServer, sampler: QpuSampler, enumerate_law: LawMaker
) -> None:
    machine = small_machine(emulator.config.topology.split(":")[0])
    level = np.array([1, -1, -1, 1], dtype=np.int8)
    batch = sampler.sample(request_of(machine, np.tile(level, (ROWS, 1)), refine_sweeps=0))
    law = enumerate_law(machine, level)
    mean = law.mean(law.energies)
    variance = law.mean(law.energies**2) - mean**2
    # d<E>/dr = −Var(E), and beta_eff is known to about one percent; five standard deviations of both.
    (calibration,) = [one for one in operations.calibrations(sampler.access) if one.graph_id == emulator.graph_id][:1]
    slack = 5 * np.sqrt(variance / ROWS + (variance * calibration.beta_error / calibration.beta) ** 2)
    assert abs(batch.energies.mean() - mean) < slack
    assert slack < 0.1 * np.sqrt(variance) * 3


def test_holes_are_filled_so_that_the_law_holds_after_refinement(enumerate_law: LawMaker, tmp_path: Path) -> None:
    machine = small_machine("zephyr", 6)
    level = np.array([1, 1, -1, -1], dtype=np.int8)
    law = enumerate_law(machine, level)
    excess = {}
    config = EmulatorConfig(topology="zephyr:1", defects=0.2, beta=BETA, seed=11, sweeps=96)
    settings_of = {"token": "any", "state_dir": tmp_path, "max_missing_fraction": 0.5, "calibration_reads": 2000}
    with (
        EmulatorServer(config) as server,
        QpuSampler(QpuSettings(endpoint=server.endpoint, **settings_of)) as sampler,  # type: ignore[arg-type]
    ):
        for sweeps in (0, 64):
            batch = sampler.sample(request_of(machine, np.tile(level, (ROWS, 1)), refine_sweeps=sweeps))
            assert batch.provenance.missing_qubits
            excess[sweeps] = chi_squared_excess(law, batch.spins)
    assert excess[64] < 6
    assert excess[0] > excess[64]


@pytest.mark.parametrize("beta", [1.6, 6.5])
def test_calibration_recovers_the_hidden_beta(beta: float, tmp_path: Path) -> None:
    machine = small_machine("zephyr", 2)
    rng = np.random.default_rng(0)
    conditions = rng.choice(np.array([-1, 1], dtype=np.int8), size=(5, 4))
    with (
        EmulatorServer(EmulatorConfig(topology="zephyr:3", defects=0.02, beta=beta, seed=8, sweeps=96)) as server,
        QpuSampler(
            QpuSettings(endpoint=server.endpoint, token="any", state_dir=tmp_path, calibration_reads=3000)
        ) as sampler,
    ):
        calibration = operations.calibrate(sampler.access, machine, conditions)
        assert operations.calibrations(sampler.access) == (calibration,)
        assert calibration.methods_agree
        # Five standard errors: a false alarm in two million, for each of the two methods.
        assert abs(calibration.beta - beta) < 5 * calibration.beta_error
        assert abs(calibration.beta_pseudolikelihood - beta) < 5 * calibration.beta_pseudolikelihood_error
        assert calibration.beta_error < 0.03 * beta
        longer = operations.calibrate(sampler.access, machine, conditions, SamplerOptions(annealing_time_us=200.0))
        assert longer.beta > calibration.beta
        assert len(operations.calibrations(sampler.access)) == 2


def test_a_drift_is_noticed_and_a_new_calibration_ends_it(tmp_path: Path) -> None:
    machine = small_machine("zephyr", 2)
    level = np.array([1, 1, -1, -1], dtype=np.int8)
    config = EmulatorConfig(topology="zephyr:2", defects=0.0, beta=4.0, beta_drift_per_problem=0.05, sweeps=96)
    # Few gauges: the solver drifts with each problem, those of the calibration too.
    settings_of = {"state_dir": tmp_path, "recalibrate_on_drift": True, "calibration_gauges": 4}
    with (
        EmulatorServer(config) as server,
        QpuSampler(QpuSettings(endpoint=server.endpoint, token="any", **settings_of)) as sampler,  # type: ignore[arg-type]
    ):
        request = request_of(machine, np.tile(level, (2000, 1)))
        first = sampler.sample(request).provenance
        notes = list(first.notes)
        for _ in range(10):
            provenance = sampler.sample(request).provenance
            notes += provenance.notes
            if provenance.beta_calibrated_at != first.beta_calibrated_at or provenance.beta != first.beta:
                break
        assert any("drift" in note for note in notes)
        assert provenance.beta is not None
        assert first.beta is not None
        assert provenance.beta > 1.05 * first.beta
