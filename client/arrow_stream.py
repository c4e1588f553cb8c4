"""Showers out of an Arrow stream, as its bytes arrive: no file and no thread stands between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from qshower.client.client_errors import BadAnswerError, IncompleteAnswerError, MissingPackageError
from qshower.client.shower_data import Showers

ARROW = "application/vnd.apache.arrow.stream"
CONTINUATION = b"\xff\xff\xff\xff"
END = CONTINUATION + bytes(4)
BODY_LENGTH_FIELD = 3


class ArrowReader:
    """Takes the stream's blocks and gives its batches.

    A batch is given when the next message is there, so that the last one has the final provenance, which comes after
    it. MissingPackageError if pyarrow is not installed.
    """

    def __init__(self, count: int) -> None:
        try:
            import pyarrow as pa
        except ImportError as error:
            needed = "pyarrow is needed to read streams: pip install 'qshower-client[arrow]'"
            raise MissingPackageError(needed) from error
        self._pa, self._count = pa, count
        self._pending = bytearray()
        self._schema: bytes | None = None
        self._geometry: dict[str, Any] = {}
        self._provenance: dict[str, Any] = {}
        self._held: Showers | None = None
        self._rows = 0
        self._ended = False

    def feed(self, block: bytes) -> Iterator[Showers]:
        """The batches that ``block`` completes; BadAnswerError if this is no stream of showers."""
        self._pending += block
        while (message := self._next_message()) is not None:
            if message == END:
                self._ended = True
                return
            if self._schema is None:
                self._schema = message
                self._read(message)
                continue
            before, self._held = self._held, None
            batch, provenance = self._read(message)
            if provenance is not None:
                self._provenance = provenance
                before = None if before is None else self._showers(before.incident_energies_mev, before.showers_mev)
            if before is not None:
                yield before
            self._held = batch

    def finish(self) -> Iterator[Showers]:
        """The last batch; IncompleteAnswerError unless the stream has ended, with as many showers as were asked for."""
        if not self._ended:
            raise IncompleteAnswerError(f"the stream was cut after {self._rows} of {self._count} showers")
        if self._rows != self._count:
            raise IncompleteAnswerError(f"{self._count} showers were asked for; the stream has {self._rows}")
        if self._held is not None:
            yield self._held

    def _next_message(self) -> bytes | None:
        """The next whole message of the stream, None until it is there. Its length stands in a flatbuffer."""
        pending = self._pending
        if len(pending) < 8:
            return None
        if pending[:4] != CONTINUATION:
            raise BadAnswerError("the answer is no Arrow stream")
        size = _integer(pending, 4, 4)
        if size == 0:
            return END
        if len(pending) < 8 + size:
            return None
        table = 8 + _integer(pending, 8, 4)
        fields = table - _integer(pending, table, 4)
        slot = fields + 4 + 2 * BODY_LENGTH_FIELD
        offset = _integer(pending, slot, 2) if slot < fields + _integer(pending, fields, 2) else 0
        length = 8 + size + (_integer(pending, table + offset, 8) if offset else 0)
        if len(pending) < length:
            return None
        message = bytes(pending[:length])
        del pending[:length]
        return message

    def _read(self, message: bytes) -> tuple[Showers | None, dict[str, Any] | None]:
        """The showers of a message, if it has any, and the provenance that it ends a stream with."""
        try:
            schema = self._schema or b""
            source = self._pa.BufferReader(schema + (message if message is not schema else b"") + END)
            with self._pa.ipc.open_stream(source) as reader:
                if message is schema:
                    known = reader.schema.metadata
                    self._geometry = json.loads(known[b"geometry"])
                    self._provenance = json.loads(known[b"provenance"])
                    return None, None
                batch, metadata = reader.read_next_batch_with_custom_metadata()
            provenance = json.loads(metadata[b"provenance"]) if metadata is not None else None
            energies = np.array(batch.column("incident_energies_mev"))
            lists = batch.column("showers_mev")
            showers = np.array(lists.flatten()).reshape(len(energies), lists.type.list_size)
        except (self._pa.ArrowException, KeyError, TypeError, ValueError, StopIteration) as error:
            raise BadAnswerError(f"the answer is no Arrow stream of showers: {error}") from error
        self._rows += len(energies)
        return (self._showers(energies, showers) if len(energies) else None), provenance

    def _showers(self, energies: Any, showers: Any) -> Showers:
        return Showers(energies, showers, self._geometry, self._provenance)


def _integer(data: bytearray, at: int, size: int) -> int:
    if at < 0 or at + size > len(data):
        raise BadAnswerError("the answer is no Arrow stream")
    return int.from_bytes(data[at : at + size], "little", signed=size == 4)
