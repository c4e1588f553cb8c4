"""The service on a Unix socket and under a path, and behind nginx as the page on proxies has it."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient

from qshower.model.bundle import find_bundles, load_bundle
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.server import bind_unix
from qshower.service.service_errors import SettingsError
from qshower.service.settings import load_settings
from tests.integration.conftest import serving
from tests.polling import until

PAGE = Path(__file__).parents[2] / "docs" / "proxies.md"
BODY = {"incident_energies_mev": [2000.0], "sampler": "gibbs", "seed": 1}


@pytest.fixture(scope="module")
def catalogue(untrained_bundles: Path) -> Catalogue:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    return Catalogue(bundles, "test-zephyr")


def test_a_unix_socket_is_for_its_owner_and_group_and_goes_with_the_service(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    path = tmp_path / "http.sock"
    with serving(lambda _: catalogue, unix_socket=path, root_path="/showers") as url:
        assert url == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(SettingsError, match=r"QSHOWER_UNIX_SOCKET=.*allowed: a new path"):
            bind_unix(path)
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), base_url="http://any") as client:
            assert client.get("/showers/health/ready").status_code == 200
            assert client.post("/generate", json=BODY).status_code == 200
    assert not path.exists()


def test_what_a_service_left_behind_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    bind_unix(path).close()
    bind_unix(path).close()
    path.unlink()
    path.write_text("mine")
    with pytest.raises(SettingsError, match="QSHOWER_UNIX_SOCKET"):
        bind_unix(path)
    assert path.read_text() == "mine"


def test_no_answer_depends_on_the_host_of_its_request(catalogue: Catalogue) -> None:
    app = create_app(load_settings(qpu="off"), load_models=lambda _: catalogue)
    with TestClient(app, follow_redirects=False) as client:
        for path in ("/models/", "/health/live/", "/docs/", "/generate/"):
            answer = client.get(path, headers={"host": "evil.example"})
            assert answer.status_code == 404
            assert "location" not in answer.headers
            assert "evil" not in answer.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("showers.example.org", 200),
        ("SHOWERS.example.org:8000", 200),
        ("a.b.example.net", 200),
        ("example.net", 421),
        ("evil.example", 421),
        ("", 421),
    ],
)
def test_hosts_that_are_not_allowed_are_misdirected(catalogue: Catalogue, host: str, status: int) -> None:
    settings = load_settings(qpu="off", allowed_hosts="showers.example.org, *.example.net")
    with TestClient(create_app(settings, load_models=lambda _: catalogue)) as client:
        answer = client.get("/models", headers={"host": host})
        assert answer.status_code == status
        if status == 421:
            assert answer.json()["type"] == "urn:qshower:misdirected"
        assert client.get("/health/ready", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [("root_path", "showers"), ("root_path", "/showers/"), ("trusted_proxies", "proxy"), ("keep_alive_s", 0)],
)
def test_settings_of_proxies_that_cannot_be(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(**{name: value})
    assert caught.value.field == f"QSHOWER_{name.upper()}"
    assert str(value) in str(caught.value)


@contextmanager
def nginx(configuration: str, folder: Path) -> Iterator[None]:
    """nginx with a part of a configuration, as this user and in the foreground."""
    program = shutil.which("nginx") or next((path for path in ("/usr/sbin/nginx",) if Path(path).exists()), None)
    if program is None:
        pytest.skip("nginx is not installed")
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"{'user root; ' if os.geteuid() == 0 else ''}daemon off; pid {folder}/pid; error_log stderr; events {{}} "
        f"http {{ access_log off; {paths}\n{configuration}\n}}"
    )
    process = subprocess.Popen([program, "-e", "stderr", "-p", str(folder), "-c", str(file)])
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def test_behind_nginx_as_the_page_says(catalogue: Catalogue, tmp_path: Path) -> None:
    found = re.search(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    path, entry = tmp_path / "http.sock", tmp_path / "entry.sock"
    text = found[1].replace("/run/qshower/http.sock", str(path)).replace("127.0.0.1:8080", f"unix:{entry}")
    with (
        serving(lambda _: catalogue, unix_socket=path, root_path="/showers"),
        nginx(text, tmp_path),
        httpx2.Client(transport=httpx2.HTTPTransport(uds=str(entry)), base_url="http://showers.example") as client,
    ):
        until(entry.exists)
        assert client.get("/showers/health/ready").status_code == 200
        answers = [
            client.post("/showers/generate", json=BODY, headers={"accept-encoding": coding})
            for coding in ("identity", "gzip")
        ]
        assert [answer.headers.get("content-encoding") for answer in answers] == [None, "gzip"]
        assert answers[0].json()["showers_mev"] == answers[1].json()["showers_mev"]
        assert client.head("/showers/docs").status_code == 200
        assert client.get("/showers/openapi.json").json()["servers"] == [{"url": "/showers"}]
        assert client.get("/showers/models/", follow_redirects=False).status_code == 404
        large = client.post("/showers/generate", content=b"[" * 5_000_000, headers={"content-type": "application/json"})
        assert (large.status_code, large.json()["type"]) == (413, "urn:qshower:too-large")
