"""Coded runs end to end on small toy showers: code, machine, decoder; resumed to the same result; read back."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from qshower.model.bundle import load_bundle, load_shower_code
from qshower.model.depth_decoder import DepthDecoder
from qshower.model.drawing.depth_drawing import DepthDrawing
from qshower.model.geometry import named_geometry
from qshower.model.grid import Grid
from qshower.model.showers_writer import write_showers
from qshower.model.symmetry import canonical_elements, turn
from qshower.model.trained_networks import decoder_of
from qshower.model.training.coded_config import CodedConfig
from qshower.model.training.coded_loop import CodedTrainer
from qshower.model.training.config import read_config
from qshower.model.training.data import load_training_showers
from qshower.model.training.run import train
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.request import streams_of

GEOMETRY = named_geometry("2")
GRID = Grid.of(GEOMETRY)


def toy_file(path: Path, rows: int = 96) -> Path:
    """Showers with a depth profile and a core; some layers are empty."""
    rng = np.random.default_rng(0)
    energies = np.exp(rng.uniform(np.log(1e3), np.log(1e5), rows))
    layers, angular, radial = GRID.shape
    depth = np.exp(-0.5 * ((np.arange(layers) - 15) / 6) ** 2)
    core = np.exp(-np.arange(radial) / 1.5)
    mean = depth[:, None, None] * core * np.ones((1, angular, 1))
    mean /= mean.sum()
    showers = rng.gamma(0.5, size=(rows, layers, angular, radial)) * 2 * mean * energies[:, None, None, None]
    showers[showers < 0.05] = 0
    write_showers(path, energies, showers.reshape(rows, -1).astype(np.float32))
    return path


def write_config(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "name": "toy",
        "output": "out",
        "data": {"files": [{"path": "toy.hdf5"}], "geometry": "2", "domain_mev": [1000, 100000]},
        "latent": {"topology": "zephyr", "chip_size": 6, "nodes_per_partition": 90, "levels": 8},
        "code": {"observables": ["share", "radius", "cos_1"], "share_cells": 4},
        "machine": {
            "steps": 7,
            "chains": 16,
            "sweeps": 1,
            "open_sweeps": 1,
            "swaps": 2000,
            "fills": 2,
            "fill_sweeps": 2,
        },
        "network": {"layer_hidden": 8, "voxel_channels": 12, "hit_channels": 8, "profile_hidden": 12},
        "schedule": {"seed": 3, "steps": 6, "batch": 8, "checkpoint_every": 2},
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(values))
    toy_file(folder / "toy.hdf5")
    return path


def trainer_of(config_path: Path) -> CodedTrainer:
    config = read_config(config_path)
    assert isinstance(config, CodedConfig)
    config.output.mkdir(exist_ok=True)
    return CodedTrainer(config, load_training_showers(config.data, config.network.symmetry, config.schedule.seed))


class StopError(Exception):
    """Stands for a killed run."""


@pytest.mark.parametrize("killed_after", [3, 10])
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    tmp_path: Path, killed_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qshower.model.training.coded_loop.FIT_CHECKPOINT_EVERY", 2)
    path = write_config(tmp_path)
    whole = trainer_of(path)
    whole.run(whole.config.output, lambda step, figures: None)
    (whole.config.output / "checkpoint.pt").unlink()

    def killed(step: int, figures: dict[str, float]) -> None:
        if step == killed_after:
            raise StopError

    first = trainer_of(path)
    with pytest.raises(StopError):
        first.run(first.config.output, killed)
    second = trainer_of(path)
    assert second.restore(second.config.output)
    assert 0 < second.step <= killed_after
    second.run(second.config.output, lambda step, figures: None)
    for name, tensor in whole.best.items():
        torch.testing.assert_close(second.best[name], tensor, rtol=0, atol=0)
    one, other = (run.fit.machine(run.fitted) for run in (whole, second))
    np.testing.assert_array_equal(one.h, other.h)
    np.testing.assert_array_equal(one.j, other.j)
    assert whole.best_figures == second.best_figures


def test_a_coded_bundle_decodes_and_knows_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qshower.model.training.run.TOLERANCE", 1.0)
    seen: list[int] = []
    folder = train(write_config(tmp_path), report=lambda step, figures: seen.append(step))
    bundle = load_bundle(folder)
    assert bundle.manifest.likelihood == "depth"
    assert bundle.machine.topology == "zephyr:6"
    assert max(seen) == 13
    code = load_shower_code(folder)
    assert code.observables == ("share", "radius", "cos_1")
    rng = np.random.default_rng(1)
    energies = np.exp(rng.uniform(np.log(1e3), np.log(1e5), 5))
    spins = rng.choice(np.array([-1, 1], dtype=np.int8), (5, bundle.machine.node_count))
    streams = streams_of(4, 5)
    showers = bundle.decode(spins, energies, streams, GEOMETRY.threshold_mev)
    assert np.isfinite(showers).all()
    assert (showers.sum(axis=1) > 0).all()
    assert showers[showers > 0].min() >= np.float32(GEOMETRY.threshold_mev)
    alone = bundle.decode(spins[3:4], energies[3:4], streams[3:4], GEOMETRY.threshold_mev)
    np.testing.assert_array_equal(alone[0], showers[3])
    grid = GRID.from_voxels(showers)
    bits = code.bits(GRID, energies, turn(grid, canonical_elements(grid, GRID), GRID)).reshape(5, -1)
    assert set(np.unique(bits)) == {-1, 0, 1}
    assert bundle.codes is not None
    latents = bundle.codes(energies, showers, streams)
    assert isinstance(bundle.drawing, DepthDrawing)
    nodes = bundle.machine.free_nodes[bundle.drawing.visible]
    np.testing.assert_array_equal(latents[:, nodes][bits != 0], bits[bits != 0])
    np.testing.assert_array_equal(latents[:, bundle.machine.condition_nodes], bundle.conditions(energies))


def test_a_run_starts_from_the_decoder_of_another_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qshower.model.training.run.TOLERANCE", 1.0)
    first = train(write_config(tmp_path / "first"))
    path = write_config(tmp_path / "second")
    values = yaml.safe_load(path.read_text())
    values |= {"start_from": "../first/out/toy", "code": {"observables": ["radius"], "share_cells": 2}}
    path.write_text(yaml.safe_dump(values))
    second, source = trainer_of(path), decoder_of(load_bundle(first))
    assert isinstance(source, DepthDecoder)
    assert second.decoder.visible.shape == (45, 2)
    own, given = dict(second.decoder.named_parameters()), dict(source.named_parameters())
    for name in ("window", "profile.hidden.weight", "energy_law.bias"):
        torch.testing.assert_close(own[name], given[name], msg=name)
    assert own["profile_bits.weight"].shape != given["profile_bits.weight"].shape
    kept = own["layer.weight"].shape[1] - 3
    torch.testing.assert_close(own["layer.weight"][:, -kept:], given["layer.weight"][:, -kept:])
    values["network"]["hit_channels"] = 12
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(InvalidInputError, match="the same network sizes"):
        trainer_of(path)
