"""Answers larger than their window over real sockets: the same showers, bounded memory, errors where they are cut."""

import io
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import h5py
import httpx2
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from qshower.model.bundle import Bundle, find_bundles, load_bundle
from qshower.sampler.errors import SamplerAnswerError
from qshower.sampler.gibbs.gibbs_sampler import warm_up
from qshower.service.catalogue import Catalogue
from qshower.service.settings import Settings
from tests.polling import holds, until

ROWS = 700
ARROW, HDF5, NPZ, JSON = (
    "application/vnd.apache.arrow.stream",
    "application/x-hdf5",
    "application/x-npz",
    "application/json",
)
BODY: dict[str, Any] = {"incident_energies_mev": [65536.0], "sampler": "gibbs", "seed": 5}


@pytest.fixture(scope="module")
def catalogue(untrained_bundles: Path) -> Catalogue:
    """Two small models, and every kernel compiled: that may take longer than a server is waited for."""
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    warm_up()
    for one in bundles.values():
        spins = np.ones((40, one.machine.node_count), np.int8)
        one.decode(spins, np.full(40, 5e4), np.zeros((40, 2), np.uint64), 0.0)
    return Catalogue(bundles, "test-zephyr")


@pytest.fixture
def url(
    catalogue: Catalogue,
    environment: pytest.MonkeyPatch,
    serve: Callable[[Callable[[Settings], Catalogue]], AbstractContextManager[str]],
) -> Iterator[str]:
    with serve(lambda _: catalogue) as address:
        yield address


def metric(url: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", httpx2.get(f"{url}/metrics", timeout=60).text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def answer(url: str, accept: str, rows: int) -> httpx2.Response:
    body = {**BODY, "showers_per_energy": rows}
    response = httpx2.post(f"{url}/generate", json=body, headers={"accept": accept}, timeout=120)
    assert response.status_code == 200, response.text
    return response


def test_what_is_streamed_is_what_is_sent_whole(url: str) -> None:
    whole = answer(url, NPZ, 100)
    assert int(whole.headers["content-length"]) == len(whole.content)
    first = np.load(io.BytesIO(whole.content))["showers_mev"]
    streamed = answer(url, NPZ, ROWS)
    assert streamed.headers["transfer-encoding"] == "chunked"
    showers = np.load(io.BytesIO(streamed.content))["showers_mev"]
    assert showers.shape == (ROWS, 6480)
    assert np.array_equal(showers[:100], first)
    with h5py.File(io.BytesIO(answer(url, HDF5, ROWS).content)) as file:
        assert np.array_equal(file["showers"][:], showers)
        assert json.loads(file.attrs["provenance"])["sampler"] == "gibbs"
    document = answer(url, JSON, ROWS).json()
    assert np.array_equal(np.array(document["showers_mev"], dtype=np.float32), showers)
    for compression in ("lz4", "zstd", "none"):
        reader = pa.ipc.open_stream(answer(url, f"{ARROW};compression={compression}", ROWS).content)
        batches = list(reader)
        assert len(batches) > 3
        table = pa.Table.from_batches(batches)
        values: NDArray[np.float32] = table["showers_mev"].combine_chunks().flatten().to_numpy()
        assert np.array_equal(values.reshape(-1, 6480), showers)
        assert int(table.schema.metadata[b"rows"]) == ROWS


def test_the_first_showers_come_before_the_last_are_drawn(url: str) -> None:
    body = {**BODY, "showers_per_energy": 20_000}
    with (
        httpx2.stream("POST", f"{url}/generate", json=body, headers={"accept": ARROW}, timeout=120) as response,
    ):
        blocks = response.iter_raw()
        assert next(blocks)
        assert metric(url, "qshower_queue_rows") > 15_000
    until(lambda: metric(url, "qshower_queue_requests") == 0)


def test_a_failure_on_the_way_is_an_error_of_the_client(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, calls = Bundle.decode, []

    def failing(self: Bundle, *arguments: Any) -> NDArray[np.float32]:
        calls.append(1)
        if len(calls) > 3:
            raise SamplerAnswerError("no further latent")
        return decode(self, *arguments)

    monkeypatch.setattr(Bundle, "decode", failing)
    body = {**BODY, "showers_per_energy": ROWS}
    with pytest.raises(httpx2.RemoteProtocolError):
        httpx2.post(f"{url}/generate", json=body, headers={"accept": ARROW}, timeout=120)
    response = httpx2.post(f"{url}/generate", json=body, headers={"accept": HDF5}, timeout=120)
    assert response.status_code == 503
    assert 'qshower_generate_total{outcome="sampler-answer"} 2.0' in httpx2.get(f"{url}/metrics", timeout=60).text


def test_readers_that_stall_hold_their_windows_and_nobody_up(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    readers, rows = 6, 5000
    body = json.dumps({**BODY, "showers_per_energy": rows})
    head = f"POST /generate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json"
    head += f"\r\nAccept: {ARROW};compression=none"
    answer(url, NPZ, 200)
    before = metric(url, "process_resident_memory_bytes")
    with ExitStack() as opened:
        for _ in range(readers):
            connection = opened.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            assert len(connection.recv(200)) > 0
        until(lambda: metric(url, "qshower_queue_requests") == readers)
        bound = readers * 2 * (12 << 20)
        assert 0 < metric(url, "qshower_pending_bytes") <= bound
        left = [metric(url, "qshower_queue_rows")]

        def still() -> bool:
            left.append(metric(url, "qshower_queue_rows"))
            return left[-1] == left[-2] < readers * rows

        until(still)
        holds(still)
        # Of 780 MB of showers, and as much again encoded, a part is there.
        assert left[-1] > 0.6 * readers * rows
        assert metric(url, "process_resident_memory_bytes") - before < 600e6
        assert answer(url, NPZ, 1).status_code == 200
    until(lambda: metric(url, "qshower_queue_requests") == 0)
    assert metric(url, "qshower_pending_bytes") == 0


def test_a_reader_that_goes_away_stops_the_stream(url: str) -> None:
    body = {**BODY, "showers_per_energy": 50_000}
    with httpx2.stream("POST", f"{url}/generate", json=body, headers={"accept": JSON}, timeout=120) as response:
        assert next(response.iter_raw())
    until(lambda: metric(url, "qshower_queue_rows") == 0)
    page = httpx2.get(f"{url}/metrics", timeout=60).text
    assert 'qshower_generate_total{outcome="client_gone"} 1.0' in page


def test_a_large_hdf5_answer_leaves_no_file(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    response = answer(url, f"{HDF5};compression=zstd", ROWS)
    with h5py.File(io.BytesIO(response.content)) as file:
        assert file["showers"].shape == (ROWS, 6480)
    assert list(folder.iterdir()) == []
