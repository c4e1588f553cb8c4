"""The HTTP contract, on the whole application in one process."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import h5py
import httpx2
import numpy as np
import pyarrow as pa
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from qshower.model.bundle import find_bundles, load_bundle
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.settings import load_settings

ClientMaker = Callable[..., TestClient]

BODY: dict[str, Any] = {"incident_energies_mev": [1000, 65536, 500000], "sampler": "gibbs", "seed": 1}
JSON, PROBLEM = "application/json", "application/problem+json"


@pytest.fixture(scope="module")
def catalogue(untrained_bundles: Path) -> Catalogue:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    return Catalogue(bundles, "test-zephyr")


@pytest.fixture(scope="module")
def client_of(catalogue: Catalogue) -> Iterator[ClientMaker]:
    """Makes a running client of an application with other settings."""
    opened: list[TestClient] = []

    def make(**settings: Any) -> TestClient:
        app = create_app(load_settings(qpu="off", **settings), load_models=lambda _: catalogue)
        client = TestClient(app)
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def client(client_of: ClientMaker) -> TestClient:
    return client_of()


def showers_of(response: httpx2.Response) -> NDArray[np.float32]:
    assert response.status_code == 200, response.text
    return np.array(response.json()["showers_mev"], dtype=np.float32)


def problem_of(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:qshower:")
    assert problem["title"]
    assert problem["detail"]
    return problem


def test_a_request_is_answered_in_order_with_provenance(client: TestClient) -> None:
    response = client.post("/generate", json=BODY)
    document = response.json()
    assert response.headers["content-type"] == JSON
    assert response.headers["vary"] == "Accept, Accept-Encoding"
    assert document["incident_energies_mev"] == [1000.0, 65536.0, 500000.0]
    showers = showers_of(response)
    assert showers.shape == (3, 6480)
    assert (showers >= 0).all()
    # The decoder's response is near 1 by construction: the rows are in the order asked for.
    assert (np.diff(showers.sum(axis=1)) > 0).all()
    assert document["geometry"]["name"] == "2"
    provenance = document["provenance"]
    assert list(provenance)[:8] == [
        "model", "model_version", "model_sha256", "version", "sampler", "fallback_from", "fallback_reason", "seed"
    ]  # fmt: skip
    for name in (
        "sweeps", "solver", "graph_id", "problem_ids", "num_reads", "beta", "beta_calibrated_at", "qpu_access_time_us",
        "qpu_timing_us", "condition_mode", "threshold_mev", "elapsed_s", "missing_qubits", "refine_sweeps", "gauges",
        "annealing_time_us", "notes",
    ):  # fmt: skip
        assert name in provenance
    assert (provenance["model"], provenance["sampler"], provenance["seed"]) == ("test-zephyr", "gibbs", 1)
    assert provenance["sweeps"] == 32
    assert provenance["threshold_mev"] == 0.01515
    assert provenance["solver"] is None
    assert set(provenance["elapsed_s"]) == {"queue", "sample", "decode", "total"}


def test_all_formats_hold_the_same_showers(client: TestClient) -> None:
    expected = client.post("/generate", json=BODY).json()
    showers = np.array(expected["showers_mev"], dtype=np.float32)

    def provenance_without_time(text: str | bytes) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(text)
        document.pop("elapsed_s")
        return document

    origin = provenance_without_time(json.dumps(expected["provenance"]))
    hdf5 = client.post("/generate", json=BODY, headers={"accept": "application/x-hdf5"})
    assert hdf5.headers["content-type"] == "application/x-hdf5"
    with h5py.File(io.BytesIO(hdf5.content)) as file:
        assert set(file) == {"incident_energies", "showers"}
        assert file["incident_energies"].shape == (3, 1)
        assert file["showers"].shape == (3, 6480)
        assert np.array_equal(file["showers"][:], showers)
        assert provenance_without_time(file.attrs["provenance"]) == origin
    npz = client.post("/generate", json=BODY, headers={"accept": "application/x-npz"})
    with np.load(io.BytesIO(npz.content), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["showers_mev"], showers)
        assert arrays["showers_mev"].dtype == np.float32
        assert np.array_equal(arrays["incident_energies_mev"], [1000, 65536, 500000])
        assert provenance_without_time(str(arrays["provenance"])) == origin
    arrow = client.post("/generate", json=BODY, headers={"accept": "application/vnd.apache.arrow.stream"})
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert table.num_rows == 3
    assert np.array_equal(np.array(table["showers_mev"].to_pylist(), dtype=np.float32), showers)
    assert provenance_without_time(table.schema.metadata[b"provenance"]) == origin


def test_a_seed_gives_the_same_showers_alone_and_in_any_company(client: TestClient) -> None:
    many = showers_of(client.post("/generate", json={**BODY, "incident_energies_mev": [65536.0] * 200}))
    alone = showers_of(client.post("/generate", json={**BODY, "incident_energies_mev": [65536.0]}))
    repeated = showers_of(
        client.post("/generate", json={**BODY, "incident_energies_mev": [65536.0], "showers_per_energy": 50})
    )
    assert np.array_equal(many[:1], alone)
    assert np.array_equal(many[:50], repeated)
    assert len(np.unique(many, axis=0)) == 200


def test_without_a_seed_no_shower_comes_twice(client: TestClient) -> None:
    body = {"incident_energies_mev": [65536.0] * 4, "sampler": "gibbs"}
    both = np.concatenate([showers_of(client.post("/generate", json=body)) for _ in range(2)])
    assert len(np.unique(both, axis=0)) == 8


def test_showers_per_energy_repeats_in_place(client: TestClient) -> None:
    document = client.post("/generate", json={**BODY, "showers_per_energy": 2}).json()
    assert document["incident_energies_mev"] == [1000, 1000, 65536, 65536, 500000, 500000]


def test_the_threshold_empties_voxels(client: TestClient) -> None:
    plain = showers_of(client.post("/generate", json={**BODY, "threshold_mev": 0}))
    cut = showers_of(client.post("/generate", json={**BODY, "threshold_mev": 50.0}))
    assert ((plain > 0) & (plain < 50)).any()
    assert np.array_equal(cut, np.where(plain < 50, 0, plain))


def test_each_model_is_chosen_by_name(client: TestClient) -> None:
    document = client.post("/generate", json={**BODY, "model": "test-pegasus"}).json()
    assert document["provenance"]["model"] == "test-pegasus"


@pytest.mark.parametrize("sampler", ["annealing", "tempering"])
def test_other_classical_samplers_draw_too(client: TestClient, sampler: str) -> None:
    body = {**BODY, "sampler": sampler, "seed": 3, "options": {"sweeps": 20}}
    document = client.post("/generate", json=body).json()
    assert document["provenance"]["sampler"] == sampler
    assert document["provenance"]["sweeps"] == 20
    assert document["provenance"]["fallback_from"] is None
    assert client.post("/generate", json=body).json()["showers_mev"] == document["showers_mev"]
    first = {**body, "incident_energies_mev": body["incident_energies_mev"][:1]}
    assert client.post("/generate", json=first).json()["showers_mev"] == document["showers_mev"][:1]
    refused = problem_of(client.post("/generate", json={**body, "options": {"num_reads": 5}}), 422)
    assert refused["field"] == "options.num_reads"


def test_tempering_is_never_chosen_unasked(client: TestClient) -> None:
    selection = cast(FastAPI, client.app).state.service.generator.selection
    assert "tempering" in selection.registry
    assert "tempering" not in selection.candidates("auto", ())


def test_auto_takes_gibbs_where_there_is_no_qpu(client: TestClient) -> None:
    provenance = client.post("/generate", json={"incident_energies_mev": [2000]}).json()["provenance"]
    assert (provenance["sampler"], provenance["fallback_from"]) == ("gibbs", None)


@pytest.mark.parametrize(
    ("change", "field", "value", "allowed"),
    [
        ({"incident_energies_mev": []}, "incident_energies_mev", [], "at least 1 entry"),
        ({"incident_energies_mev": [5000, True]}, "incident_energies_mev[1]", True, "a number"),
        ({"incident_energies_mev": ["1000"]}, "incident_energies_mev[0]", "1000", "a number"),
        ({"incident_energies_mev": [None]}, "incident_energies_mev[0]", None, "a number"),
        ({"incident_energies_mev": 1000}, "incident_energies_mev", 1000, "a list"),
        ({"incident_energies_mev": [0]}, "incident_energies_mev[0]", 0, "a number > 0"),
        ({"incident_energies_mev": [2000, -1]}, "incident_energies_mev[1]", -1, "a number > 0"),
        ({"incident_energies_mev": [2000, 999]}, "incident_energies_mev[1]", 999.0, "1000 to 1000000 MeV"),
        ({"incident_energies_mev": [2e6]}, "incident_energies_mev[0]", 2e6, "1000 to 1000000 MeV"),
        ({"incident_energies_mev": [2000, 9], "showers_per_energy": 3}, "incident_energies_mev[1]", 9.0, "1000 to"),
        ({"showers_per_energy": 0}, "showers_per_energy", 0, "a number >= 1"),
        ({"showers_per_energy": 1.5}, "showers_per_energy", 1.5, "an integer"),
        ({"showers_per_energy": 10**6}, "showers_per_energy", 10**6, "1 to 33333"),
        ({"sampler": "guess"}, "sampler", "guess", "'auto', 'gibbs', 'annealing', 'tempering', 'qpu' or 'replay'"),
        ({"fallback": ["auto"]}, "fallback[0]", "auto", "'gibbs'"),
        ({"seed": -1}, "seed", -1, "a number from 0 to 18446744073709551615"),
        ({"seed": True}, "seed", True, "an integer"),
        ({"seed": 1.0}, "seed", 1.0, "an integer"),
        ({"threshold_mev": -1}, "threshold_mev", -1, "a number from 0 to 1000000000"),
        ({"threshold_mev": 1e300}, "threshold_mev", 1e300, "a number from 0 to 1000000000"),
        ({"deadline_s": 0}, "deadline_s", 0, "> 0"),
        ({"deadline_s": 1e6}, "deadline_s", 1e6, "3600"),
        ({"options": None}, "options", None, "an object"),
        ({"options": {"sweeps": 0}}, "options.sweeps", 0, "a number from 1 to 1000000"),
        ({"options": {"sweep": 5}}, "options.sweep", 5, "sweeps, num_reads"),
        ({"options": {"num_reads": 5}}, "options.num_reads", 5, "options of gibbs: sweeps"),
        ({"solver": "pegasus"}, "solver", "pegasus", "options of gibbs: sweeps"),
        ({"energies": [1]}, "energies", [1], "incident_energies_mev, showers_per_energy"),
    ],
)
def test_a_value_that_is_not_allowed(
    client: TestClient, change: dict[str, Any], field: str, value: object, allowed: str
) -> None:
    problem = problem_of(client.post("/generate", json={**BODY, **change}), 422)
    assert problem["field"] == field
    assert problem.get("value") == value
    assert allowed in problem["allowed"]
    assert field in problem["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_have(client: TestClient, number: str) -> None:
    body = f'{{"incident_energies_mev": [1000, {number}]}}'
    problem = problem_of(client.post("/generate", content=body, headers={"content-type": JSON}), 422)
    assert problem["field"] == "incident_energies_mev[1]"
    assert "finite" in problem["allowed"]


def test_a_missing_field(client: TestClient) -> None:
    problem = problem_of(client.post("/generate", json={"seed": 1}), 422)
    assert problem["field"] == "incident_energies_mev"
    assert "required" in problem["allowed"]


def test_a_flood_of_wrong_energies_gets_a_short_answer(client: TestClient) -> None:
    response = client.post("/generate", json={**BODY, "incident_energies_mev": [True] * 20_000})
    problem_of(response, 422)
    assert len(response.content) < 4000


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"1", b"\xff", b'{"incident_energies_mev": [1000],}', b"[" * 100_000]
)
def test_a_malformed_body(client: TestClient, content: bytes) -> None:
    problem_of(client.post("/generate", content=content, headers={"content-type": JSON}), 400)


def test_a_body_of_another_type(client: TestClient) -> None:
    problem_of(client.post("/generate", content=b"{}", headers={"content-type": "text/plain"}), 400)


def test_an_unknown_model(client: TestClient) -> None:
    problem = problem_of(client.post("/generate", json={**BODY, "model": "../etc"}), 404)
    assert "test-zephyr" in problem["detail"]
    problem_of(client.get("/models/nothing"), 404)


def test_a_format_that_cannot_be_made(client: TestClient) -> None:
    response = client.post("/generate", json=BODY, headers={"accept": "text/csv"})
    assert response.headers["vary"] == "Accept, Accept-Encoding"
    problem = problem_of(response, 406)
    assert "application/x-hdf5" in problem["detail"]


def test_a_page_that_is_not_there(client: TestClient) -> None:
    problem_of(client.get("/nothing"), 404)
    problem_of(client.get("/generate"), 405)


def test_too_large_a_body(client_of: ClientMaker) -> None:
    small = client_of(max_body_bytes=1000)
    body = {**BODY, "incident_energies_mev": [1000.0] * 500}
    problem_of(small.post("/generate", json=body), 413)

    def pieces() -> Iterator[bytes]:
        yield json.dumps(body).encode()

    problem_of(small.post("/generate", content=pieces(), headers={"content-type": JSON}), 413)
    assert small.post("/generate", json=BODY).status_code == 200


def test_too_large_an_answer_is_refused_before_it_is_made(client_of: ClientMaker) -> None:
    small = client_of(max_response_bytes=6480 * 4 * 10)
    npz = {"accept": "application/x-npz"}
    assert (
        small.post("/generate", json={**BODY, "incident_energies_mev": [1000.0] * 10}, headers=npz).status_code == 200
    )
    problem_of(small.post("/generate", json={**BODY, "incident_energies_mev": [1000.0] * 11}, headers=npz), 413)
    # JSON takes more for the same showers.
    problem_of(small.post("/generate", json={**BODY, "incident_energies_mev": [1000.0] * 10}), 413)


def test_a_deadline_that_passes(client: TestClient) -> None:
    problem = problem_of(client.post("/generate", json={**BODY, "deadline_s": 1e-6}), 504)
    assert "1e-06 s" in problem["detail"]
    assert client.post("/generate", json=BODY).status_code == 200


def test_an_unavailable_sampler_is_503_and_never_another(client: TestClient) -> None:
    for sampler in ("qpu", "replay"):
        response = client.post("/generate", json={**BODY, "sampler": sampler})
        problem = problem_of(response, 503)
        assert int(response.headers["retry-after"]) >= 1
        assert "configured" in problem["detail"]


def test_fallbacks_are_tried_in_order_and_told(client: TestClient) -> None:
    body = {**BODY, "sampler": "qpu", "fallback": ["replay", "annealing", "gibbs"], "options": {"num_reads": 10}}
    provenance = client.post("/generate", json=body).json()["provenance"]
    assert provenance["sampler"] == "annealing"
    assert provenance["fallback_from"] == "qpu"
    assert "no QPU is configured" in provenance["fallback_reason"]
    assert "no bank is configured" in provenance["fallback_reason"]
    assert any("num_reads" in note for note in provenance["notes"])


def test_a_fallback_is_no_way_around_a_wrong_value(client: TestClient) -> None:
    body = {**BODY, "sampler": "qpu", "fallback": ["gibbs"], "incident_energies_mev": [5]}
    assert problem_of(client.post("/generate", json=body), 422)["field"] == "incident_energies_mev[0]"


def test_what_is_wrong_is_told_before_what_is_unavailable(client: TestClient) -> None:
    body = {**BODY, "sampler": "replay"}
    problem_of(client.post("/generate", json={**body, "model": "nothing"}), 404)
    assert problem_of(client.post("/generate", json={**body, "incident_energies_mev": [5]}), 422)["value"] == 5.0


@pytest.mark.parametrize("sampler", ["gibbs", "annealing", "tempering", "replay", "auto"])
def test_a_dry_run_is_for_a_qpu(client: TestClient, sampler: str) -> None:
    problem = problem_of(client.post("/generate", json={**BODY, "sampler": sampler, "dry_run": True}), 422)
    assert (problem["field"], problem["value"]) == ("dry_run", True)
    missing = problem_of(client.post("/generate", json={**BODY, "sampler": "qpu", "dry_run": True}), 503)
    assert "DWAVE_API_TOKEN" in missing["detail"]


def test_keys_are_asked_for_everywhere_but_at_the_probes(client_of: ClientMaker) -> None:
    digest = hashlib.sha256(b"open sesame").hexdigest()
    locked = client_of(api_keys=f"ada:{digest}")
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "open sesame"}, {"x-api-key": digest}):
        response = locked.post("/generate", json=BODY, headers=headers)
        problem_of(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/models", "/samplers", "/metrics", "/nothing"):
        problem_of(locked.get(path), 401)
    for path in ("/health/live", "/health/ready", "/docs", "/openapi.json"):
        assert locked.get(path).status_code == 200
    for headers in ({"authorization": "Bearer open sesame"}, {"x-api-key": "open sesame"}):
        assert locked.post("/generate", json=BODY, headers=headers).status_code == 200


def test_models(client: TestClient, catalogue: Catalogue) -> None:
    models = client.get("/models").json()["models"]
    assert [(model["name"], model["default"]) for model in models] == [("test-zephyr", True), ("test-pegasus", False)]
    assert models[0]["domain_mev"] == [1000, 1000000]
    detail = client.get("/models/test-pegasus").json()
    assert detail["default_sweeps"] == 32
    assert detail["sweeps_measurement"] == {}
    assert detail["sha256"] == catalogue.get("test-pegasus").sha256
    assert detail["layout"]["voxel_count"] == 6480
    assert (detail["nodes"], detail["topology"]) == (96, "pegasus:16")


def test_samplers(client: TestClient) -> None:
    document = client.get("/samplers").json()
    assert document["auto"] == "gibbs"
    states = {state["name"]: state for state in document["samplers"]}
    assert set(states) == {"gibbs", "annealing", "tempering", "qpu", "replay"}
    assert states["gibbs"]["available"]
    assert states["gibbs"]["options"] == ["sweeps"]
    assert not states["qpu"]["available"]
    assert "DWAVE_API_TOKEN" in states["qpu"]["reason"]


def test_health_and_draining(client_of: ClientMaker) -> None:
    one = client_of()
    assert one.get("/health/live").json() == {"status": "live"}
    assert one.get("/health/ready").json() == {"status": "ready"}
    cast(FastAPI, one.app).state.service.engine.drain()
    for response in (one.get("/health/ready"), one.post("/generate", json=BODY)):
        problem_of(response, 503)
        assert response.headers["retry-after"] == "30"
    assert one.get("/health/live").status_code == 200


def test_metrics_count_what_happened(client_of: ClientMaker) -> None:
    one = client_of()
    one.post("/generate", json={**BODY, "showers_per_energy": 2})
    one.post("/generate", json={**BODY, "seed": -1})
    one.post("/generate", json={**BODY, "sampler": "qpu"})
    one.get("/no/such/page")
    text = one.get("/metrics").text
    assert 'qshower_showers_total{model="test-zephyr",sampler="gibbs"} 6.0' in text
    assert 'qshower_generate_total{outcome="ok"} 1.0' in text
    assert 'qshower_generate_total{outcome="sampler-unavailable"} 1.0' in text
    assert 'qshower_requests_total{route="/generate",status="422"} 1.0' in text
    assert 'route="unmatched",status="404"' in text
    assert "/no/such/page" not in text
    assert "qshower_queue_rows 0.0" in text


def test_every_status_is_declared(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    responses = document["paths"]["/generate"]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "404", "406", "413", "415", "422", "429", "500", "503", "504", "507"}
    for status, response in responses.items():
        kinds = set(response["content"])
        expected = {JSON, "application/x-hdf5", "application/x-npz", "application/vnd.apache.arrow.stream"}
        assert kinds == (expected if status == "200" else {PROBLEM})
    assert "Retry-After" in responses["429"]["headers"]
    assert set(document["components"]["schemas"]) >= {"Problem", "ProblemField", "GenerateRequest", "GenerateOptions"}
    assert client.get("/docs").status_code == 200
