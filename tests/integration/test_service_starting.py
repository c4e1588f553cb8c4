"""From the first second on somebody answers, whatever has to be loaded."""

import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from qshower.model.bundle import find_bundles, load_bundle
from qshower.sampler.errors import InvalidInputError
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.http.starting import Starting
from qshower.service.settings import load_settings
from tests.integration.conftest import serving_app
from tests.polling import until


def never() -> None:
    raise AssertionError("it started")


@pytest.mark.parametrize("root_path", ["", "/showers"])
def test_until_the_models_are_loaded_it_is_alive_and_not_ready(untrained_bundles: Path, root_path: str) -> None:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    settings = load_settings(qpu="off", port=0, root_path=root_path)
    loaded = threading.Event()

    def make() -> FastAPI:
        loaded.wait()
        return create_app(settings, load_models=lambda _: Catalogue(bundles, "test-zephyr"))

    starting = Starting(make, never, retry_after_s=7.0, root_path=root_path)
    with serving_app(starting, settings) as url, httpx2.Client(base_url=url) as client:
        for prefix in {"", root_path}:
            assert client.get(f"{prefix}/health/live").json() == {"status": "live"}
            assert client.head(f"{prefix}/health/live").status_code == 200
            for answer in (
                client.get(f"{prefix}/health/ready"),
                client.get(f"{prefix}/nothing"),
                client.post(f"{prefix}/generate", json={"incident_energies_mev": [2000]}),
            ):
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
                assert answer.json()["detail"] == "the service is starting"
        loaded.set()
        until(lambda: client.get("/health/ready").status_code == 200)
        for prefix in {"", root_path}:
            assert client.get(f"{prefix}/health/ready").status_code == 200
            body = {"incident_energies_mev": [2000], "sampler": "gibbs"}
            assert client.post(f"{prefix}/generate", json=body).status_code == 200
            assert 'src="docs/' in client.get(f"{prefix}/docs").text
        assert client.get("/openapi.json").json().get("servers") == ([{"url": root_path}] if root_path else None)


def test_what_is_wrong_with_a_model_ends_the_server_with_that_error() -> None:
    def make() -> FastAPI:
        raise InvalidInputError("model", "x", "another")

    failed = threading.Event()
    starting = Starting(make, failed.set, retry_after_s=1.0)
    with serving_app(starting, load_settings(port=0)):
        assert failed.wait(60)
    assert isinstance(starting.failure, InvalidInputError)


def test_what_answers_first_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from qshower.service import server\n"
        "from qshower.service.http import connections, starting\n"
        "print(sorted({'torch', 'numba', 'h5py', 'pyarrow', 'dwave', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
