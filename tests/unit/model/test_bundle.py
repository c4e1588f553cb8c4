"""Bundles: what is saved comes back, what was altered is refused, and showers are reproducible to the bit."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from qshower.model.bundle import (
    DECODER_FILE,
    ENCODER_FILE,
    PRIOR_FILE,
    Bundle,
    find_bundles,
    load_bundle,
    load_encoder_tensors,
    save_bundle,
)
from qshower.model.decoder_shape import DecoderShape, Likelihood
from qshower.model.geometry import named_geometry
from qshower.model.grid import Grid
from qshower.model.manifest import MANIFEST, EnergyCodeSpec, Manifest, lattice_of
from qshower.model.trained_networks import arrays_of, build_decoder, decoder_of
from qshower.sampler.errors import BundleError, InvalidInputError
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.request import streams_of


def write_bundle(folder: Path, *, geometry: str = "2", likelihood: Likelihood = "sampled", name: str = "small") -> Path:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    lattice = compact_lattice("zephyr", 20)
    machine = lattice.with_parameters(
        rng.normal(size=lattice.node_count).astype(np.float32), rng.normal(size=len(lattice.j)).astype(np.float32)
    )
    grid = Grid.of(named_geometry(geometry))
    shape = DecoderShape(60, grid.angular_bins, grid.radial_bins, 1e3, 1e6, trunk=32, layer_code=8, layer_hidden=16)
    manifest = Manifest(
        name=name,
        description="a small model",
        geometry=named_geometry(geometry).as_dict(),
        domain_mev=(1e3, 1e6),
        energy_code=EnergyCodeSpec(kind="thermometer", levels=16),
        scaling="logit",
        symmetry="dihedral",
        likelihood=likelihood,
        decoder=asdict(shape),
        lattice=lattice_of(machine),
        sweeps=64,
    )
    decoder = build_decoder(manifest.likelihood, shape, manifest.scaling)
    state = arrays_of(decoder.state_dict())
    save_bundle(folder, manifest, machine, state, encoder_state={"weight": np.ones(3, dtype=np.float32)})
    return folder


def arguments(bundle: Bundle, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    spins = rng.choice([-1, 1], (rows, bundle.machine.node_count)).astype(np.int8)
    energies = np.exp(rng.uniform(np.log(1e3), np.log(1e6), rows))
    streams = streams_of(7, rows)
    return spins, energies, streams


def test_a_saved_bundle_comes_back(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "small"))
    assert bundle.name == "small"
    assert bundle.domain_mev == (1e3, 1e6)
    assert bundle.default_sweeps == 64
    assert bundle.machine.topology == "zephyr:12"
    assert bundle.geometry == named_geometry("2")
    np.testing.assert_array_equal(load_encoder_tensors(tmp_path / "small")["weight"], np.ones(3))
    assert find_bundles(tmp_path) == {"small": tmp_path / "small"}
    expected = compact_lattice("zephyr", 20)
    np.testing.assert_array_equal(bundle.machine.edges, expected.edges)
    np.testing.assert_array_equal(bundle.machine.qubits, expected.qubits)
    assert [file.name for file in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize(("geometry", "likelihood"), [("2", "sampled"), ("2", "squared_error"), ("1-pions", "sampled")])
def test_showers_do_not_depend_on_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, geometry: str, likelihood: Likelihood
) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "small", geometry=geometry, likelihood=likelihood))
    spins, energies, streams = arguments(bundle, 100)
    together = bundle.decode(spins, energies, streams, 0.01)
    assert together.shape == (100, bundle.geometry.voxel_count)
    assert np.isfinite(together).all()
    assert not ((together > 0) & (together < 0.01)).any()
    assert (together.sum(axis=1) > 0).any()
    for row in (0, 31, 32, 63, 99):
        alone = bundle.decode(spins[row : row + 1], energies[row : row + 1], streams[row : row + 1], 0.01)
        np.testing.assert_array_equal(alone[0], together[row])
    order = np.random.default_rng(2).permutation(100)
    np.testing.assert_array_equal(bundle.decode(spins[order], energies[order], streams[order], 0.01), together[order])
    monkeypatch.setattr("qshower.model.bundle.TILE_ROWS", 13)
    np.testing.assert_array_equal(bundle.decode(spins, energies, streams, 0.01), together)


@pytest.mark.parametrize("name", ["electron-zephyr", "electron-pegasus", "electron-zephyr-coded"])
def test_pretrained_showers_do_not_depend_on_their_place(name: str) -> None:
    bundle = load_bundle(find_bundles()[name])
    spins, energies, streams = arguments(bundle, 64)
    together = bundle.decode(spins, energies, streams, 0.01515)
    for first in (1, 2, 3, 5, 8, 13, 31, 63):
        np.testing.assert_array_equal(
            bundle.decode(spins[first:], energies[first:], streams[first:], 0.01515), together[first:]
        )


def test_no_showers_is_an_empty_answer(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "small"))
    assert bundle.decode(*arguments(bundle, 0), 0.01).shape == (0, 6480)


def test_generated_showers_have_no_preferred_direction(tmp_path: Path) -> None:
    """Angular bins of the mean shower are equal: chi-squared of 16 means, false-alarm rate 1e-6."""
    from scipy import stats

    bundle = load_bundle(write_bundle(tmp_path / "small"))
    rows = 2000
    spins, energies, streams = arguments(bundle, rows)
    per_angle = (
        bundle.decode(spins, energies, streams, 0.0).reshape(rows, 45, 16, 9).sum(axis=(1, 3)) / energies[:, None]
    )
    centred = per_angle - per_angle.mean(axis=1, keepdims=True)
    z = centred.mean(axis=0) / centred.std(axis=0) * np.sqrt(rows)
    assert stats.chi2.sf((z**2).sum() * 15 / 16, 15) > 1e-6


def test_energies_outside_the_domain_are_named(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "small"))
    with pytest.raises(
        InvalidInputError, match=r"incident_energies_mev\[1\]: 999.0 is not allowed; allowed: 1000 to 1e\+06 MeV"
    ):
        bundle.conditions(np.array([1e3, 999.0]))
    with pytest.raises(InvalidInputError, match="nan"):
        bundle.conditions(np.array([np.nan]))
    with pytest.raises(InvalidInputError, match="incident_energies_mev: a mask hides 1 values"):
        bundle.conditions(np.ma.masked_array([1e3, 2e3], mask=[True, False]))


@pytest.mark.parametrize("name", [DECODER_FILE, PRIOR_FILE])
def test_a_changed_byte_is_an_error(tmp_path: Path, name: str) -> None:
    file = write_bundle(tmp_path / "small") / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=f"{name}.*altered"):
        load_bundle(tmp_path / "small")


def test_tensors_that_are_not_the_manifest_s_are_named(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "small"))
    tensors = bundle.decoder_tensors()
    state = {name: tensor.numpy() for name, tensor in decoder_of(bundle).state_dict().items()}
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensor, tensors[name])
    for wrong, said in (
        (dict(list(state.items())[1:]), "no tensor trunk.first.weight"),
        (state | {"trunk.first.weight": np.zeros((2, 2), dtype=np.float32)}, r"trunk.first.weight of shape \(2, 2\)"),
        (state | {"other": np.zeros(1, dtype=np.float32)}, "an unknown tensor other"),
    ):
        save_bundle(tmp_path / "wrong", bundle.manifest, bundle.machine, wrong)
        with pytest.raises(BundleError, match=f"decoder.safetensors.*{said}"):
            load_bundle(tmp_path / "wrong")


def test_a_changed_encoder_is_seen_when_it_is_needed(tmp_path: Path) -> None:
    file = write_bundle(tmp_path / "small") / ENCODER_FILE
    file.write_bytes(file.read_bytes() + b"x")
    load_bundle(tmp_path / "small")
    with pytest.raises(BundleError, match="altered"):
        load_encoder_tensors(tmp_path / "small")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json.*no such file"):
        load_bundle(tmp_path / "nothing")
    folder = write_bundle(tmp_path / "small")
    (folder / DECODER_FILE).unlink()
    with pytest.raises(BundleError, match=r"decoder\.safetensors"):
        load_bundle(folder)
    (folder / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load_bundle(folder)


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    file = write_bundle(tmp_path / "small") / MANIFEST
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "format_version": 2}))
    with pytest.raises(BundleError, match="format_version"):
        load_bundle(tmp_path / "small")
    file.write_text(json.dumps({**values, "extra": 1}))
    with pytest.raises(BundleError, match="extra"):
        load_bundle(tmp_path / "small")


def test_saving_replaces_a_bundle_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_bundle(tmp_path / "small")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full_disk(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_bundle(folder, name="other")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["small"]
    write_bundle(folder, name="other")
    assert load_bundle(folder).name == "other"
    assert [file.name for file in tmp_path.iterdir()] == ["small"]
