from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sampler.errors import SamplerUnavailableError
from sampler.qpu.calibration import Calibration, CalibrationStore
from sampler.qpu.temperature import Estimate, combined, energy_scale, pseudolikelihood_scale

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


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"beta": 1.77}}', '{"a": 1.77}'])
def test_a_file_that_is_no_store_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibrations.json"
    path.write_text(text)
    with pytest.raises(SamplerUnavailableError, match=r"calibrations\.json is not as this program wrote it") as caught:
        CalibrationStore(path).all()
    assert "1.77" not in str(caught.value)


def test_a_calibration_may_hold_more_than_this_version_knows(tmp_path: Path) -> None:
    path = tmp_path / "calibrations.json"
    path.write_text(json.dumps({str(CALIBRATION.key): asdict(CALIBRATION) | {"of_a_later_version": [1]}}))
    assert CalibrationStore(path).get(CALIBRATION.key) == CALIBRATION


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_a_calibration_without_a_temperature_is_refused(tmp_path: Path, beta: float) -> None:
    store = CalibrationStore(tmp_path / "calibrations.json")
    store.put(replace(CALIBRATION, beta=beta))
    with pytest.raises(SamplerUnavailableError, match="no beta above 0"):
        store.get(CALIBRATION.key)


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


def test_the_better_of_two_estimates_weighs_more() -> None:
    both = combined(Estimate(4.0, 0.01), Estimate(4.1, 0.03))
    assert both.value == pytest.approx(4.01)
    # The largest error that their correlation allows, never above the worse one's.
    assert both.error == pytest.approx(0.9 * 0.01 + 0.1 * 0.03)
    assert combined(Estimate(4.0, 0.02), Estimate(4.2, 0.02)) == Estimate(pytest.approx(4.1), pytest.approx(0.02))


def test_an_error_over_programmings_holds_what_they_differ_by() -> None:
    """Each block of reads at a temperature of its own: 10 % apart, which resampling reads would not see."""
    rng = np.random.default_rng(5)
    fields = rng.normal(0, 0.5, 60)
    scales = rng.normal(1.0, 0.1, 40)
    blocks = np.repeat(np.arange(40), 100)
    up = rng.random((4000, 60)) < 1 / (1 + np.exp(2 * scales[blocks, None] * fields))
    spins = np.where(up, 1.0, -1.0)
    pulls = -2.0 * spins * fields
    blind, seeing = pseudolikelihood_scale(pulls, rng), pseudolikelihood_scale(pulls, rng, blocks)
    assert seeing.value == pytest.approx(blind.value)
    # 0.1/sqrt(40) = 0.016 from the blocks beside the reads' own; their bootstrap is good to about 15 %.
    assert seeing.error > 1.5 * blind.error
    assert 0.010 < seeing.error < 0.026
    # Too few programmings to tell: the reads are resampled.
    few = pseudolikelihood_scale(pulls[:400], rng, blocks[:400])
    assert few.error == pytest.approx(pseudolikelihood_scale(pulls[:400], rng).error, rel=0.5)

    energies = (spins @ fields)[None]
    chain_up = rng.random((1, 20_000, 60)) < 1 / (1 + np.exp(2 * fields))
    chains = np.where(chain_up, 1.0, -1.0) @ fields
    plain = energy_scale(energies, lambda _: chains, 1.0, rng, rounds=1)
    blocked = energy_scale(energies, lambda _: chains, 1.0, rng, rounds=1, blocks=blocks)
    assert blocked.error > 1.3 * plain.error
