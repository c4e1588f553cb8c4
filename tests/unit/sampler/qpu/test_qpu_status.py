"""What users and a background task are told of a QPU, from the same typed status."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from qshower.sampler.qpu.calibration.calibrator import CalibrationStatus
from qshower.sampler.qpu.ocean.circuit_breaker import CircuitStatus
from qshower.sampler.qpu.qpu_status import QpuStatus, SolverStatus
from qshower.sampler.qpu.quota import QuotaStatus

CALIBRATION = CalibrationStatus("chip", 4.4, 0.01, "2026-07-01T12:00:00+00:00", 60.0, False, None, False)
CLOSED = CircuitStatus("closed", 0, None, None)
BUDGET = QuotaStatus(1.0, None, None, None, 0)


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({}, False),
        ({"age_s": 601.0}, True),
        ({"drift": -0.1}, True),
        ({"drift": -0.1, "drift_pause": True}, False),
        ({"drift": -0.1, "drift_pause": True, "age_s": 601.0}, True),
    ],
)
def test_a_calibration_is_due_once_it_is_old_or_drifts(changes: dict[str, object], due: bool) -> None:
    assert replace(CALIBRATION, **changes).due(600.0) == due  # type: ignore[arg-type]


def test_a_stale_or_drifting_calibration_does_not_hold() -> None:
    assert CALIBRATION.holds
    assert not replace(CALIBRATION, stale=True).holds
    assert not replace(CALIBRATION, drift=0.06).holds


def test_users_see_of_a_status_what_is_known() -> None:
    known = QpuStatus(CLOSED, BUDGET, SolverStatus("chip", "g1", 3, 2, 4), CALIBRATION)
    shown = known.detail()
    assert json.loads(json.dumps(shown)) == shown
    assert (shown["solver"], shown["copies"], shown["shim"], shown["calibration"]["beta"]) == ("chip", 4, None, 4.4)
    assert known.available
    assert "retry_after_s" not in shown
    unknown = QpuStatus(CLOSED, reason="no solver is online", retry_after_s=30.0)
    assert not unknown.available
    assert unknown.detail().keys() == {"circuit", "retry_after_s"}
