"""/docs and /openapi.json: from this installation alone, with a way to enter a key."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from qshower.model.bundle import find_bundles, load_bundle
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.settings import load_settings

DIGEST = hashlib.sha256(b"open sesame").hexdigest()


@pytest.fixture(scope="module")
def locked(untrained_bundles: Path) -> Iterator[TestClient]:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    settings = load_settings(qpu="off", api_keys=f"ada:{DIGEST}")
    with TestClient(create_app(settings, load_models=lambda _: Catalogue(bundles, "test-zephyr"))) as client:
        yield client


def test_the_page_needs_no_other_host_and_no_key(locked: TestClient) -> None:
    page = locked.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in page.text
    found = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(found) == 4
    for reference in found:
        assert "//" not in reference
        part = locked.get(urljoin("/docs", reference))
        assert (part.status_code, part.headers["x-content-type-options"]) == (200, "nosniff")
        assert len(part.content) > 100
    start = locked.get("/docs/start.js").text
    assert 'url: "openapi.json"' in start
    assert "validatorUrl: null" in start  # by default it is another host
    assert locked.get("/docs/../logs.py").status_code in (401, 404)
    assert locked.get("/docs/nothing.js").status_code == 401


def test_a_key_can_be_entered(locked: TestClient) -> None:
    document = locked.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
    assert document["security"] == [{name: []} for name in schemes]
    for path, methods in document["paths"].items():
        status = locked.get(path.replace("{name}", "test-zephyr")).status_code
        assert all((operation.get("security") == []) == (status == 200) for operation in methods.values()), path


def test_where_no_key_is_asked_for_none_is_declared() -> None:
    document = create_app(load_settings(qpu="off")).openapi()
    assert "securitySchemes" not in document["components"]
    assert "security" not in document


def test_what_is_drawn_is_described(locked: TestClient) -> None:
    document = locked.get("/openapi.json").json()
    body = document["paths"]["/generate"]["post"]["requestBody"]
    assert body["required"]
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/GenerateRequest"}
    assert "GenerateOptions" in document["components"]["schemas"]
