"""Requests as probes, scrapers and other people's HTTP libraries send them."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from qshower.model.bundle import find_bundles, load_bundle
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.settings import load_settings

BODY = {"incident_energies_mev": [2000], "sampler": "gibbs", "seed": 1}
LIMIT = 4096


@pytest.fixture(scope="module")
def client(untrained_bundles: Path) -> Iterator[TestClient]:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    settings = load_settings(qpu="off", max_body_bytes=LIMIT)
    with TestClient(create_app(settings, load_models=lambda _: Catalogue(bundles, "test-zephyr"))) as client:
        yield client


def pages() -> list[str]:
    """Every page that GET answers, of an application that is not started."""
    paths = create_app(load_settings(qpu="off")).openapi()["paths"]
    return [
        path.replace("{name}", "test-zephyr")
        for path, methods in paths.items()
        if "get" in methods and "{job}" not in path
    ]


def test_there_are_pages_to_try() -> None:
    assert {"/health/live", "/health/ready", "/metrics", "/models", "/samplers"} <= set(pages())


@pytest.mark.parametrize("path", [*pages(), "/docs", "/openapi.json"])
def test_head_is_get_without_a_body(client: TestClient, path: str) -> None:
    plain = {"accept-encoding": "identity"}
    head, get = client.head(path, headers=plain), client.get(path, headers=plain)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    if path not in ("/metrics", "/samplers"):  # whose figures change
        assert head.headers["content-length"] == str(len(get.content))


def test_head_where_there_is_nothing(client: TestClient) -> None:
    assert client.head("/nothing").status_code == 404
    assert client.head("/generate").status_code == 405


def post(client: TestClient, content: bytes, encoding: str) -> Any:
    return client.post(
        "/generate", content=content, headers={"content-type": "application/json", "content-encoding": encoding}
    )


def test_a_body_in_gzip(client: TestClient) -> None:
    plain = json.dumps(BODY).encode()
    expected = client.post("/generate", content=plain, headers={"content-type": "application/json"}).json()
    twice = gzip.compress(plain[:10]) + gzip.compress(plain[10:])
    for content, encoding in ((gzip.compress(plain), "gzip"), (twice, "GZIP"), (gzip.compress(plain), "x-gzip")):
        answer = post(client, content, encoding)
        assert answer.status_code == 200, answer.text
        assert answer.json()["showers_mev"] == expected["showers_mev"]
    assert post(client, plain, "identity").status_code == 200


def test_a_body_in_gzip_that_comes_in_pieces(client: TestClient) -> None:
    packed = gzip.compress(json.dumps(BODY).encode())
    pieces = (packed[start : start + 5] for start in range(0, len(packed), 5))
    answer = client.post(
        "/generate", content=pieces, headers={"content-type": "application/json", "content-encoding": "gzip"}
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("size", [LIMIT + 1, 1 << 26])
def test_a_body_in_gzip_is_held_to_the_limit_of_what_it_holds(client: TestClient, size: int) -> None:
    packed = gzip.compress(b" " * size)
    answer = post(client, packed, "gzip")
    assert answer.status_code == 413
    assert answer.json()["type"] == "urn:qshower:too-large"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(BODY).encode(), "the body is not gzip, as Content-Encoding says"),
        (gzip.compress(json.dumps(BODY).encode())[:-9], "the body is gzip that was cut short"),
        (b"", "the body is gzip that was cut short"),
    ],
    ids=["plain", "cut", "empty"],
)
def test_a_body_that_is_no_gzip(client: TestClient, content: bytes, said: str) -> None:
    answer = post(client, content, "gzip")
    assert answer.status_code == 400
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "nonsense"])
def test_another_encoding_is_told_so(client: TestClient, encoding: str) -> None:
    answer = post(client, b"packed", encoding)
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip"
    assert answer.json()["detail"] == f"Content-Encoding: {encoding}; send the body as it is, or with gzip"


@pytest.mark.parametrize(
    "name",
    [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_start_time_seconds",
        "process_open_fds",
        "process_max_fds",
        "python_info",
        "python_gc_collections_total",
        "qshower_queue_rows",
    ],
)
def test_metrics_of_the_process_are_the_usual_ones(client: TestClient, name: str) -> None:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    assert lines
    assert all(float(line.rpartition(" ")[2]) >= 0 for line in lines)
