"""The same seed gives the same bits as the first release did: hashes for each sampler and format.

They are the same on every kind of processor, since all sums are in a fixed order and of operations that are rounded
alike everywhere.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from qshower.model.bundle import PRETRAINED, load_bundle
from qshower.model.decoder_shape import DecoderShape, Likelihood
from qshower.model.drawing.build import build_drawing
from qshower.model.drawing.tensors import tensor_shapes
from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.request import LatentRequest, SamplerOptions
from qshower.sampler.tempering import TemperingSampler
from qshower.service.app import create_app
from qshower.service.settings import load_settings

RECORDED = Path(__file__).with_name("golden_bits.json")
ENERGIES_MEV = (1000.0, 65536.0, 65536.0, 500000.0)
SEED = 20
BUNDLES = ("electron-zephyr", "electron-pegasus")
LIKELIHOODS = get_args(Likelihood)
SAMPLERS = {"gibbs": GibbsSampler, "annealing": AnnealingSampler, "tempering": TemperingSampler}
FORMATS = {
    "json": "application/json",
    "hdf5": "application/x-hdf5",
    "arrow": "application/vnd.apache.arrow.stream",
    "npz": "application/x-npz",
}


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def latents(sampler: str, bundle_name: str) -> str:
    bundle = load_bundle(PRETRAINED / bundle_name)
    energies = np.array(ENERGIES_MEV)
    streams = np.array([(SEED, row) for row in range(len(energies))], dtype=np.uint64)
    request = LatentRequest(bundle.machine, bundle.conditions(energies), streams, SamplerOptions(sweeps=16))
    with SAMPLERS[sampler]() as drawing:
        return digest(drawing.sample(request).spins)


def drawn_without_training(likelihood: Likelihood) -> str:
    """Showers of a decoder whose tensors are plain random numbers: every kind of drawing, whatever is trained."""
    rng = np.random.default_rng(SEED)
    sizes = {
        "trunk": 24,
        "layer_code": 7,
        "layer_hidden": 20,
        "voxel_channels": 24,
        "bits_per_layer": 3,
        "share_bits": 1,
    }
    shape = DecoderShape(40, (16,) * 9, (9,) * 9, 1e3, 1e6, threshold_mev=0.01, **sizes)
    tensors = {
        name: (rng.random(size) - 0.5).astype(np.float32) for name, size in tensor_shapes(likelihood, shape).items()
    }
    if likelihood == "depth":
        tensors["visible"] = np.arange(27, dtype=np.float32).reshape(9, 3)
    drawing = build_drawing(likelihood, shape, "log1p", tensors)
    latents = np.where(rng.random((11, 40)) < 0.5, -1, 1).astype(np.int8)
    uniforms = (rng.random((11, drawing.uniform_count)) * 0.98 + 0.01).astype(np.float32)
    showers = drawing.draw(latents, np.geomspace(1e3, 1e6, 11).astype(np.float32), uniforms)
    assert (showers > 0).any()
    return digest(showers)


def showers_of(content: bytes, wanted: str) -> np.ndarray:
    if wanted == "json":
        return np.array(json.loads(content)["showers_mev"], dtype=np.float32)
    if wanted == "hdf5":
        with h5py.File(io.BytesIO(content)) as file:
            return file["showers"][:]
    if wanted == "arrow":
        with pa.ipc.open_stream(content) as reader:
            flat = reader.read_all()["showers_mev"].combine_chunks().flatten().to_numpy()
        return flat.reshape(len(ENERGIES_MEV), -1)
    with np.load(io.BytesIO(content)) as file:
        return file["showers_mev"]


def record() -> dict[str, object]:
    """All hashes of today's code, in the form of ``golden_bits.json``."""
    with TestClient(create_app(load_settings(qpu="off"))) as client:
        showers = {
            f"{bundle}/{sampler}/{wanted}": digest(answered(client, bundle, sampler, wanted))
            for bundle in BUNDLES
            for sampler in SAMPLERS
            for wanted in FORMATS
        }
    drawn = {f"{bundle}/{sampler}": latents(sampler, bundle) for bundle in BUNDLES for sampler in SAMPLERS}
    drawings = {likelihood: drawn_without_training(likelihood) for likelihood in LIKELIHOODS}
    return {"latents": drawn, "showers": showers, "drawings": drawings}


def answered(client: TestClient, bundle: str, sampler: str, wanted: str) -> np.ndarray:
    body = {"incident_energies_mev": ENERGIES_MEV, "sampler": sampler, "model": bundle, "seed": SEED}
    response = client.post("/generate", json=body, headers={"accept": FORMATS[wanted]})
    assert response.status_code == 200, response.text
    return showers_of(response.content, wanted)


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, Any]]:
    return json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(load_settings(qpu="off"))) as opened:
        yield opened


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_latents_have_the_recorded_bits(recorded: dict[str, dict[str, Any]], bundle: str, sampler: str) -> None:
    assert latents(sampler, bundle) == recorded["latents"][f"{bundle}/{sampler}"]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_drawings_have_the_recorded_bits(recorded: dict[str, dict[str, Any]], likelihood: Likelihood) -> None:
    assert drawn_without_training(likelihood) == recorded["drawings"][likelihood]


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("bundle", BUNDLES)
def test_showers_have_the_recorded_bits(
    recorded: dict[str, dict[str, Any]], client: TestClient, bundle: str, sampler: str, wanted: str
) -> None:
    assert digest(answered(client, bundle, sampler, wanted)) == recorded["showers"][f"{bundle}/{sampler}/{wanted}"]


if __name__ == "__main__":
    text = json.dumps(record(), indent=1)
    Path(os.environ.get("GOLDEN_BITS", RECORDED)).write_text(text + "\n", encoding="utf-8")
