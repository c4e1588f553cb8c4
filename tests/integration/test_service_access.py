"""Who may call and what for: rates, the policy for /metrics, request ids, and that no request names a file."""

import hashlib
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient

from qshower.model.bundle import find_bundles, load_bundle
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.settings import load_settings

BODY: dict[str, Any] = {"incident_energies_mev": [1000], "sampler": "gibbs", "seed": 1, "options": {"sweeps": 2}}
DIGEST = hashlib.sha256(b"open sesame").hexdigest()
KEY = {"x-api-key": "open sesame"}
ClientMaker = Callable[..., TestClient]


@pytest.fixture(scope="module")
def client_of(untrained_bundles: Path) -> Iterator[ClientMaker]:
    """Makes a running client of an application with other settings."""
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    opened: list[TestClient] = []

    def make(**settings: Any) -> TestClient:
        chosen = load_settings(qpu="off", latent_cache_bytes=0, **settings)
        opened.append(TestClient(create_app(chosen, load_models=lambda _: Catalogue(bundles, "test-zephyr"))))
        opened[-1].__enter__()
        return opened[-1]

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def client(client_of: ClientMaker) -> TestClient:
    return client_of()


def test_a_key_that_has_drawn_its_rate_waits(client_of: ClientMaker) -> None:
    client = client_of(api_keys=f"ada:{DIGEST}::60")
    body = {**BODY, "showers_per_energy": 90}
    assert client.post("/generate", json=body, headers=KEY).status_code == 200
    refused = client.post("/generate", json=BODY, headers=KEY)
    assert refused.status_code == 429
    assert refused.json()["type"] == "urn:qshower:rate"
    assert "60 showers a minute" in refused.json()["detail"]
    assert 1 <= int(refused.headers["retry-after"]) <= 31
    over_kserve = client.post(
        "/v2/models/test-zephyr/infer",
        json={"inputs": [{"name": "incident_energies_mev", "shape": [1], "datatype": "FP64", "data": [1000]}]},
        headers=KEY,
    )
    assert over_kserve.status_code == 429
    page = client.get("/metrics", headers=KEY).text
    assert 'qshower_generate_total{outcome="rate"} 2.0' in page
    assert re.search(r'qshower_key_showers_left\{key="ada"\} -', page)
    # What is refused for another reason costs nothing.
    other = client_of(api_keys=f"ada:{DIGEST}::60", max_queue_requests=1, max_queue_rows=1)
    service = cast(FastAPI, other.app).state.service
    service.engine.drain()
    assert other.post("/generate", json=body, headers=KEY).status_code == 503
    assert 'qshower_key_showers_left{key="ada"} 60.0' in other.get("/metrics", headers=KEY).text


def test_metrics_need_a_key_unless_they_are_open(client_of: ClientMaker) -> None:
    closed = client_of(api_keys=f"ada:{DIGEST}")
    assert closed.get("/metrics").status_code == 401
    assert closed.get("/metrics", headers=KEY).status_code == 200
    open_to_all = client_of(api_keys=f"ada:{DIGEST}", metrics_open=True)
    assert open_to_all.get("/metrics").status_code == 200
    assert open_to_all.get("/models").status_code == 401


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("run-7/event_12:a.b+c=", True), ("", False), ("a b", False), ("x" * 129, False), ('"; drop', False)],
)
def test_a_request_keeps_its_id_if_it_is_well_formed(client: TestClient, sent: str, *, kept: bool) -> None:
    answer = client.get("/models", headers={"x-request-id": sent})
    found = answer.headers["x-request-id"]
    assert (found == sent) is kept
    assert kept or re.fullmatch("[0-9a-f]{32}", found)


def test_the_log_has_the_id_of_each_request(
    client: TestClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    header, own = re.findall(r"-H '(X-Request-Id): (\S+)'", page)[0]
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        assert client.get("/models", headers={header: own}).headers[header] == own
        refused = client.post("/generate", json={**BODY, "sampler": "qpu"}, headers={header: "a-7"})
    assert refused.status_code == 503
    told = [line for line in lines if line["event"] == "answered"]
    assert [(line["request_id"], line["log_level"], line["status"]) for line in told] == [
        (own, "debug", 200),
        ("a-7", "warning", 503),
    ]
    assert (told[0]["method"], told[0]["route"], told[0]["key"]) == ("GET", "/models", None)


class _Touched:
    """Remembers what the process opens, unpickles and connects to, while it is looking."""

    def __init__(self) -> None:
        self.looking = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.looking and event in ("open", "pickle.find_class", "socket.connect", "socket.getaddrinfo", "exec"):
            self.seen.append(f"{event} {arguments[:2]}")


def test_no_path_pickle_or_address_is_taken_from_a_request(client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "canary.hdf5"
    secret.write_bytes(b"secret")
    evil = pickle.dumps(os.system).decode("latin-1")
    baits = [
        str(secret),
        f"../../../../..{secret}",
        f"file://{secret}",
        "http://canary.invalid:9/x",
        f"{secret}@1",
        evil,
    ]
    touched = _Touched()
    touched.looking = True
    try:
        for bait in baits:
            fields: list[dict[str, Any]] = [{name: bait} for name in ("model", "sampler", "solver")]
            fields += [{"fallback": [bait]}, {"options": {"condition_mode": bait}}, {bait: 1}]
            for change in fields:
                assert client.post("/generate", json={**BODY, **change}).status_code in (404, 422)
            named = bait if bait.isascii() and bait.isprintable() else "-"
            headers = {"accept": "application/x-hdf5", "x-request-id": named}
            accepted = client.post("/generate", json=BODY, headers=headers)
            assert accepted.status_code == 200
            tensor = {"name": "incident_energies_mev", "shape": [1], "datatype": "FP64", "data": [1000]}
            for call in (
                {"inputs": [tensor], "parameters": {"shared_memory_region": bait}},
                {"inputs": [{**tensor, "parameters": {"shared_memory_region": bait}}]},
                {"inputs": [{**tensor, "name": bait}]},
                {"inputs": [tensor], "outputs": [{"name": bait}]},
            ):
                assert client.post("/v2/models/test-zephyr/infer", json=call).status_code in (400, 422)
            for path in ("/models/", "/v2/models/"):
                assert client.get(path + quote(bait, safe="")).status_code == 404
        for kind in ("application/octet-stream", "application/x-pickle", "application/json"):
            refused = client.post("/generate", content=pickle.dumps(os.system), headers={"content-type": kind})
            assert refused.status_code in (400, 415, 422)
    finally:
        touched.looking = False
    assert [event for event in touched.seen if "canary" in event or event.startswith("pickle")] == []
    assert secret.read_bytes() == b"secret"
