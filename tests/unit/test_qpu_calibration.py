from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sampler.errors import InvalidInputError
from sampler.qpu.calibration import Calibration, CalibrationStore
from sampler.qpu.temperature import energy_scale, pseudolikelihood_scale

CALIBRATION = Calibration(
    solver="Z",
    graph_id="g1",
    machine="m",
    annealing_time_us=20.0,
    beta=4.0,
    beta_error=0.02,
    beta_pseudolikelihood=4.02,
    beta_pseudolikelihood_error=0.02,
    reads=1000,
    calibrated_at="2026-07-01T12:00:00+00:00",
)


def test_calibrations_are_kept_by_all_that_they_belong_to(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path / "state" / "calibrations.json")
    assert store.get(CALIBRATION.key) is None
    store.put(CALIBRATION)
    for change in ({"solver": "P"}, {"graph_id": "g2"}, {"machine": "n"}, {"annealing_time_us": 40.0}):
        other = replace(CALIBRATION, **change)
        assert store.get(other.key) is None
        store.put(replace(other, beta=5.0))
    again = CalibrationStore(tmp_path / "state" / "calibrations.json")
    assert again.get(CALIBRATION.key) == CALIBRATION
    assert len(again.all()) == 5
    again.put(replace(CALIBRATION, beta=4.5))
    assert store.get(CALIBRATION.key) == replace(CALIBRATION, beta=4.5)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"beta": 1}}', '{"a": 3}'])
def test_a_file_that_is_no_store_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibrations.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=r"calibrations\.json"):
        CalibrationStore(path).all()


def test_age_and_agreement() -> None:
    assert CALIBRATION.age_s(datetime(2026, 7, 2, 12, tzinfo=UTC)) == 86400
    assert CALIBRATION.methods_agree
    assert not replace(CALIBRATION, beta_pseudolikelihood=4.5).methods_agree
    assert replace(CALIBRATION, beta_pseudolikelihood=4.5, beta_error=0.2).methods_agree


@pytest.mark.parametrize("r", [0.3, 1.0, 2.5])
def test_pseudolikelihood_of_independent_spins(r: float) -> None:
    """Spins without couplings: the pseudolikelihood is the likelihood, and its error the Fisher error."""
    rng = np.random.default_rng(7)
    fields = rng.normal(0, 0.5, 80)
    up = rng.random((3000, 80)) < 1 / (1 + np.exp(2 * r * fields))
    spins = np.where(up, 1.0, -1.0)
    estimate = pseudolikelihood_scale(-2.0 * spins * fields, rng)
    fisher = 1 / np.sqrt(3000 * (fields**2 / np.cosh(r * fields) ** 2).sum())
    # Five standard errors: a false alarm in two million.
    assert abs(estimate.value - r) < 5 * fisher
    assert 0.7 < estimate.error / fisher < 1.4


@pytest.mark.parametrize("r", [0.5, 1.8])
def test_energy_matching_of_independent_spins(r: float) -> None:
    rng = np.random.default_rng(11)
    fields = rng.normal(0, 0.5, (2, 60))

    def chains(scale: float, rows: int = 4000) -> np.ndarray:
        up = rng.random((2, rows, 60)) < 1 / (1 + np.exp(2 * scale * fields[:, None]))
        return np.einsum("crn,cn->cr", np.where(up, 1.0, -1.0), fields)

    estimate = energy_scale(chains(r), chains, 1.0, rng, rounds=6)
    assert abs(estimate.value - r) < 5 * estimate.error
    assert 0 < estimate.error < 0.05 * r
