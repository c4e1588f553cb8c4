"""What draws say of the temperature they were drawn at: stale, inconsistent or drifting calibrations, false alarms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.provenance import Provenance
from qshower.sampler.qpu.calibration.calibrator import DRIFT_PAUSE_S
from qshower.sampler.qpu.calibration.scale import Calibration, CalibrationStore
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

BETA = 4.0


def machine_of(per_partition: int = 12, field: float = 0.4) -> BoltzmannMachine:
    """Weakly coupled, as trained machines are."""
    rng = np.random.default_rng(3)
    lattice = compact_lattice("zephyr", per_partition, chip_size=3)
    h, j = rng.normal(0, field, lattice.node_count), rng.normal(0, 0.02, len(lattice.edges))
    return lattice.with_parameters(h.astype(np.float32), j.astype(np.float32))


def request_of(machine: BoltzmannMachine, rows: int, levels: int = 1, **options: object) -> LatentRequest:
    rng = np.random.default_rng(4)
    conditions = rng.choice(np.array([-1, 1], dtype=np.int8), size=(levels, machine.condition_nodes.size))
    streams = streams_of(3, rows)
    return LatentRequest(machine, conditions[np.arange(rows) % levels], streams, SamplerOptions(**options), 120.0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorServer]:
    with EmulatorServer(EmulatorConfig(topology="zephyr:3", defects=0.0, beta=BETA, seed=2, sweeps=64)) as server:
        yield server


@pytest.fixture
def make_sampler(emulator: EmulatorServer, tmp_path: Path) -> Iterator[Callable[..., QpuSampler]]:
    made: list[QpuSampler] = []

    def make(**changes: object) -> QpuSampler:
        made.append(QpuSampler(QpuSettings(endpoint=emulator.endpoint, token="any", state_dir=tmp_path, **changes)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for sampler in made:
        sampler.close()


@pytest.fixture
def edit(tmp_path: Path) -> Callable[..., Calibration]:
    """Change what the state folder's one calibration says, as time or a fault might have."""

    def change(**values: object) -> Calibration:
        store = CalibrationStore(tmp_path / "calibrations.json")
        (kept,) = store.all()
        store.put(replace(kept, **values))  # type: ignore[arg-type]
        return kept

    return change


def ago(**passed: float) -> str:
    return (datetime.now(UTC) - timedelta(**passed)).isoformat(timespec="seconds")


def starting(provenance: Provenance, start: str) -> list[str]:
    return [note for note in provenance.notes if note.startswith(start)]


def test_a_draw_says_that_its_calibration_is_stale(
    make_sampler: Callable[..., QpuSampler], edit: Callable[..., Calibration]
) -> None:
    machine = machine_of()
    sampler = make_sampler()
    sampler.sample(request_of(machine, 50))
    assert sampler.sample(request_of(machine, 50)).provenance.notes == ()
    at = ago(days=8)
    edit(calibrated_at=at)
    provenance = sampler.sample(request_of(machine, 50)).provenance
    assert provenance.notes == ("stale calibration: beta_eff was measured 8.0 days ago",)
    assert provenance.beta_calibrated_at == at
    assert sampler.availability(machine).detail["calibration"]["stale"]
    assert make_sampler(calibration_max_age_s=9 * 86400.0).sample(request_of(machine, 50)).provenance.notes == ()


def test_a_draw_says_that_its_calibrations_two_methods_disagree(
    make_sampler: Callable[..., QpuSampler], edit: Callable[..., Calibration]
) -> None:
    machine = machine_of()
    sampler = make_sampler()
    sampler.sample(request_of(machine, 50))
    kept = edit()
    edit(beta_energies=0.9 * kept.beta_pseudolikelihood, beta_energies_error=0.01 * kept.beta)
    assert sampler.sample(request_of(machine, 50)).provenance.notes == (
        f"the two estimates of beta_eff disagree: {0.9 * kept.beta_pseudolikelihood:.3f} by energies, "
        f"{kept.beta_pseudolikelihood:.3f} by pseudolikelihood",
    )
    # As far apart, and both too uncertain to tell.
    edit(beta_energies_error=0.05 * kept.beta)
    assert sampler.sample(request_of(machine, 50)).provenance.notes == ()


