"""Latents kept in a file: drawing a bank, and the replay sampler that serves each of its latents once."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.bank_file import (
    BankColumns,
    BankInfo,
    bank_info,
    open_bank,
    space_set_aside,
    write_bank,
)
from qshower.sampler.claim import Claim
from qshower.sampler.closing import Closing
from qshower.sampler.errors import (
    BankExhaustedError,
    DefectError,
    InvalidInputError,
    SamplerUnavailableError,
)
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.packed_spins import pack_spins, rows_by_key
from qshower.sampler.protocol import Availability, Sampler, SamplerCapabilities
from qshower.sampler.provenance import merged_provenance, provenance_to_json
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions, streams_of

__all__ = ["BankInfo", "ReplayOrder", "ReplaySampler", "bank_info", "draw_bank"]

ReplayOrder = Literal["file", "random"]


def draw_bank(
    path: Path,
    sampler: Sampler,
    machine: BoltzmannMachine,
    conditions: NDArray[np.int8],
    *,
    seed: int,
    options: SamplerOptions | None = None,
    rows_per_call: int = 1024,
    overwrite: bool = False,
    partial: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BankInfo:
    """Draw a latent for each row of ``conditions`` (rows, condition nodes) into the file ``path``, whole or not at all.

    Row i has stream (seed, i). ``progress`` is called with the rows done and the rows in all. An error or interrupt
    leaves ``path`` as it was. ``partial``, for draws that are paid for, is a file that does not exist yet; it gets a
    bank of the rows that were done by then, if there are any.

    Raises:
        InvalidInputError: a bad argument, no such folder, or a file in the way without ``overwrite``.
        SamplerError: what the sampler raised; without ``partial`` nothing is left behind.
        OSError: the disk has no room for the bank, which is seen before the first draw, or the folder may not be
            written to; nothing is left behind.
    """
    if rows_per_call < 1:
        raise InvalidInputError("rows_per_call", rows_per_call, "an integer of at least 1")
    if not 0 <= seed < 2**64:
        raise InvalidInputError("seed", seed, "an integer from 0 to 2^64 - 1")
    if not path.parent.is_dir():
        raise DefectError(str(path), "its folder does not exist", "a path in an existing folder")
    if path.exists() and not overwrite:
        raise DefectError(str(path), "the file exists", "a new name, or overwrite")
    if partial is not None and partial.exists():
        raise DefectError(str(partial), "the file exists", "a new name")
    rows = conditions.shape[0]
    streams = streams_of(seed, rows)
    packed = np.empty((rows, -(-machine.node_count // 8)), dtype=np.uint8)
    draw = np.zeros(rows, dtype=np.uint32)
    provenances: list[str] = []
    done = 0
    try:
        with space_set_aside(path.parent, rows, machine, -(-rows // rows_per_call)):
            while done < rows:
                part = slice(done, min(done + rows_per_call, rows))
                request = LatentRequest(machine, conditions[part], streams[part], options or SamplerOptions())
                batch = sampler.sample(request).checked(request)
                packed[part] = pack_spins(batch.spins)
                draw[part] = len(provenances)
                provenances.append(provenance_to_json(batch.provenance))
                done = part.stop
                if progress is not None:
                    progress(done, rows)
    finally:
        into = path if done == rows else partial if done else None
        if into is not None:
            write_bank(into, BankColumns(packed[:done], streams[:done], draw[:done], provenances, machine))
    return bank_info(path)


class ReplaySampler(Closing):
    """Serves each latent of a bank once, to requests for the condition it was drawn for.

    ``order="file"``: the latents of a condition in the order of the file. ``order="random"``: in an order shuffled
    once, by ``seed`` if given, else differently each time. Streams of a request do not choose latents: the same
    sequence of requests to a new replay sampler of the same file, order and seed gives the same spins, and that is all
    that is reproducible (requests from several threads come in no fixed sequence).

    Args:
        path: the bank.
        order: see above.
        seed: of the random order.
    """

    name = "replay"
    capabilities = SamplerCapabilities(
        reproducible=False,
        availability_blocks=True,
        warm_up_rows=0,
        how_to_configure="no bank is configured: set QSHOWER_BANK to a file made by `qshower bank draw`",
    )

    def __init__(self, path: Path, order: ReplayOrder = "file", *, seed: int | None = None) -> None:
        if order not in ("file", "random"):
            raise InvalidInputError("order", order, "file or random")
        self._bank = open_bank(path)
        self._order = order
        rows = self._bank.info.rows
        self._rows = np.random.default_rng(seed).permutation(rows) if order == "random" else np.arange(rows)
        place = np.argsort(self._rows)
        by_condition = self._bank.rows_by_condition()
        self._unserved = _Unserved(path.name, {key: np.sort(place[found]) for key, found in by_condition.items()})
        self._closed = False

    def drawn_from(self, machine: BoltzmannMachine) -> bool:
        """Whether the bank's latents are draws from ``machine``."""
        return machine.law_sha256() == self._bank.info.machine_sha256

    def availability(self, machine: BoltzmannMachine) -> Availability:
        """Whether the bank is of this machine and has latents left; ``detail`` says how many."""
        if self._closed:
            return Availability(available=False, reason="the replay sampler is closed")
        info = self._bank.info
        if not self.drawn_from(machine):
            return Availability(available=False, reason=f"the bank {info.path.name} was drawn from another machine")
        left = self._unserved.count()
        detail = {"bank": info.path.name, "rows": info.rows, "left": left, "order": self._order}
        reason = None if left else f"every latent of the bank {info.path.name} has been served"
        return Availability(available=left > 0, reason=reason, detail=detail)

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row, each served once and never again.

        Raises:
            InvalidInputError: an option is set, or the bank was drawn from another machine.
            BankExhaustedError: too few latents are left for a condition; none is used up.
            SamplerTimeoutError, SamplerCancelledError: the deadline passed, or nobody waits; none is used up.
            SamplerUnavailableError: the sampler is closed.
        """
        start_s, limit = time.monotonic(), request.time_limit()
        for option, value in request.options.given().items():
            raise InvalidInputError(f"options.{option}", value, "nothing: replay takes no option")
        if not self.drawn_from(request.machine):
            info = self._bank.info
            allowed = f"the machine that the bank {info.path.name} was drawn from, {info.machine_sha256}"
            raise InvalidInputError("machine", request.machine.law_sha256(), allowed)
        limit.check("replay")
        claim = self.claim(request.conditions)
        spins = claim.spins()
        provenance = dataclasses.replace(claim.provenance, elapsed_s={"sample": time.monotonic() - start_s})
        return LatentBatch(spins, request.machine.energies(spins), provenance).checked(request)

    def claim(self, conditions: NDArray[np.int8]) -> Claim:
        """A latent for each of ``conditions`` (rows, condition nodes), which may be given back.

        Raises:
            BankExhaustedError: too few latents are left for a condition; none is used up.
            SamplerUnavailableError: the sampler is closed.
        """
        if self._closed:
            raise SamplerUnavailableError("the replay sampler is closed")
        info, places = self._bank.info, self._unserved.take(conditions)
        chosen = self._rows[places]
        sources = [info.draws[draw] for draw in np.unique(self._bank.draw[chosen])]
        drawn_by = ", ".join(dict.fromkeys(source.sampler for source in sources)) or "none"
        merged = merged_provenance(sources)
        notes = (*merged.notes, f"drawn by {drawn_by}, replayed from the bank {info.path.name}")
        provenance = dataclasses.replace(merged, sampler=self.name, notes=notes)
        served = np.ones(conditions.shape[0], dtype=np.bool_)
        return Claim(
            served, self._bank.packed[chosen], info.nodes, provenance, lambda: self._unserved.put(conditions, places)
        )

    def close(self) -> None:
        """Refuse further requests. Idempotent."""
        self._closed = True


class _Unserved:
    """The latents of a bank that nobody has, by condition: ascending places in the order of serving. Thread-safe."""

    def __init__(self, bank: str, places: dict[bytes, NDArray[np.int64]]) -> None:
        self._bank, self._places = bank, places
        self._lock = threading.Lock()

    def count(self) -> int:
        """How many there are."""
        with self._lock:
            return sum(map(len, self._places.values()))

    def take(self, conditions: NDArray[np.int8]) -> NDArray[np.int64]:
        """(rows,) the next place for each of ``conditions``; BankExhaustedError, and none is taken, if one is short."""
        wanted = rows_by_key(conditions)
        taken = np.empty(conditions.shape[0], dtype=np.int64)
        with self._lock:
            self._check_enough(wanted)
            for key, rows in wanted.items():
                taken[rows], self._places[key] = np.split(self._places[key], [len(rows)])
        return taken

    def put(self, conditions: NDArray[np.int8], places: NDArray[np.int64]) -> None:
        """Undo a ``take``: the places are again where they were in the order."""
        with self._lock:
            for key, rows in rows_by_key(conditions).items():
                self._places[key] = np.sort(np.concatenate([places[rows], self._places[key]]))

    def _check_enough(self, wanted: dict[bytes, NDArray[np.int64]]) -> None:
        short = [(key, len(rows)) for key, rows in wanted.items() if len(rows) > len(self._places.get(key, ()))]
        if not short:
            return
        asked = sum(count for _, count in short)
        left = sum(len(self._places.get(key, ())) for key, _ in short)
        total = sum(map(len, self._places.values()))
        raise BankExhaustedError(
            f"the bank {self._bank} is exhausted: {asked} latents asked for and {left} left "
            f"for {len(short)} of {len(wanted)} conditions ({total} left in all)"
        )
