from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.qpu.calibration.estimators import (
    Blocks,
    Scale,
    combined,
    energy_scale,
    pseudolikelihood_scale,
)
from qshower.sampler.qpu.calibration.scale import Calibration, CalibrationStore

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
    estimate = pseudolikelihood_scale(-2.0 * spins * fields, Blocks.of([np.arange(3000)]))
    fisher = 1 / np.sqrt(3000 * (fields**2 / np.cosh(r * fields) ** 2).sum())
    # Five standard errors: a false alarm in two million.
    assert abs(estimate.value - r) < 5 * fisher
    assert 0.9 < estimate.error / fisher < 1.1


@pytest.mark.parametrize("r", [0.5, 1.8])
def test_energy_matching_of_independent_spins(r: float) -> None:
    rng = np.random.default_rng(11)
    fields = rng.normal(0, 0.5, (2, 60))

    def chains(scale: float, rows: int = 4000) -> np.ndarray:
        up = rng.random((2, rows, 60)) < 1 / (1 + np.exp(2 * scale * fields[:, None]))
        return np.einsum("crn,cn->cr", np.where(up, 1.0, -1.0), fields)

    estimate = energy_scale(chains(r), chains, 1.0, Blocks.of([np.arange(4000)] * 2), rounds=6)
    assert abs(estimate.value - r) < 5 * estimate.error
    assert 0 < estimate.error < 0.05 * r


def test_the_better_of_two_estimates_weighs_more() -> None:
    blocks = Blocks.of([np.arange(2)])
    # Two blocks that move a value by ±a have the variance 4 a².
    one, other = Scale(4.0, blocks, np.array([0.5, -0.5]) * 0.01), Scale(4.1, blocks, np.array([0.5, -0.5]) * 0.03)
    assert (one.error, other.error) == (pytest.approx(0.01), pytest.approx(0.03))
    both = combined(one, other)
    assert both.value == pytest.approx(4.01)
    # The same reads have moved both: errors add up, but for those in opposite directions, and for the chains'.
    assert both.error == pytest.approx(0.9 * 0.01 + 0.1 * 0.03)
    opposed = combined(one, Scale(4.1, blocks, -other.moves))
    assert opposed.error == pytest.approx(0.9 * 0.01 - 0.1 * 0.03)
    chains = combined(one, Scale(4.1, blocks, np.zeros(2), apart=0.03))
    assert chains.error == pytest.approx(np.hypot(0.9 * 0.01, 0.1 * 0.03))


def scattered(copies: int, blocks: int, reads: int, spread: float, seed: int) -> tuple[np.ndarray, Blocks, np.ndarray]:
    """Pulls and energies of independent spins, each block of each copy at a scale of its own around 1."""
    rng = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(blocks), reads)
    pulls, energies = [], []
    for _ in range(copies):
        fields = rng.normal(0, 0.5, 60)
        scales = rng.normal(1.0, spread, blocks)
        up = rng.random((numbers.size, 60)) < 1 / (1 + np.exp(2 * scales[numbers, None] * fields))
        spins = np.where(up, 1.0, -1.0)
        pulls.append(-2.0 * spins * fields)
        energies.append(spins @ fields)
    return np.concatenate(pulls), Blocks.of([numbers] * copies), np.stack(energies)


def test_an_error_over_programmings_holds_what_they_differ_by() -> None:
    """Each block of reads at a temperature of its own: 10 % apart, which single reads do not show."""
    pulls, blocks, energies = scattered(1, 40, 100, 0.1, 5)
    blind = pseudolikelihood_scale(pulls, Blocks.of([np.arange(4000)]))
    seeing = pseudolikelihood_scale(pulls, blocks)
    assert seeing.value == pytest.approx(blind.value)
    # 0.1/sqrt(40) = 0.016 from the blocks beside the reads' own; 40 blocks tell that to 11 %.
    assert seeing.error > 1.5 * blind.error
    assert 0.011 < seeing.error < 0.024
    chains = energies[:, ::-1]
    plain = energy_scale(energies, lambda _: chains, 1.0, Blocks.of([np.arange(4000)]), rounds=1)
    blocked = energy_scale(energies, lambda _: chains, 1.0, blocks, rounds=1)
    assert blocked.error > 1.3 * plain.error


def test_few_blocks_on_several_copies_tell_the_error_of_both_methods() -> None:
    """Four copies of five blocks: what all copies' blocks say together, not what five means happen to do."""
    found = [scattered(4, 5, 100, 0.1, seed) for seed in range(60)]
    pulled = [pseudolikelihood_scale(pulls, blocks) for pulls, blocks, _ in found]
    errors = np.array([scale.error for scale in pulled])
    scatter = np.std([scale.value for scale in pulled], ddof=1)
    assert pulled[0].blocks.freedom == 16
    # Errors good to 1/sqrt(2·16) = 18 % each, and the scatter of 60 values to 9 %: four standard errors of both.
    assert errors.std(ddof=1) / errors.mean() < 0.26
    assert np.sqrt((errors**2).mean()) / scatter == pytest.approx(1.0, abs=0.4)
    # As many blocks without regard to the copies would hold what copies differ by, which is no error.
    _, blocks, energies = found[0]
    shifted = energies + 50.0 * np.arange(4)[:, None]
    apart = [energy_scale(some, lambda _: energies, 1.0, blocks, rounds=1).error for some in (energies, shifted)]
    assert apart[0] == pytest.approx(apart[1])
