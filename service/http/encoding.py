"""Answers as bytes, in each of the formats. Each holds the energies, the showers and the provenance."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from qshower.model.showers_writer import write_showers
from qshower.service.generation.shower_request import ShowerAnswer
from qshower.service.http.negotiation import Format

# What a voxel takes at most on average: JSON writes "0.0," for an empty one and about 10 bytes for a hit.
BYTES_PER_VOXEL = {Format.JSON: 6.0, Format.HDF5: 4.0, Format.ARROW: 4.0, Format.NPZ: 4.0}
ARROW_BATCH_ROWS = 1000
FILE_NAMES = {Format.HDF5: "showers.hdf5", Format.ARROW: "showers.arrows", Format.NPZ: "showers.npz"}


def encode(answer: ShowerAnswer, wanted: Format) -> bytes | memoryview:
    """``answer`` in the format asked for."""
    provenance = answer.provenance()
    if wanted is Format.JSON:
        return _json(answer, provenance)
    if wanted is Format.HDF5:
        return _hdf5(answer, provenance)
    if wanted is Format.ARROW:
        return _arrow(answer, provenance)
    return _npz(answer, provenance)


def _json(answer: ShowerAnswer, provenance: dict[str, Any]) -> bytes:
    document = {
        "incident_energies_mev": answer.energies_mev,
        "showers_mev": np.ascontiguousarray(answer.showers_mev),
        "geometry": answer.geometry.as_dict(),
        "provenance": provenance,
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _hdf5(answer: ShowerAnswer, provenance: dict[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    attributes = {"provenance": _text(provenance), "geometry": _text(answer.geometry.as_dict())}
    write_showers(buffer, answer.energies_mev, answer.showers_mev, attributes=attributes)
    return buffer.getbuffer()


def _arrow(answer: ShowerAnswer, provenance: dict[str, Any]) -> memoryview:
    voxels = answer.geometry.voxel_count
    metadata = {"provenance": _text(provenance), "geometry": _text(answer.geometry.as_dict())}
    schema = pa.schema(
        [
            pa.field("incident_energies_mev", pa.float64(), nullable=False),
            pa.field("showers_mev", pa.list_(pa.field("item", pa.float32(), nullable=False), voxels), nullable=False),
        ],
        metadata=metadata,
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for start in range(0, answer.energies_mev.shape[0], ARROW_BATCH_ROWS):
            rows = slice(start, start + ARROW_BATCH_ROWS)
            values = pa.array(np.ascontiguousarray(answer.showers_mev[rows]).reshape(-1))
            showers = pa.FixedSizeListArray.from_arrays(values, type=schema.field("showers_mev").type)
            writer.write_batch(pa.record_batch([pa.array(answer.energies_mev[rows]), showers], schema=schema))
    return memoryview(sink.getvalue())


def _npz(answer: ShowerAnswer, provenance: dict[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        incident_energies_mev=answer.energies_mev,
        showers_mev=answer.showers_mev,
        provenance=np.array(_text(provenance)),
        geometry=np.array(_text(answer.geometry.as_dict())),
    )
    return buffer.getbuffer()


def _text(document: dict[str, Any]) -> str:
    return orjson.dumps(document).decode()
