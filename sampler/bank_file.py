"""The file of a bank of latents.

A bank is HDF5: dataset ``spins`` (rows, ⌈nodes/8⌉) uint8, one bit per spin (``qshower.sampler.packed_spins``),
contiguous, so that it can be memory-mapped; ``streams`` (rows, 2) uint64, the random stream of each row; ``draw``
(rows,) uint32, which entry of ``provenance`` (JSON strings) each row came from; ``condition_nodes`` (width,) int64, the
nodes of partition 0, whose spins are the condition; root attributes ``format``, ``version``, ``machine_sha256``,
``nodes``, ``spins_sha256`` and ``created_at``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import DefectError
from qshower.sampler.files import replacing_hdf5, uninterrupted
from qshower.sampler.hdf5_reading import HDF5_ERRORS, one_line, open_hdf5
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.packed_spins import rows_by_key, unpack_spins
from qshower.sampler.provenance import Provenance, provenance_from_json

BANK_FORMAT = "qshower-bank"
BANK_VERSION = 1

BYTES_PER_ROW = 20
"""Of a latent beside its spins: its stream and its draw."""
BYTES_PER_DRAW = 1 << 16
"""More than the provenance of a draw."""
BYTES_PER_BANK = 1 << 20
"""More than the condition nodes, the attributes and what HDF5 adds."""


@dataclass(frozen=True, slots=True)
class BankInfo:
    """What a bank holds.

    Attributes:
        path: the file.
        rows: latents in it.
        nodes: spins of each.
        machine_sha256: the law they were drawn from, see ``BoltzmannMachine.law_sha256``.
        created_at: when, ISO 8601, UTC.
        seeds: of the latents' streams.
        draws: provenance of each draw that went into it.
        size_bytes: of the file.
    """

    path: Path
    rows: int
    nodes: int
    machine_sha256: str
    created_at: str
    seeds: tuple[int, ...]
    draws: tuple[Provenance, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class BankContent:
    """A bank's latents.

    Attributes:
        packed: (rows, ⌈nodes/8⌉) uint8, mapped from the file; see ``unpack_spins``.
        draw: (rows,) uint32, which of ``info.draws`` each row came from.
        condition_nodes: (width,) int64.
    """

    info: BankInfo
    packed: NDArray[np.uint8]
    draw: NDArray[np.uint32]
    condition_nodes: NDArray[np.int64]

    def rows_by_condition(self) -> dict[bytes, NDArray[np.int64]]:
        """Rows of each condition in file order, by the condition's packed spins."""
        found: dict[bytes, list[NDArray[np.int64]]] = {}
        for start in range(0, self.info.rows, 4096):
            spins = unpack_spins(self.packed[start : start + 4096], self.info.nodes)
            for key, rows in rows_by_key(spins[:, self.condition_nodes]).items():
                found.setdefault(key, []).append(rows + start)
        return {key: np.concatenate(rows) for key, rows in found.items()}


@dataclass(frozen=True, slots=True, eq=False)
class BankColumns:
    """What a new bank is made of: a row of ``packed``, ``streams`` and ``draw`` for each latent, as in the module."""

    packed: NDArray[np.uint8]
    streams: NDArray[np.uint64]
    draw: NDArray[np.uint32]
    provenances: list[str]
    machine: BoltzmannMachine


def write_bank(path: Path, columns: BankColumns) -> None:
    """Write a bank, whole or not at all; OSError if the disk is full or the folder may not be written to.

    Ctrl-C waits until it is written: what it holds may have been paid for.
    """
    machine = columns.machine
    with uninterrupted(), replacing_hdf5(path) as target, h5py.File(target, "w") as file:
        file.create_dataset("spins", data=columns.packed)
        file.create_dataset("streams", data=columns.streams)
        file.create_dataset("draw", data=columns.draw)
        file.create_dataset("condition_nodes", data=machine.condition_nodes)
        file.create_dataset("provenance", data=columns.provenances, dtype=h5py.string_dtype())
        file.attrs.update(
            {
                "format": BANK_FORMAT,
                "version": BANK_VERSION,
                "machine_sha256": machine.law_sha256(),
                "spins_sha256": hashlib.sha256(columns.packed.tobytes()).hexdigest(),
                "nodes": machine.node_count,
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )


@contextlib.contextmanager
def space_set_aside(folder: Path, rows: int, machine: BoltzmannMachine, draws: int) -> Iterator[None]:
    """Keep room on the disk of ``folder`` for a bank that is written when the block has ended.

    The file that keeps it has no name, and goes with the process. Nothing is kept where the system cannot.

    Raises:
        OSError: there is less room.
    """
    size = rows * (-(-machine.node_count // 8) + BYTES_PER_ROW) + draws * BYTES_PER_DRAW + BYTES_PER_BANK
    with tempfile.TemporaryFile(dir=folder) as stream:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(stream.fileno(), 0, size)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    reason = f"{error.strerror}; the bank takes up to {size / 2**20:.0f} MiB"
                    raise OSError(error.errno, reason, str(folder)) from error
        yield


def bank_info(path: Path) -> BankInfo:
    """What a bank holds; DefectError if the file is no bank or was altered."""
    return open_bank(path).info


def open_bank(path: Path) -> BankContent:
    """A bank's latents, memory-mapped; DefectError if the file is no bank, is truncated or was altered."""
    allowed = "a bank written by `qshower bank draw`"
    try:
        with open_hdf5(path, allowed, partial(DefectError, f"bank {path}")) as file:
            if file.attrs.get("format") != BANK_FORMAT or file.attrs.get("version") != BANK_VERSION:
                raise DefectError(f"bank {path}", f"not of format {BANK_FORMAT}, version {BANK_VERSION}", allowed)
            spins, nodes = file["spins"], int(file.attrs["nodes"])
            shape, offset = spins.shape, spins.id.get_offset()
            if spins.dtype != np.uint8 or spins.ndim != 2 or shape[1] != -(-nodes // 8):
                raise DefectError(f"bank {path}", f"its spins are {spins.dtype} {shape}", allowed)
            draw, clamped = file["draw"][:], file["condition_nodes"][:]
            seeds = tuple(np.unique(file["streams"][:, 0]).tolist())
            draws = tuple(provenance_from_json(text) for text in file["provenance"].asstr()[:])
            machine_hash, expected = str(file.attrs["machine_sha256"]), str(file.attrs["spins_sha256"])
            created_at = str(file.attrs["created_at"])
        if draw.shape != (shape[0],) or (shape[0] and draw.max() >= len(draws)):
            raise DefectError(f"bank {path}", "its draws do not match its rows", allowed)
        if clamped.ndim != 1 or not ((clamped >= 0) & (clamped < nodes)).all():
            raise DefectError(f"bank {path}", "its condition nodes are not nodes", allowed)
        packed = np.empty(shape, np.uint8) if offset is None else _mapped(path, offset, shape)
    except DefectError:
        raise
    except HDF5_ERRORS as error:
        raise DefectError(f"bank {path}", f"reading it failed: {one_line(error)}", allowed) from error
    if hashlib.sha256(packed.data).hexdigest() != expected:
        raise DefectError(f"bank {path}", "its spins were altered after it was written", allowed)
    info = BankInfo(path, shape[0], nodes, machine_hash, created_at, seeds, draws, path.stat().st_size)
    return BankContent(info, packed, draw, clamped.astype(np.int64))


def _mapped(path: Path, offset: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The file's bytes from ``offset`` on, read when touched."""
    return np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=shape)
