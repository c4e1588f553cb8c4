"""Calibrations that the service renews by itself, and those that others make beside it."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from qshower.model.bundle import find_bundles, load_bundle
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.quota import Quota
from qshower.sampler.request import LatentRequest
from qshower.service.app import create_app
from qshower.service.background.recalibration import Recalibration, calibration_conditions
from qshower.service.catalogue import Catalogue
from qshower.service.cli import app
from qshower.service.service_errors import SettingsError
from qshower.service.settings import load_settings
from tests.polling import until

DAY_S = 86400.0
FIRST_PAUSE_S = 60.0


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def catalogue(untrained_bundles: Path) -> Catalogue:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    return Catalogue(bundles, "test-zephyr")


@pytest.fixture
def emulator() -> Iterator[EmulatorServer]:
    with EmulatorServer(EmulatorConfig(topology="zephyr:6", defects=0.0, sweeps=16, seed=5)) as server:
        yield server


@pytest.fixture
def qpu_of(emulator: EmulatorServer, tmp_path: Path) -> Iterator[Callable[..., QpuSampler]]:
    """Makes a sampler; all of them share one state folder."""
    opened: list[QpuSampler] = []

    def make(**values: Any) -> QpuSampler:
        quick: dict[str, Any] = {"calibration_reads": 200, "availability_ttl_s": 0.0, "request_timeout_s": 5.0}
        settings = QpuSettings(endpoint=emulator.endpoint, token="any", state_dir=tmp_path, **quick, **values)
        opened.append(QpuSampler(settings))
        return opened[-1]

    yield make
    for qpu in opened:
        qpu.close()


def aged(folder: Path, seconds: float) -> None:
    """Make every calibration of ``folder`` older."""
    path = folder / "calibrations.json"
    entries = json.loads(path.read_text())
    for entry in entries.values():
        at = np.datetime64(entry["calibrated_at"].replace("+00:00", "")) - np.timedelta64(int(seconds), "s")
        entry["calibrated_at"] = f"{at}+00:00"
    path.write_text(json.dumps(entries))


def test_the_first_model_without_a_calibration_gets_one(
    qpu_of: Callable[..., QpuSampler], catalogue: Catalogue, clock: Clock
) -> None:
    qpu = qpu_of()
    recalibration = Recalibration(qpu, catalogue, DAY_S, clock)
    assert recalibration.task.check() == "test-zephyr"
    assert len(operations.calibrations(qpu.access)) == 1
    assert recalibration.task.check() is None
    status = recalibration.status()
    assert (status["done"], status["failed"], status["last_error"], status["running"]) == (1, 0, None, None)
    assert status["last_done_at"]
    # A draw finds it, and pays for none.
    bundle = catalogue.get(None)
    request = LatentRequest(bundle.machine, calibration_conditions(bundle), np.zeros((8, 2), dtype=np.uint64))
    assert not any("measured" in note for note in qpu.sample(request).provenance.notes)


def test_an_old_calibration_is_renewed(
    qpu_of: Callable[..., QpuSampler], catalogue: Catalogue, clock: Clock, tmp_path: Path
) -> None:
    qpu = qpu_of()
    recalibration = Recalibration(qpu, catalogue, DAY_S, clock)
    recalibration.task.check()
    (first,) = operations.calibrations(qpu.access)
    aged(tmp_path, 0.9 * DAY_S)
    assert recalibration.task.check() is None
    aged(tmp_path, 0.2 * DAY_S)
    assert recalibration.task.check() == "test-zephyr"
    (second,) = operations.calibrations(qpu.access)
    assert second.beta != first.beta
    assert recalibration.task.check() is None


def test_a_drift_is_followed(qpu_of: Callable[..., QpuSampler], catalogue: Catalogue, clock: Clock) -> None:
    qpu = qpu_of()
    recalibration = Recalibration(qpu, catalogue, DAY_S, clock)
    recalibration.task.check()
    (kept,) = operations.calibrations(qpu.access)
    # As if the solver had been a third colder when it was calibrated.
    store = qpu.access.calibrator.store
    store.put(replace(kept, beta=1.5 * kept.beta, beta_pseudolikelihood=1.5 * kept.beta_pseudolikelihood))
    bundle = catalogue.get(None)
    conditions = np.repeat(calibration_conditions(bundle), 50, axis=0)
    request = LatentRequest(bundle.machine, conditions, np.zeros((len(conditions), 2), dtype=np.uint64))
    assert any(note.startswith("drift") for note in qpu.sample(request).provenance.notes)
    assert qpu.availability(bundle.machine).detail["calibration"]["drift"] < -0.1
    assert recalibration.task.check() == "test-zephyr"
    assert qpu.availability(bundle.machine).detail["calibration"]["drift"] is None
    assert operations.calibrations(qpu.access)[0].beta == pytest.approx(kept.beta, rel=0.2)


def test_a_failure_changes_nothing_and_is_tried_again_later(
    qpu_of: Callable[..., QpuSampler], catalogue: Catalogue, clock: Clock, emulator: EmulatorServer, tmp_path: Path
) -> None:
    qpu = qpu_of(breaker_failures=1)
    recalibration = Recalibration(qpu, catalogue, DAY_S, clock)
    recalibration.task.check()
    (kept,) = operations.calibrations(qpu.access)
    aged(tmp_path, 2 * DAY_S)
    emulator.arm("problem_failed")
    pause_s, clock.now = FIRST_PAUSE_S, 1.0
    for failures in (1, 2):
        before = emulator.backend.state()["submitted"]
        assert recalibration.task.check() is None
        status = recalibration.status()
        assert (status["done"], status["failed"]) == (1, failures)
        assert "failed the problem" in status["last_error"]
        assert emulator.backend.state()["submitted"] > before
        # Too early: nothing is asked.
        clock.now += 0.9 * pause_s
        before = emulator.backend.state()["submitted"]
        assert recalibration.task.check() is None
        assert emulator.backend.state()["submitted"] == before
        clock.now += 0.2 * pause_s
        pause_s *= 2
    emulator.faults.clear()
    # One failure would have opened the circuit, had the breaker heard of it; and the old calibration is in use.
    bundle = catalogue.get(None)
    request = LatentRequest(bundle.machine, calibration_conditions(bundle), np.zeros((8, 2), dtype=np.uint64))
    assert qpu.sample(request).provenance.beta == kept.beta
    assert recalibration.task.check() == "test-zephyr"
    assert recalibration.status()["last_error"] is None


def test_budgets_hold(
    qpu_of: Callable[..., QpuSampler], catalogue: Catalogue, clock: Clock, emulator: EmulatorServer
) -> None:
    bundle = catalogue.get(None)
    price = operations.estimate_calibration(
        qpu_of().access, bundle.machine, calibration_conditions(bundle)
    ).access_time_us
    recalibration = Recalibration(qpu_of(daily_budget_us=0.9 * price), catalogue, DAY_S, clock)
    assert recalibration.task.check() is None
    assert emulator.backend.state()["submitted"] == 0
    assert recalibration.status()["last_error"].startswith("BudgetExceededError")
    assert recalibration.status()["next_attempt_in_s"] >= FIRST_PAUSE_S
    within = qpu_of(daily_budget_us=1.1 * price)
    assert Recalibration(within, catalogue, DAY_S, clock).task.check() == "test-zephyr"
    used = within.monitor.figures([]).billed_us
    assert used == pytest.approx(price, rel=0.1)


def test_an_open_circuit_is_left_alone(
    qpu_of: Callable[..., QpuSampler], catalogue: Catalogue, clock: Clock, emulator: EmulatorServer
) -> None:
    qpu = qpu_of(breaker_failures=1, breaker_cooldown_s=3600.0)
    bundle = catalogue.get(None)
    emulator.arm("problem_failed:1")
    with pytest.raises(Exception, match="failed the problem"):
        operations.calibrate(qpu.access, bundle.machine, calibration_conditions(bundle))
    before = emulator.backend.state()["submitted"]
    recalibration = Recalibration(qpu, catalogue, DAY_S, clock)
    assert recalibration.task.check() is None
    assert emulator.backend.state()["submitted"] == before
    assert recalibration.status()["failed"] == 0


def test_the_service_calibrates_when_it_starts(
    emulator: EmulatorServer, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
    monkeypatch.setenv("DWAVE_API_TOKEN", "any")
    settings = load_settings(qpu_state_folder=tmp_path, qpu_recalibrate_s=DAY_S)
    with TestClient(create_app(settings, load_models=lambda _: catalogue)) as client:

        def of_qpu() -> dict[str, Any]:
            states = {state["name"]: state for state in client.get("/samplers").json()["samplers"]}
            detail: dict[str, Any] = states["qpu"]["detail"]
            return detail

        until(lambda: of_qpu()["recalibration"]["done"])
        detail = of_qpu()
        assert detail["recalibration"]["every_s"] == DAY_S
        assert detail["calibration"]["age_s"] < DAY_S
        body = {"incident_energies_mev": [1000], "sampler": "qpu"}
        provenance = client.post("/generate", json=body).json()["provenance"]
        assert provenance["beta"] == detail["calibration"]["beta"]
        assert provenance["notes"] == []
    # Unless told to, a service spends nothing by itself.
    submitted = emulator.backend.state()["submitted"]
    aged(tmp_path, 3 * DAY_S)
    with TestClient(create_app(load_settings(qpu_state_folder=tmp_path), load_models=lambda _: catalogue)) as client:
        assert "recalibration" not in client.get("/samplers").text
    assert emulator.backend.state()["submitted"] == submitted


def test_a_running_service_takes_up_a_calibration_of_the_command_line(
    emulator: EmulatorServer,
    catalogue: Catalogue,
    untrained_bundles: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("DWAVE_API_SOLVER", "DWAVE_PROFILE", "DWAVE_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
    monkeypatch.setenv("DWAVE_API_TOKEN", "any")
    monkeypatch.setenv("QSHOWER_QPU_STATE_FOLDER", str(tmp_path))
    monkeypatch.setenv("QSHOWER_MODEL_FOLDER", str(untrained_bundles))
    monkeypatch.setenv("QSHOWER_DEFAULT_MODEL", "test-zephyr")
    command = ["calibrate", "--sampler", "qpu"]

    def shown(*more: str) -> dict[str, str]:
        done = CliRunner().invoke(app, [*command, *more])
        assert done.exit_code == 0, done.output
        return dict(re.findall(r"^│ *(\S.*?) *│ *(\S.*?) *│$", done.output, re.MULTILINE))

    monkeypatch.setenv("QSHOWER_QPU_CALIBRATION_GAUGES", "4")
    assert shown("--dry-run")["problems"] == "5", "one to begin with, and one for each gauge"
    monkeypatch.delenv("QSHOWER_QPU_CALIBRATION_GAUGES")
    dry = shown("--dry-run")
    assert (dry["model"], dry["solver"]) == ("test-zephyr", emulator.solver_name)
    assert emulator.backend.state()["submitted"] == 0
    body = {"incident_energies_mev": [1000], "sampler": "qpu", "seed": 1}
    with TestClient(create_app(load_settings(), load_models=lambda _: catalogue)) as client:
        before = client.post("/generate", json=body).json()["provenance"]
        submitted = emulator.backend.state()["submitted"]
        used = Quota(tmp_path / "qpu_budget.json", None, None).status().used_today_us
        table = shown()
        assert emulator.backend.state()["submitted"] - submitted == int(dry["problems"])
        took_us = Quota(tmp_path / "qpu_budget.json", None, None).status().used_today_us - used
        assert took_us / 1000 == pytest.approx(float(dry["access time"].removesuffix(" ms")), rel=0.1)
        found = json.loads((tmp_path / "calibrations.json").read_text()).popitem()[1]
        for row, field in (
            ("beta", "beta"),
            ("by energies", "beta_energies"),
            ("by pseudolikelihood", "beta_pseudolikelihood"),
        ):
            assert table[row].startswith(f"{found[field]:.4f} ± {found[field + '_error']:.4f}")
        after = client.post("/generate", json=body).json()["provenance"]
        assert after["beta"] == found["beta"] != before["beta"]
        assert after["beta_calibrated_at"] == found["calibrated_at"]
        assert not any("measured" in note for note in after["notes"])
    refused = CliRunner().invoke(app, ["calibrate", "--sampler", "gibbs", "--dry-run"])
    assert isinstance(refused.exception, InvalidInputError)


def test_the_command_line_calibrates_for_the_topology_that_is_there(
    untrained_bundles: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with EmulatorServer(EmulatorConfig(topology="pegasus:16", defects=0.0, sweeps=16)) as emulator:
        monkeypatch.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
        monkeypatch.setenv("DWAVE_API_TOKEN", "any")
        monkeypatch.setenv("QSHOWER_QPU_STATE_FOLDER", str(tmp_path))
        monkeypatch.setenv("QSHOWER_MODEL_FOLDER", str(untrained_bundles))
        monkeypatch.setenv("QSHOWER_DEFAULT_MODEL", "test-zephyr")
        done = CliRunner().invoke(app, ["calibrate", "--sampler", "qpu", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert emulator.solver_name in done.output
    assert "pegasus" in done.output


def test_an_interval_that_would_calibrate_all_the_time_is_refused() -> None:
    with pytest.raises(SettingsError, match="every calibration is billed"):
        load_settings(qpu_recalibrate_s=10.0)
