"""Five priors of a bundle: a planted machine that decides the showers is seen, and one that does not is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qshower.evaluation.boosted_auc import paired_scores
from qshower.evaluation.model_card import write_card
from qshower.evaluation.priors import PRIORS, draw_latents
from qshower.evaluation.report import Choices, evaluate
from qshower.model.bundle import Bundle, load_bundle, save_bundle
from qshower.model.manifest import read_manifest
from qshower.model.showers_writer import write_showers
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of
from tests.conftest import ToyShowers

ROWS = 400
SWEEPS = 256


def planted(folder: Path, target: Path, coupling: float) -> Bundle:
    """A copy of a bundle whose free spins are bound in one direction, and whose decoder depends on their sum alone.

    With ``coupling`` the spins of a shower agree, so that the sum is far from 0 to either side; independent bits of the
    same frequencies, near one half, have a sum near 0.
    """
    bundle = load_bundle(folder)
    machine = bundle.machine
    free = (machine.partitions[machine.edges] != 0).all(axis=1)
    machine = machine.with_parameters(np.zeros(machine.node_count), np.where(free, -coupling, 0.0))
    state, bits = bundle.decoder_tensors(), len(machine.free_nodes)
    state["trunk.first.weight"][:, :bits] = 0.2
    for name in ("trunk.layer_code.weight", "profile.response.weight", "profile.hidden.weight"):
        state[name] *= 8
    manifest = read_manifest(folder)[0].model_copy(update={"name": "planted", "sweeps": SWEEPS})
    save_bundle(target, manifest, machine, state)
    return load_bundle(target)


def real_showers(bundle: Bundle, path: Path) -> None:
    """Showers that are the bundle's own: its machine is the truth."""
    rng = np.random.default_rng(5)
    energies = np.exp(rng.uniform(np.log(1.1e3), np.log(9e5), ROWS))
    streams = streams_of(99, ROWS)
    with GibbsSampler() as sampler:
        request = LatentRequest(bundle.machine, bundle.conditions(energies), streams, SamplerOptions(sweeps=SWEEPS))
        spins = sampler.sample(request).spins
    write_showers(path, energies, bundle.decode(spins, energies, streams, bundle.geometry.threshold_mev))


@pytest.mark.timeout(900)
def test_a_machine_that_decides_the_showers_is_seen(untrained_bundles: Path, tmp_path: Path) -> None:
    bundle = planted(untrained_bundles / "test-zephyr", tmp_path / "planted", 0.25)
    real_showers(bundle, tmp_path / "geant4.hdf5")
    lines: list[str] = []
    written = evaluate(
        tmp_path / "geant4.hdf5",
        [],
        tmp_path / "report",
        Choices(quick=True, classifiers=False, bundle=bundle.path),
        announce=lines.append,
    )
    found = written.data["ablation"]
    auc = {key: item["value"] for key, item in found["auc"].items()}
    error = {key: item["error"] for key, item in found["auc"].items()}
    assert abs(auc["machine"] - 0.5) < 5 * error["machine"]
    for key in ("independent", "uncoupled"):
        assert auc[key] > 0.6, key
    assert found["machine_gain"]["value"] > 3 * found["machine_gain"]["error"]
    assert found["coupling_nats"]["value"] > 5
    assert found["mixing"]["sweeps"] == SWEEPS
    assert 0.99 < found["mixing"]["energy"] < 2
    assert found["share"] is None
    assert "neither a code nor an encoder" in found["share_note"]
    assert [sample["name"] for sample in written.data["samples"]] == [PRIORS[key] for key in auc]
    assert all(sample["fpd"] and sample["boosted_auc"] for sample in written.data["samples"])
    text = written.index.read_text()
    assert "What the machine contributes" in text
    assert "independent bits" in text
    assert "R-hat of dispersed starts after 256 sweeps, energy" in text
    assert any("AUC by latents" in line for line in lines)
    write_card(bundle.path, [written.report])
    quality = load_bundle(bundle.path).manifest.quality["evaluation"]["geant4.hdf5"]
    assert set(quality["priors"]) == {*(PRIORS[key] for key in auc), "Geant4 against Geant4"}
    assert "nats of the couplings between free spins" in quality["machine"]
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert "#### What the machine contributes" in card
    assert "R-hat of dispersed starts" in card
    # The planted machine: no fields, every coupling of free spins -0.25 kT.
    assert "|h| ≤ 0.00 kT and J lies between -0.25 and 0.00 kT" in card
    assert "β_eff is at least 0.12" in card
    json.dumps(quality)


def test_priors_are_what_they_say(untrained_bundles: Path) -> None:
    bundle = load_bundle(untrained_bundles / "test-zephyr")
    energies = np.geomspace(1e3, 1e6, 600)
    latents = draw_latents(bundle, energies, np.zeros((600, 6480), np.float32))
    machine = bundle.machine
    for key, spins in latents.spins.items():
        np.testing.assert_array_equal(spins[:, machine.condition_nodes], bundle.conditions(energies), key)
    up = (latents.draws > 0).mean(axis=1)[latents.level]
    independent = (latents.spins["independent"] > 0)[:, machine.free_nodes]
    expected = up[:, machine.free_nodes]
    # 600 rows of some 70 bits: five standard errors of a bit's frequency, with room for the largest of 70.
    assert np.abs((independent - expected).mean(axis=0)).max() < 5 * 0.5 / np.sqrt(600)
    assert latents.posterior is None
    assert "codes" not in latents.spins


def test_pairs_of_one_law_score_one_half(rng: np.random.Generator) -> None:
    energy = rng.normal(size=(400, 1))
    first, second = (np.concatenate([energy, rng.normal(size=(400, 5))], axis=1) for _ in range(2))
    scores = paired_scores(first, second, iterations=20)
    assert scores.auc() == pytest.approx(0.5, abs=0.1)
    assert scores.auc(np.ones(400, np.int64)) == pytest.approx(scores.auc())
    assert paired_scores(first, second + 1.0, iterations=20).auc() > 0.9
    with pytest.raises(InvalidInputError, match="as many in each"):
        paired_scores(first, second[:300])


def test_bundles_that_do_not_fit_are_refused(untrained_bundles: Path, toy_showers: ToyShowers, tmp_path: Path) -> None:
    bundle = load_bundle(untrained_bundles / "test-zephyr")
    write_showers(tmp_path / "few.hdf5", *toy_showers(bundle.geometry, 60, 1))
    with pytest.raises(InvalidInputError, match="100 or more for the priors"):
        evaluate(tmp_path / "few.hdf5", [], tmp_path / "r", Choices(quick=True, bundle=bundle.path))
    with pytest.raises(InvalidInputError, match="samples: 0"):
        evaluate(tmp_path / "few.hdf5", [], tmp_path / "r", Choices(quick=True, bundle=bundle.path, prior_showers=0))
