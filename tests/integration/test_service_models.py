"""Several models in one service: versions, broken ones, networks that come and go, and reloading without downtime."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from qshower.model.bundle import DECODER_FILE
from qshower.model.manifest import update_manifest
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue, load_catalogue
from qshower.service.running import Service
from qshower.service.service_errors import ModelBrokenError, SettingsError, UnknownModelError
from qshower.service.settings import load_settings

BODY: dict[str, Any] = {"incident_energies_mev": [65536], "sampler": "gibbs", "seed": 1, "options": {"sweeps": 4}}
Copy = Callable[..., Path]


@pytest.fixture(scope="module")
def copy(untrained_bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """Copies a bundle into the folder of models, with other fields in its manifest."""
    folder = tmp_path_factory.mktemp("models")

    def make(source: str, place: str, **fields: Any) -> Path:
        path = folder / place
        shutil.copytree(untrained_bundles / source, path)
        update_manifest(path, **fields)
        return path

    return make


def spoil(path: Path) -> None:
    """Change a byte of the network."""
    content = bytearray((path / DECODER_FILE).read_bytes())
    content[-1] ^= 1
    (path / DECODER_FILE).write_bytes(content)


@pytest.fixture(scope="module")
def folder(copy: Copy) -> Path:
    """Two versions of one model, another model, and one that is broken."""
    root = copy("test-zephyr", "zephyr-1").parent
    copy("test-zephyr", "zephyr-2", version=2, sweeps=33)
    copy("test-pegasus", "pegasus")
    spoil(copy("test-pegasus", "spoilt", name="spoilt"))
    return root


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(load_settings(qpu="off", model_folder=folder, latent_cache_bytes=0))) as client:
        yield client


def service_of(client: TestClient) -> Service:
    service: Service = cast(FastAPI, client.app).state.service
    return service


def reload(client: TestClient) -> dict[str, Any]:
    """Read the models again, as SIGHUP does; how that went."""
    assert client.portal is not None
    client.portal.call(service_of(client).reloading.reload)
    return service_of(client).reloading.status()


def drawn(client: TestClient, **change: Any) -> dict[str, Any]:
    response = client.post("/generate", json={**BODY, **change})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_the_highest_version_answers_unless_another_is_named(client: TestClient) -> None:
    newest, first = drawn(client), drawn(client, model="test-zephyr@1")
    assert newest["provenance"]["model"] == first["provenance"]["model"] == "test-zephyr"
    assert newest["provenance"]["model_sha256"] != first["provenance"]["model_sha256"]
    assert (newest["provenance"]["model_version"], first["provenance"]["model_version"]) == (2, 1)
    assert newest["showers_mev"] == first["showers_mev"]
    assert drawn(client, model="test-zephyr@2")["provenance"]["model_sha256"] == newest["provenance"]["model_sha256"]
    missing = client.post("/generate", json={**BODY, "model": "test-zephyr@3"})
    assert missing.status_code == 404
    assert "test-zephyr@3" in missing.json()["detail"]
    models = {model["name"]: model for model in client.get("/models").json()["models"]}
    assert (models["test-zephyr"]["version"], models["test-zephyr"]["versions"]) == (2, [2, 1])
    assert client.get("/models/test-zephyr@1").json()["default_sweeps"] == 32
    assert client.get("/models/test-zephyr").json()["default_sweeps"] == 33


def test_a_broken_model_says_why_and_the_others_serve(client: TestClient, folder: Path) -> None:
    listed = client.get("/models").json()
    assert [model["name"] for model in listed["broken"]] == ["spoilt"]
    detail = client.get("/models/spoilt").json()
    assert "decoder.safetensors" in detail["error"]
    assert "altered" in detail["error"]
    assert str(folder) not in json.dumps(detail)
    assert client.get("/health/ready").json() == {"status": "ready", "broken_models": {"spoilt": detail["error"]}}
    refused = client.post("/generate", json={**BODY, "model": "spoilt"})
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:qshower:model-broken"
    assert "altered" in refused.json()["detail"]
    assert drawn(client, model="test-pegasus")["provenance"]["model"] == "test-pegasus"
    assert 'qshower_models{state="broken"} 1.0' in client.get("/metrics").text


def test_bundles_come_and_go_and_break_without_downtime(client: TestClient, copy: Copy, folder: Path) -> None:
    service, before = service_of(client), drawn(client, model="test-pegasus")
    kept = service.generator.selection.catalogue.get("test-zephyr")
    new = copy("test-pegasus", "new", name="new", description="added while the service runs")
    spoil(folder / "pegasus")
    assert reload(client) == {"done": 1, "failed": 0, "last_error": None}
    assert drawn(client, model="new")["showers_mev"] == before["showers_mev"]
    # What is broken on disk now is served as it was read before, and said.
    assert "test-pegasus" in client.get("/health/ready").json()["broken_models"]
    assert drawn(client, model="test-pegasus")["showers_mev"] == before["showers_mev"]
    assert service.generator.selection.catalogue.get("test-zephyr") is kept

    update_manifest(new, version=2)
    shutil.rmtree(folder / "pegasus")
    reload(client)
    assert drawn(client, model="new")["provenance"]["model_version"] == 2
    assert client.post("/generate", json={**BODY, "model": "new@1"}).status_code == 404
    assert drawn(client, model="test-zephyr")["provenance"]["model_version"] == 2

    hidden = folder.rename(folder.with_name("hidden"))
    status = reload(client)
    assert (status["done"], status["failed"]) == (2, 1)
    assert "QSHOWER_MODEL_FOLDER" in status["last_error"]
    assert drawn(client, model="new")["provenance"]["model_version"] == 2
    hidden.rename(folder)


def test_a_default_that_is_broken_is_not_replaced_in_silence(
    untrained_bundles: Path, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    shutil.copytree(untrained_bundles / "test-zephyr", tmp_path / "models" / "mine")
    (tmp_path / "models" / "mine" / "manifest.json").write_text("{")
    environment.delenv("QSHOWER_DEFAULT_MODEL")
    catalogue = load_catalogue(load_settings(model_folder=tmp_path / "models"))
    assert catalogue.default_name == "mine"
    assert "electron-zephyr" in catalogue.names()
    with pytest.raises(ModelBrokenError, match="manifest"):
        catalogue.get(None)
    with pytest.raises(UnknownModelError):
        catalogue.get("mine@2")


def test_two_of_one_name_and_version_are_told(
    untrained_bundles: Path, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    for place in ("a", "b"):
        shutil.copytree(untrained_bundles / "test-zephyr", tmp_path / "models" / place)
    catalogue: Catalogue = load_catalogue(load_settings(model_folder=tmp_path / "models"))
    assert [(model.name, model.version) for model in catalogue.broken()] == [("test-zephyr", 1)]
    assert "in the folder a already" in catalogue.broken()[0].error
    assert catalogue.get("test-zephyr").path.name == "a"
    np.testing.assert_array_equal(catalogue.versions("test-zephyr"), [1])
    with pytest.raises(SettingsError, match="QSHOWER_DEFAULT_MODEL: 'no-such'"):
        load_catalogue(load_settings(model_folder=tmp_path / "models", default_model="no-such"))
