"""The Python client, against the application itself, over sockets and against a server that misbehaves."""

import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import h5py
import nbclient
import nbformat
import numpy as np
import pytest
from fastapi.testclient import TestClient

from qshower.client import (
    AsyncClient,
    Client,
    DeadlineError,
    IncompleteAnswerError,
    InvalidRequestError,
    InvalidValueError,
    NotFoundError,
    UnavailableError,
)
from qshower.model.bundle import find_bundles, load_bundle
from qshower.model.showers_file import open_showers
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.settings import load_settings

URL = "http://testserver"


@pytest.fixture(scope="module")
def client(untrained_bundles: Path) -> Iterator[Client]:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    app = create_app(load_settings(qpu="off"), load_models=lambda _: Catalogue(bundles, "test-zephyr"))
    with TestClient(app) as http:
        yield Client(URL, http=http, sleep=lambda _: None, longest_wait_s=0.0)


def test_showers_as_arrays(client: Client) -> None:
    showers = client.generate([1000.0, 65536.0], showers_per_energy=2, sampler="gibbs", seed=1)
    assert showers.incident_energies_mev.tolist() == [1000, 1000, 65536, 65536]
    assert showers.showers_mev.shape == (4, 6480)
    assert showers.showers_mev.dtype == np.float32
    assert showers.provenance["sampler"] == "gibbs"
    assert showers.geometry["voxel_count"] == 6480
    again = client.generate(np.array([1000.0]), sampler="gibbs", seed=1, options={"sweeps": 32})
    assert np.array_equal(again.showers_mev[0], showers.showers_mev[0])


def test_showers_as_a_file(client: Client, tmp_path: Path) -> None:
    path, seen = tmp_path / "out.hdf5", list[tuple[int, int | None]]()
    client.save(path, [1000.0], seed=1, sampler="gibbs", progress=lambda done, total: seen.append((done, total)))
    with h5py.File(path) as file:
        assert file["showers"].shape == (1, 6480)
        expected = client.generate([1000.0], seed=1, sampler="gibbs").showers_mev
        assert np.array_equal(file["showers"][:], expected)
    assert seen[-1][0] == seen[-1][1] == path.stat().st_size


