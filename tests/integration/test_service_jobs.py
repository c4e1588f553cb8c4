"""Jobs: drawn in the background, kept on disk, gone on with after a restart."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import httpx2
import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from qshower.model.bundle import find_bundles, load_bundle
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.jobs.job_files import JobFiles
from qshower.service.settings import load_settings
from tests.conftest import LargestFile
from tests.polling import until

ROWS = 600
BODY: dict[str, Any] = {"incident_energies_mev": [65536, 1000.0], "showers_per_energy": ROWS // 2, "sampler": "gibbs"}
NPZ = {"accept": "application/x-npz"}
Open = Callable[..., TestClient]


@pytest.fixture(scope="module")
def catalogue(untrained_bundles: Path) -> Catalogue:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    return Catalogue(bundles, "test-zephyr")


@pytest.fixture
def opened(catalogue: Catalogue, tmp_path: Path) -> Iterator[Open]:
    """Starts the service on one folder of jobs; the one before is stopped first."""
    running: list[TestClient] = []

    def start(**settings: Any) -> TestClient:
        while running:
            running.pop().__exit__(None, None, None)
        values = {"qpu": "off", "jobs_folder": tmp_path / "jobs", "latent_cache_bytes": 0, **settings}
        client = TestClient(create_app(load_settings(**values), load_models=lambda _: catalogue))
        client.__enter__()
        running.append(client)
        return client

    yield start
    while running:
        running.pop().__exit__(None, None, None)


def submitted(client: TestClient, **changes: Any) -> str:
    response = client.post("/jobs", json={**BODY, "seed": 3, **changes})
    assert response.status_code == 202, response.text
    job: str = response.json()["id"]
    assert response.headers["location"] == f"/jobs/{job}"
    return job


def ended(client: TestClient, job: str) -> dict[str, Any]:
    def status() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(f"/jobs/{job}").json()
        return found if found["state"] in ("done", "failed") else None

    found = until(status)
    assert found is not None
    return found


def showers_of(response: httpx2.Response) -> NDArray[np.float32]:
    assert response.status_code == 200, response.text
    showers: NDArray[np.float32] = np.load(io.BytesIO(response.content))["showers_mev"]
    return showers


def test_a_job_gives_what_a_request_gives_in_any_format_and_can_be_removed(opened: Open) -> None:
    client = opened()
    direct = showers_of(client.post("/generate", json={**BODY, "seed": 3}, headers=NPZ))
    job = submitted(client)
    status = ended(client, job)
    assert (status["state"], status["showers"], status["showers_done"]) == ("done", ROWS, ROWS)
    assert status["created_at"] <= status["ended_at"] < status["expires_at"]
    page = f"/jobs/{job}/result"
    assert np.array_equal(showers_of(client.get(page, headers=NPZ)), direct)
    document = client.get(page).json()
    assert document["incident_energies_mev"] == [65536.0] * (ROWS // 2) + [1000.0] * (ROWS // 2)
    assert (document["provenance"]["sampler"], document["provenance"]["seed"]) == ("gibbs", 3)
    with h5py.File(io.BytesIO(client.get(page, headers={"accept": "application/x-hdf5"}).content)) as file:
        assert np.array_equal(file["showers"][:], direct)
        assert json.loads(file.attrs["provenance"])["seed"] == 3
    arrow = client.get(page, headers={"accept": "application/vnd.apache.arrow.stream"})
    assert len(pa.ipc.open_stream(arrow.content).read_all()) == ROWS
    assert client.get(page, headers={"accept": "text/html"}).status_code == 406
    assert client.delete(f"/jobs/{job}").status_code == 204
    for response in (client.get(f"/jobs/{job}"), client.get(page), client.delete(f"/jobs/{job}")):
        assert response.status_code == 404
        assert response.json()["type"] == "urn:qshower:unknown-job"


def test_a_job_goes_on_after_a_restart_with_the_same_showers(opened: Open, tmp_path: Path) -> None:
    client = opened()
    direct = showers_of(client.post("/generate", json={**BODY, "seed": 3}, headers=NPZ))
    job = submitted(client)
    until(lambda: client.get(f"/jobs/{job}").json()["showers_done"] > 0)
    client = opened()
    assert (tmp_path / "jobs" / job / "chunk-000000").is_file()
    assert ended(client, job)["state"] == "done"
    assert np.array_equal(showers_of(client.get(f"/jobs/{job}/result", headers=NPZ)), direct)
    # What a killed process leaves: a job without its order, and one with a missing chunk.
    (tmp_path / "jobs" / ("0" * 32)).mkdir()
    (tmp_path / "jobs" / job / "end.json").unlink()
    (tmp_path / "jobs" / job / "chunk-000001").unlink()
    client = opened()
    assert not (tmp_path / "jobs" / ("0" * 32)).exists()
    assert ended(client, job)["state"] == "done"
    assert np.array_equal(showers_of(client.get(f"/jobs/{job}/result", headers=NPZ)), direct)


def test_a_result_that_is_not_there_yet_and_a_job_that_is_cancelled(opened: Open, tmp_path: Path) -> None:
    client = opened()
    job = submitted(client, options={"sweeps": 1_000_000})
    problem = client.get(f"/jobs/{job}/result")
    assert problem.status_code == 409
    assert "with 0 of 600 showers" in problem.json()["detail"]
    assert client.delete(f"/jobs/{job}").status_code == 204
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["lock"]
    until(lambda: "qshower_queue_rows 0.0" in client.get("/metrics").text)


def test_a_full_disk_is_the_error_of_the_job_alone(opened: Open, largest_file: LargestFile) -> None:
    client = opened()
    with largest_file(10_000):
        job = submitted(client)
        status = ended(client, job)
        assert status["state"] == "failed"
        assert status["error"].startswith("StorageError: the folder of jobs cannot be used")
        assert client.post("/generate", json={**BODY, "showers_per_energy": 1}).status_code == 200
    assert "the folder of jobs" in client.get(f"/jobs/{job}/result").json()["detail"]
    assert ended(client, submitted(client))["state"] == "done"


def test_jobs_are_bounded_and_expire(opened: Open) -> None:
    client = opened(jobs_most=1, jobs_expiry_s=0.5, jobs_showers=ROWS)
    job = submitted(client)
    refused = client.post("/jobs", json=BODY)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    until(lambda: client.get(f"/jobs/{job}").status_code == 404)
    large = client.post("/jobs", json={**BODY, "showers_per_energy": ROWS})
    assert large.status_code == 422
    for wrong in ({"dry_run": True}, {"deadline_s": 10.0}, {"incident_energies_mev": [1.0]}, {"model": "none"}):
        assert client.post("/jobs", json={**BODY, **wrong}).status_code in (404, 422)


def test_a_job_belongs_to_its_key(opened: Open) -> None:
    digests = ",".join(f"{name}:{hashlib.sha256(name.encode()).hexdigest()}" for name in ("ada", "bob"))
    client = opened(api_keys=digests)
    ada, bob = ({"x-api-key": name} for name in ("ada", "bob"))
    job = client.post("/jobs", json={**BODY, "showers_per_energy": 1}, headers=ada).json()["id"]
    assert client.get(f"/jobs/{job}", headers=ada).status_code == 200
    for response in (client.get(f"/jobs/{job}", headers=bob), client.delete(f"/jobs/{job}", headers=bob)):
        assert response.status_code == 404


def test_where_the_folder_cannot_be_used_only_jobs_are_refused(opened: Open, tmp_path: Path) -> None:
    other = JobFiles(tmp_path / "jobs")
    other.open()
    try:
        client = opened()
        refused = client.post("/jobs", json=BODY)
        assert refused.status_code == 507
        assert "another service" in refused.json()["detail"]
        assert client.post("/generate", json={**BODY, "showers_per_energy": 1}).status_code == 200
    finally:
        other.close()
