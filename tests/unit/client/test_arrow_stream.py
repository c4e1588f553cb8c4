"""Streams are read as they arrive: the same batches however the bytes are cut; no cut stream passes for a whole one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from qshower.client import BadAnswerError, IncompleteAnswerError, MissingPackageError, Showers
from qshower.client.arrow_stream import END, ArrowReader

FIRST, FINAL = {"sampler": "qpu"}, {"sampler": "qpu", "qpu_access_time_us": 7}


def stream(sizes: Sequence[int], *, final: bool = True, compression: str | None = "lz4") -> bytes:
    """Batches of those sizes, of 5 voxels, whose values count up."""
    schema = pa.schema(
        [("incident_energies_mev", pa.float64()), ("showers_mev", pa.list_(pa.float32(), 5))],
        metadata={"provenance": json.dumps(FIRST), "geometry": '{"name": "g"}'},
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        row = 0
        for size in sizes:
            values = pa.array(np.arange(5 * row, 5 * (row + size), dtype=np.float32))
            showers = pa.FixedSizeListArray.from_arrays(values, 5)
            energies = pa.array(np.arange(row, row + size, dtype=np.float64))
            writer.write_batch(pa.record_batch([energies, showers], schema=schema))
            row += size
        if final:
            nothing = schema.empty_table().to_batches() or [pa.RecordBatch.from_pylist([], schema=schema)]
            metadata = {"rows": str(row), "provenance": json.dumps(FINAL)}
            writer.write_batch(nothing[0], custom_metadata=metadata)
    return bytes(sink.getvalue())


def read(content: bytes, count: int, step: int) -> list[Showers]:
    reader, found = ArrowReader(count), list[Showers]()
    for start in range(0, len(content), step):
        found += reader.feed(content[start : start + step])
    return found + list(reader.finish())


@pytest.mark.parametrize("compression", ["lz4", "zstd", None])
@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
def test_batches_are_the_same_however_the_bytes_are_cut(step: int, compression: str | None) -> None:
    batches = read(stream([3, 1, 4], compression=compression), 8, step)
    assert [len(batch.showers_mev) for batch in batches] == [3, 1, 4]
    assert np.array_equal(np.concatenate([batch.showers_mev for batch in batches]), np.arange(40).reshape(8, 5))
    assert np.concatenate([batch.incident_energies_mev for batch in batches]).tolist() == list(range(8))
    assert [batch.provenance for batch in batches] == [FIRST, FIRST, FINAL]
    assert batches[0].geometry == {"name": "g"}
    batches[0].showers_mev[:] = 0


def test_a_stream_without_final_provenance() -> None:
    assert [batch.provenance for batch in read(stream([2, 2], final=False), 4, 100)] == [FIRST, FIRST]


def test_every_cut_is_an_error() -> None:
    whole = stream([3, 1])
    for end in range(0, len(whole) - len(END) + 1, 13):
        with pytest.raises(IncompleteAnswerError, match="of 4 showers"):
            read(whole[:end], 4, 50)


def test_another_number_of_showers_is_an_error() -> None:
    with pytest.raises(IncompleteAnswerError, match="5 showers were asked for; the stream has 4"):
        read(stream([3, 1]), 5, 50)


@pytest.mark.parametrize("content", [b"PK\x03\x04 and more", b"\xff\xff\xff\xff" + b"\x10\0\0\0" + b"\x7f" * 40])
def test_what_is_no_stream_is_an_error(content: bytes) -> None:
    with pytest.raises(BadAnswerError):
        read(content, 1, 50)


def test_without_pyarrow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'qshower-client\[arrow\]'"):
        ArrowReader(1)