def test_a_refusal_leaves_the_file_as_it_was(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "out.hdf5"
    path.write_text("before")
    with pytest.raises(InvalidRequestError):
        client.save(path, [1.0])
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["out.hdf5"]


def test_what_the_service_says_about_itself(client: Client) -> None:
    assert client.models()[0]["name"] == "test-zephyr"
    assert client.model("test-pegasus")["topology"] == "pegasus:16"
    assert {state["name"] for state in client.samplers()} == {"gibbs", "annealing", "tempering", "qpu", "replay"}
    assert client.ready()


def test_refusals_are_typed(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.generate([5000.0, 5.0])
    assert (caught.value.status, caught.value.field, caught.value.value) == (422, "incident_energies_mev[1]", 5.0)
    assert caught.value.allowed is not None
    assert "1000 to 1000000" in caught.value.allowed
    with pytest.raises(NotFoundError):
        client.generate([5000.0], model="nothing")
    with pytest.raises(UnavailableError) as unavailable:
        client.generate([5000.0], sampler="qpu")
    assert unavailable.value.retry_after_s == 30.0
    with pytest.raises(DeadlineError):
        client.generate([5000.0], deadline_s=1e-6)
    with pytest.raises(ValueError, match="finite"):
        client.generate([np.nan])


def test_a_dry_run_of_what_bills_nothing_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.estimate([1000.0], sampler="gibbs")
    assert caught.value.field == "dry_run"
    with pytest.raises(UnavailableError):
        client.estimate([1000.0])


def test_both_kinds_of_client_get_the_same(server_url: str, tmp_path: Path) -> None:
    energies = [1000.0, 65536.0]
    with Client(server_url) as client:
        expected = client.generate(energies, sampler="gibbs", seed=3)

    async def run() -> None:
        async with AsyncClient(server_url) as client:
            showers, models = await client.generate(energies, sampler="gibbs", seed=3), await client.models()
            await client.save(tmp_path / "out.hdf5", energies, sampler="gibbs", seed=3)
            assert np.array_equal(showers.showers_mev, expected.showers_mev)
            assert models[0]["name"] == (await client.model(models[0]["name"]))["name"]
            assert {"gibbs", "qpu"} <= {state["name"] for state in await client.samplers()}
            assert await client.ready()
            batches = [batch async for batch in client.iter_batches(energies, sampler="gibbs", seed=3)]
            assert np.array_equal(np.concatenate([batch.showers_mev for batch in batches]), expected.showers_mev)
            with pytest.raises(InvalidValueError, match="domain"):
                await client.generate([1.0])
            with pytest.raises(InvalidRequestError, match="dry_run"):
                await client.estimate(energies, sampler="gibbs")

    anyio.run(run)
    with h5py.File(tmp_path / "out.hdf5") as file:
        assert np.array_equal(file["showers"][:], expected.showers_mev)


def test_batches_are_the_showers_of_one_answer(server_url: str) -> None:
    choices: dict[str, Any] = {"showers_per_energy": 700, "sampler": "gibbs", "seed": 5}
    told: list[tuple[int, int | None]] = []
    with Client(server_url) as client:
        expected = client.generate([1000.0, 65536.0], **choices)
        stream = client.iter_batches([1000.0, 65536.0], progress=lambda *seen: told.append(seen), **choices)
        batches = list(stream)
        assert len(batches) > 1
        assert np.array_equal(np.concatenate([batch.showers_mev for batch in batches]), expected.showers_mev)
        energies = np.concatenate([batch.incident_energies_mev for batch in batches])
        assert np.array_equal(energies, expected.incident_energies_mev)
        assert batches[-1].provenance["sampler"] == "gibbs"
        assert batches[0].geometry == expected.geometry
        assert told[-1] == (1400, 1400)
        early = client.iter_batches([1000.0], **choices)
        next(early)
        early.close()
        with pytest.raises(InvalidValueError, match="domain"):
            next(client.iter_batches([1.0]))


def test_showers_become_a_file_of_the_challenge(client: Client, tmp_path: Path) -> None:
    showers = client.generate([1000.0, 65536.0], sampler="gibbs", seed=1)
    showers.to_hdf5(tmp_path / "out.hdf5")
    with open_showers(tmp_path / "out.hdf5") as file:
        assert file.geometry.name == "2"
        assert json.loads(file.attributes["provenance"]) == showers.provenance
    with h5py.File(tmp_path / "out.hdf5") as written:
        assert np.array_equal(written["showers"][:], showers.showers_mev)
        assert written["incident_energies"][:].tolist() == [[1000.0], [65536.0]]
    assert [path.name for path in tmp_path.iterdir()] == ["out.hdf5"]


def test_an_answer_that_is_cut_is_an_error(tmp_path: Path) -> None:
    """By the connection, before the length that was announced."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-hdf5\r\nContent-Length: 99\r\n\r\n"
                connection.sendall(head + b"ab")
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url) as client, pytest.raises(IncompleteAnswerError, match="cut"):
            client.save(tmp_path / "out.hdf5", [1000.0])
        thread.join()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shown_on", ["terminal", "pipe"])
def test_progress_in_a_terminal_and_nowhere_else(server_url: str, shown_on: str) -> None:
    script = f"from qshower.client import Client; Client({server_url!r}).generate([1000.0], seed=1, progress=True)"
    master, slave = pty.openpty()
    standard_error = slave if shown_on == "terminal" else subprocess.DEVNULL
    subprocess.run([sys.executable, "-c", script], stderr=standard_error, check=True, timeout=120)
    os.close(slave)
    said = b""
    with contextlib.suppress(OSError):
        while block := os.read(master, 65536):
            said += block
    os.close(master)
    assert (b"100 %" in said) == (shown_on == "terminal")


def test_progress_in_a_notebook(server_url: str) -> None:
    code = f"""
from qshower.client import Client
showers = Client({server_url!r}).generate([1000.0], progress=True)
len(showers.showers_mev)"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown, result = (output["data"]["text/plain"] for output in notebook.cells[0].outputs)
    assert "100 %" in shown
    assert result == "1"


def test_the_client_needs_nothing_else_of_the_project() -> None:
    others = ("sampler", "model", "evaluation", "service", "torch", "h5py")
    script = f"import qshower.client, sys; print([name for name in {others} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