def test_a_drift_that_will_not_end_costs_one_calibration_an_hour(
    make_sampler: Callable[..., QpuSampler], edit: Callable[..., Calibration]
) -> None:
    """A calibration that all draws contradict, again and again, as a false alarm would."""
    machine = machine_of(field=0.8)
    sampler = make_sampler(recalibrate_on_drift=True)
    request = request_of(machine, 400)

    def spoilt() -> Provenance:
        """A draw after the calibration was made 30 % too high."""
        kept = edit()
        wrong = 1.3 * BETA
        edit(beta=wrong, beta_pseudolikelihood=wrong, beta_energies=wrong, calibrated_at=ago(seconds=20))
        assert kept.beta == pytest.approx(BETA, rel=0.1)
        return sampler.sample(request).provenance

    sampler.sample(request)
    assert starting(spoilt(), "drift: the solver looks -")
    measured = sampler.sample(request).provenance
    assert starting(measured, "beta_eff was measured with this draw")
    assert edit().after_drift
    assert not starting(measured, "drift")

    # It was made because of a drift, and there is one again: noted, and no reason to measure.
    for number in range(3):
        again = spoilt() if number == 0 else sampler.sample(request).provenance
        assert starting(again, "drift: the solver looks -")
        assert starting(again, "beta_eff was not measured again: a drift has had it measured 0 minutes ago")
        assert not starting(again, "beta_eff was measured with this draw")
        assert sampler.estimate(request).calibration_us == 0
        detail = make_sampler().availability(machine).detail["calibration"]
        assert detail["drift_pause"]
    assert again.beta == 1.3 * BETA

    edit(calibrated_at=ago(seconds=DRIFT_PAUSE_S + 60))
    assert not make_sampler().availability(machine).detail["calibration"]["drift_pause"]
    assert starting(sampler.sample(request).provenance, "drift")
    assert sampler.estimate(request).calibration_us > 0
    later = sampler.sample(request).provenance
    assert starting(later, "beta_eff was measured with this draw")
    assert later.beta == pytest.approx(BETA, rel=0.1)


CHIPS = 8
DRAWS = 4


def test_control_errors_are_no_drift(tmp_path: Path) -> None:
    """32 draws of one condition, 1200 reads each, on chips with control errors of 3 %: none drifts, and none looks so.

    Each alarm is a false one with a probability of 6e-7 at most. All reads of a draw share errors that make it look
    hotter or colder by ten percent: a drift, in about half the draws, for whoever takes reads for independent.
    """
    machine = machine_of(24, 0.25)
    looked = 0
    for seed in range(CHIPS):
        config = EmulatorConfig(
            topology="zephyr:3",
            defects=0.0,
            beta=7.0,
            control_error_h=0.03,
            control_error_j=0.03,
            seed=100 + seed,
            sweeps=96,
        )
        folder = tmp_path / str(seed)
        with (
            EmulatorServer(config) as server,
            QpuSampler(
                QpuSettings(endpoint=server.endpoint, token="any", state_dir=folder, calibration_gauges=48)
            ) as sampler,
        ):
            for _ in range(DRAWS):
                provenance = sampler.sample(request_of(machine, 1200, refine_sweeps=0)).provenance
                assert not starting(provenance, "drift"), provenance.notes
            # The same reads, taken for independent ones.
            store = CalibrationStore(folder / "calibrations.json")
            (kept,) = store.all()
            assert kept.field_variance > 0.03
            store.put(replace(kept, field_variance=0.0, calibrated_at=ago(hours=1)))
            again = [sampler.sample(request_of(machine, 1200, refine_sweeps=0)).provenance for _ in range(DRAWS)]
            looked += any(starting(provenance, "drift") for provenance in again)
    assert looked >= 2


@pytest.mark.parametrize("change", [-0.1, 0.1])
def test_a_change_of_ten_percent_is_seen_within_some_hundred_reads(change: float, tmp_path: Path) -> None:
    """On a chip with control errors of 1 %, that gets hotter or colder at once; 100 reads a draw, 25 of each level.

    The energies of the machine spread by 6 kT: within 800 reads the change is known to 0.9 %. The emulator draws the
    same errors in the same problems; what differs are the gauges of the calibration, which move β_eff by their errors.
    Five to ten draws show it.
    """
    machine = machine_of(24, 0.9)
    hours = [0.0]
    config = EmulatorConfig(
        topology="zephyr:3",
        defects=0.0,
        beta=BETA,
        control_error_h=0.01,
        control_error_j=0.01,
        beta_drift_per_hour=change,
        seed=9,
        sweeps=64,
    )
    with (
        EmulatorServer(config, clock=lambda: 3600.0 * hours[0]) as server,
        QpuSampler(
            QpuSettings(endpoint=server.endpoint, token="any", state_dir=tmp_path, calibration_gauges=48)
        ) as sampler,
    ):
        request = request_of(machine, 100, levels=4, refine_sweeps=0)
        for _ in range(3):
            assert not starting(sampler.sample(request).provenance, "drift")
        hours[0] = 1.0
        draws = 0
        while not starting(sampler.sample(request).provenance, "drift"):
            draws += 1
            assert draws < 15
        seen = sampler.availability(machine).detail["calibration"]["drift"]
        assert 0.05 <= seen * np.sign(change) < 0.15
