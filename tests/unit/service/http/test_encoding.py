"""Answers as bytes, in pieces and whole: what readers of each format make of them."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import orjson
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from qshower.model import shuffled_zstd
from qshower.model.geometry import named_geometry
from qshower.service.http import encoding
from qshower.service.http.encoding import Content, encoder_of
from qshower.service.http.negotiation import COMPRESSIONS, Format, Wanted
from qshower.service.service_errors import StorageError
from tests.conftest import LargestFile

GEOMETRY = named_geometry("2")
FIRST, LAST = {"sampler": "gibbs", "notes": []}, {"sampler": "gibbs", "notes": ["at the end"]}
ALL = [Wanted(kind, how) for kind, known in COMPRESSIONS.items() for how in known]


@pytest.fixture(scope="module")
def showers() -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    found = rng.exponential(50.0, (25, GEOMETRY.voxel_count)).astype(np.float32)
    found[rng.random(found.shape) < 0.8] = 0
    return found


@pytest.fixture(scope="module")
def energies() -> NDArray[np.float64]:
    return np.geomspace(1e3, 1e6, 25)


def pieces(wanted: Wanted, energies: NDArray[np.float64], showers: NDArray[np.float32], *cuts: int) -> list[bytes]:
    encoder = encoder_of(wanted, Content(energies, GEOMETRY, FIRST))
    try:
        found, start = [encoder.head()], 0
        for block in np.split(showers, cuts):
            found.append(encoder.chunk(start, block))
            start += len(block)
        return found + list(encoder.tail(LAST))
    finally:
        encoder.close()


def read(wanted: Wanted, data: bytes) -> tuple[NDArray[np.floating], NDArray[np.floating], dict[str, Any]]:
    if wanted.format is Format.JSON:
        document = json.loads(data)
        assert document["geometry"] == orjson.loads(orjson.dumps(GEOMETRY.as_dict()))
        return (
            np.array(document["incident_energies_mev"]),
            np.array(document["showers_mev"], np.float32),
            document["provenance"],
        )
    if wanted.format is Format.NPZ:
        with np.load(io.BytesIO(data)) as file:
            return file["incident_energies_mev"], file["showers_mev"], json.loads(str(file["provenance"]))
    if wanted.format is Format.ARROW:
        reader = pa.ipc.open_stream(data)
        batches, last = [], dict[bytes, bytes]()
        while True:
            try:
                batch, found = reader.read_next_batch_with_custom_metadata()
            except StopIteration:
                break
            batches.append(batch)
            last = dict(found or {})
        table = pa.Table.from_batches(batches)
        assert json.loads(table.schema.metadata[b"provenance"]) == FIRST
        assert int(table.schema.metadata[b"rows"]) == int(last[b"rows"]) == len(table)
        values = np.array(table["showers_mev"].to_pylist(), np.float32)
        return table["incident_energies_mev"].to_numpy(), values, json.loads(last[b"provenance"])
    with h5py.File(io.BytesIO(data)) as file:
        energies = file["incident_energies"][:, 0]
        provenance = json.loads(file.attrs["provenance"])
        if wanted.compression == "gzip":
            return energies, file["showers"][:], provenance
        return energies, unshuffled(file["showers"]), provenance


def unshuffled(dataset: h5py.Dataset) -> NDArray[np.float32]:
    """Rows of chunks in zstd of shuffled bytes, read without HDF5's filter, which not every machine has."""
    rows, found = dataset.chunks[0], []
    for start in range(0, len(dataset), rows):
        _, packed = dataset.id.read_direct_chunk((start, 0))
        found.append(shuffled_zstd.unpack(packed, rows, dataset.shape[1]))
    return np.concatenate(found)[: len(dataset)]


@pytest.mark.parametrize("wanted", ALL, ids=str)
def test_what_is_read_is_what_was_written_however_it_was_cut(
    wanted: Wanted, energies: NDArray[np.float64], showers: NDArray[np.float32]
) -> None:
    for cuts in ((), (1, 7, 20)):
        found, values, provenance = read(wanted, b"".join(pieces(wanted, energies, showers, *cuts)))
        assert np.allclose(found, energies, rtol=1e-6)
        assert np.array_equal(values, showers)
        assert provenance == LAST


@pytest.mark.parametrize("wanted", [one for one in ALL if one.format is not Format.HDF5], ids=str)
def test_each_chunk_gives_bytes_at_once(
    wanted: Wanted, energies: NDArray[np.float64], showers: NDArray[np.float32]
) -> None:
    found = pieces(wanted, energies, showers, 1, 7, 20)
    assert all(len(one) > 0 for one in found[1:])
    assert sum(map(len, found[1:5])) > 0.9 * sum(map(len, found)) - 5000


@pytest.mark.parametrize("kind", [Format.JSON, Format.NPZ, Format.HDF5])
def test_an_answer_that_is_cut_short_cannot_be_read(
    kind: Format, energies: NDArray[np.float64], showers: NDArray[np.float32]
) -> None:
    wanted = Wanted(kind, COMPRESSIONS[kind][0])
    cut = b"".join(pieces(wanted, energies, showers, 10))[:-100]
    with pytest.raises((ValueError, OSError, zipfile.BadZipFile)):
        read(wanted, cut)


def test_an_arrow_stream_without_its_end_has_too_few_rows(
    energies: NDArray[np.float64], showers: NDArray[np.float32]
) -> None:
    found = pieces(Wanted(Format.ARROW, "lz4"), energies, showers, 10)
    table = pa.ipc.open_stream(b"".join(found[:2])).read_all()
    assert len(table) == 10 < int(table.schema.metadata[b"rows"])


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_large_hdf5_answer_is_on_disk_until_it_is_sent_and_a_full_disk_is_told(
    energies: NDArray[np.float64],
    showers: NDArray[np.float32],
    compression: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    largest_file: LargestFile,
) -> None:
    monkeypatch.setattr(encoding, "IN_MEMORY_BYTES", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    wanted = Wanted(Format.HDF5, compression)
    found = pieces(wanted, energies, showers, 10)
    assert np.array_equal(read(wanted, b"".join(found))[1], showers)
    with largest_file(20_000), pytest.raises(StorageError, match="temporary file"):
        pieces(wanted, energies, showers, 10)
    assert list(tmp_path.iterdir()) == []
