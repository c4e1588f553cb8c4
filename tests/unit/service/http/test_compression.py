from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import pyarrow as pa
import pytest
from starlette.types import Message, Receive, Scope, Send

from qshower.service.http.compression import CompressedAnswers, accepted

TEXT = b'{"showers_mev": [' + b"0.0," * 10_000 + b"0.0]}"


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", None),
        ("identity", None),
        ("br, deflate", None),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0.5, gzip", "gzip"),
        ("GZIP;q=0", None),
        ("gzip;q=0, zstd;q=0.1", "zstd"),
    ],
)
def test_the_coding_that_is_preferred(header: str, coding: str | None) -> None:
    assert accepted(header) == coding


def answered(pieces: list[bytes], kind: str, coding: str) -> tuple[dict[str, str], list[bytes]]:
    """Headers and pieces of an answer of ``pieces``, as a client gets it."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        length = [(b"content-length", str(len(pieces[0])).encode())] if len(pieces) == 1 else []
        headers = [(b"content-type", kind.encode()), *length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, piece in enumerate(pieces):
            more = number < len(pieces) - 1
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "headers": [(b"accept-encoding", coding.encode())]}
    asyncio.run(CompressedAnswers(app)(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return headers, [message["body"] for message in sent[1:]]


def unzstd(body: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
        return bytes(stream.read())


@pytest.mark.parametrize(("coding", "unpack"), [("gzip", gzip.decompress), ("zstd", unzstd)])
@pytest.mark.parametrize("pieces", [[TEXT], [TEXT[:100], TEXT[100:]], [TEXT, b""], [b"", TEXT, TEXT]])
def test_texts_are_packed_piece_by_piece(coding: str, unpack: Any, pieces: list[bytes]) -> None:
    headers, bodies = answered(pieces, "application/json", coding)
    assert headers["content-encoding"] == coding
    assert headers["vary"] == "Accept-Encoding"
    assert unpack(b"".join(bodies)) == b"".join(pieces)
    assert sum(map(len, bodies)) < len(b"".join(pieces)) / 20
    assert len(bodies) == len(pieces)
    assert headers.get("content-length") == (str(len(bodies[0])) if len(pieces) == 1 else None)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_the_first_piece_can_be_read_before_the_second_comes(coding: str) -> None:
    _, bodies = answered([TEXT, TEXT], "application/json", coding)
    if coding == "zstd":
        assert unzstd(bodies[0]) == TEXT
    else:
        assert zlib.decompressobj(31).decompress(bodies[0]) == TEXT


@pytest.mark.parametrize(
    ("kind", "coding", "pieces"),
    [
        ("application/x-hdf5", "gzip", [TEXT]),
        ("application/vnd.apache.arrow.stream", "zstd", [TEXT, TEXT]),
        ("application/json", "identity", [TEXT]),
        ("application/json", "gzip", [b"short"]),
    ],
)
def test_the_rest_is_left_alone(kind: str, coding: str, pieces: list[bytes]) -> None:
    headers, bodies = answered(pieces, kind, coding)
    assert "content-encoding" not in headers
    assert bodies == pieces
