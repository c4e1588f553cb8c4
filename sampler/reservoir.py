"""Latents kept ready for each condition, so that a request that names no seed need not wait for its sampler.

States lie bit-packed in a block of fixed size (``qshower.sampler.stock``). Each is served at most once: either every
state is a draw of its own, or, with ``WarmChains``, the chain behind a served state advances by at least ten
autocorrelation times before it is served again, and after a number of servings is given up for a fresh draw, since
sweeps alone may never leave a valley. Refilling runs in one background thread between ``start`` and ``close``, while
``idle`` says so. Draws made elsewhere, such as the reads of a QPU programming beyond those asked for, can be deposited.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.bank_file import unpack_spins
from qshower.sampler.diagnostics import Refine
from qshower.sampler.errors import InvalidInputError, SamplerAnswerError, SamplerUnavailableError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.provenance import Provenance, provenance_of_kept
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions
from qshower.sampler.stock import Shelf, Source, Stock

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_IDLE_POLL_S = 0.02


class Draws(Protocol):
    """What a reservoir asks of a sampler."""

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row of ``request``."""


@dataclass(frozen=True, slots=True)
class WarmChains:
    """How states that were served come back.

    Attributes:
        refine: advances chains.
        sweeps: how far, between two servings of a chain.
        tau_sweeps: the machine's longest integrated autocorrelation time (``qshower.sampler.diagnostics``).
        renew_after: servings after which a chain is replaced by a fresh draw.
    """

    refine: Refine
    sweeps: int
    tau_sweeps: float
    renew_after: int = 16

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tau_sweeps) and self.tau_sweeps >= 1.0):
            raise InvalidInputError("tau_sweeps", self.tau_sweeps, "a finite number of at least 1")
        if self.sweeps < 10.0 * self.tau_sweeps:
            raise InvalidInputError("sweeps", self.sweeps, f"at least ten tau, {math.ceil(10.0 * self.tau_sweeps)}")
        if self.renew_after < 1:
            raise InvalidInputError("renew_after", self.renew_after, "an integer of at least 1")


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What a reservoir had.

    Attributes:
        served: (rows,) bool, which of the rows asked for are answered; the others are missing.
        spins: (served rows, nodes) int8, in the order asked for.
        provenance: of the served rows: the sampler's own, with a note that they come from the reservoir.
        note: that note.
        sources: which of the served rows, by number, came from which draw.
    """

    served: NDArray[np.bool_]
    spins: NDArray[np.int8]
    provenance: Provenance
    note: str
    sources: Mapping[Source, list[int]] = field(default_factory=dict)

    @property
    def missing(self) -> NDArray[np.int64]:
        """Indices of the rows that have to be drawn."""
        return np.flatnonzero(~self.served)

    def part(self, start: int, stop: int) -> tuple[NDArray[np.int8], Provenance]:
        """Spins and provenance of the served rows ``start`` to ``stop``.

        The timing of a draw that several parts have latents of is told with the first of them.
        """
        first: dict[int, int] = {}
        here: dict[int, Provenance] = {}
        for source, rows in self.sources.items():
            draw = id(source.provenance)
            first[draw] = min(first.get(draw, stop), *rows)
            if any(start <= row < stop for row in rows):
                here[draw] = source.provenance
        told = [one if first[draw] >= start else replace(one, qpu_timing_us=None) for draw, one in here.items()]
        return self.spins[start:stop], _provenance_of(told, self.note)


class Reservoir:
    """Keeps latents of one machine ready, for the conditions it is told to keep and for what is deposited.

    Thread-safe. Nothing is drawn before ``start`` (or ``refill``, which draws in the calling thread).

    Args:
        sampler: draws what is missing.
        machine: the law.
        levels: (levels, condition nodes) int8, the conditions kept in stock.
        per_level: states kept of each.
        max_bytes: bound on the memory of states, and of what else is kept of them (beside it come up to
            ``qshower.sampler.stock.LEVEL_BYTES`` for each level, and ``LEVELS_SOURCES_BYTES``); what the levels leave
            of it is for further deposits, of which those of conditions asked for longest ago go first.
        conditions: how many conditions that are no levels deposits may have; None: each state may have its own. The
            more there may be, the fewer states fit.
        low: share of ``per_level`` below which a level has to fall before anything is drawn; then all levels are filled
            that have less than the mean of that and all. For samplers whose draws are cheaper together.
        options: for the sampler's draws.
        warm: how served states come back; None draws each state afresh.
        rows_per_refill: states drawn or advanced at once.
        deadline_s: of each refill.
        idle: asked before each refill; False puts it off.
        note: what a served state's provenance says of it, first of all.
    """

    def __init__(
        self,
        sampler: Draws,
        machine: BoltzmannMachine,
        levels: NDArray[np.int8],
        *,
        per_level: int,
        max_bytes: int,
        options: SamplerOptions | None = None,
        warm: WarmChains | None = None,
        rows_per_refill: int = 256,
        deadline_s: float = 60.0,
        idle: Callable[[], bool] = lambda: True,
        note: str = "reservoir: drawn before the request",
        conditions: int | None = None,
        low: float = 1.0,
    ) -> None:
        if not 0.0 < low <= 1.0:
            raise InvalidInputError("low", low, "above 0, up to 1")
        for name, value in (("per_level", per_level), ("rows_per_refill", rows_per_refill)):
            if value < 1:
                raise InvalidInputError(name, value, "an integer of at least 1")
        renew_after = 1 if warm is None else warm.renew_after
        self._stock = Stock(
            machine,
            levels,
            per_level=per_level,
            max_bytes=max_bytes,
            renew_after=renew_after,
            conditions=conditions,
            low=low,
        )
        self._sampler, self._machine, self._options = sampler, machine, options or SamplerOptions()
        self._per_level, self._warm, self._rows_per_refill = per_level, warm, rows_per_refill
        self._deadline_s, self._idle = deadline_s, idle
        self._note = note
        if warm is not None:
            self._note += f", chains advanced by {warm.sweeps} sweeps between servings"
        self._seed, self._next_index = secrets.randbits(64), 0
        self._advance_next = True
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._served = self._missed = self._refilled = self._discarded = 0
        self._last_error: str | None = None

    @property
    def lacks(self) -> bool:
        """Whether something is to be drawn or advanced now."""
        with self._changed:
            return self._stock.lacks

    def has(self, conditions: NDArray[np.int8]) -> NDArray[np.bool_]:
        """(rows,) which of ``conditions`` (rows, condition nodes) ``take`` would answer now.

        Raises:
            InvalidInputError: conditions of another shape or type.
        """
        self._check(conditions)
        with self._changed:
            return self._stock.has(conditions)

    def count(self, conditions: NDArray[np.int8]) -> NDArray[np.int64]:
        """(rows,) how many states there are for each of ``conditions`` (rows, condition nodes), one row like another.

        Raises:
            InvalidInputError: conditions of another shape or type.
        """
        self._check(conditions)
        with self._changed:
            return self._stock.count(conditions)

    def take(self, conditions: NDArray[np.int8], *, whole: bool = False) -> Taken:
        """States for conditions (rows, condition nodes), as many as there are; none of them is served again.

        With ``whole``, none at all unless there is one for every row.

        Raises:
            InvalidInputError: conditions of another shape or type.
        """
        self._check(conditions)
        with self._changed:
            rows = conditions.shape[0]
            if whole and not self._stock.has(conditions).all():
                conditions = conditions[:0]
            served, packed, sources = self._stock.serve(conditions)
            self._served += packed.shape[0]
            self._missed += rows - packed.shape[0]
            self._changed.notify_all()
        served = np.pad(served, (0, rows - served.shape[0]))
        provenance = _provenance_of([source.provenance for source in sources], self._note)
        return Taken(served, unpack_spins(packed, self._machine.node_count), provenance, self._note, sources)

    def give_back(self, taken: Taken) -> int:
        """Take in again what was taken and shown to nobody; how many there was room for."""
        with self._changed:
            return sum(self._stock.put(taken.spins[rows], source) for source, rows in taken.sources.items())

    def discard(self, unwanted: Callable[[Provenance], bool], max_age_s: float = math.inf) -> int:
        """Forget the states of draws that are ``unwanted``, by provenance, or older than ``max_age_s``; how many."""
        with self._changed:
            dropped = self._stock.drop(unwanted, time.monotonic() - max_age_s)
            self._discarded += dropped
            return dropped

    def deposit(self, spins: NDArray[np.int8], provenance: Provenance) -> int:
        """Keep draws (rows, nodes) made elsewhere from this machine; how many were kept.

        They must be draws from P(s_free | s_0 = c) that nobody else is given.

        Raises:
            InvalidInputError: an array of another shape or type, or values other than ±1.
        """
        nodes = self._machine.node_count
        if spins.ndim != 2 or spins.shape[1] != nodes or spins.dtype != np.int8 or not (np.abs(spins) == 1).all():
            raise InvalidInputError("spins", f"{spins.dtype} {spins.shape}", f"int8 (rows, {nodes}) of -1 and +1")
        with self._changed:
            return self._stock.put(spins, Source(provenance, time.monotonic()))

    def refill(self) -> int:
        """Draw or advance up to ``rows_per_refill`` states that are lacking, in this thread; how many came in stock.

        Raises:
            SamplerError: what the sampler raised; the stock stays as it was.
        """
        with self._changed:
            stock, most = self._stock, self._rows_per_refill
            slots = stock.take_spent(most) if self._advance_next else []
            lacking = [] if slots else stock.take_lacking(most)
            if not slots and not lacking:
                slots = stock.take_spent(most)
            # Taking turns keeps a busy level's chains from holding up a level that has none.
            self._advance_next = not slots
            first, self._next_index = self._next_index, self._next_index + len(slots) + len(lacking)
        streams = np.empty((len(slots) + len(lacking), 2), dtype=np.uint64)
        streams[:, 0] = self._seed
        streams[:, 1] = np.arange(first, first + streams.shape[0], dtype=np.uint64)
        if slots and self._warm is not None:
            return self._advance(self._warm, slots, streams)
        return self._draw(lacking, streams) if lacking else 0

    def start(self) -> None:
        """Refill in a background thread from now on. Does nothing if it already does."""
        with self._changed:
            if self._stop.is_set():
                raise SamplerUnavailableError("the reservoir is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_filled, name="reservoir", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the background thread, after the refill it is in. Idempotent; what is in stock can still be taken."""
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def status(self) -> dict[str, Any]:
        """Counts for a health page: what is in stock, served, missed, discarded; the background thread's last error."""
        with self._changed:
            return {
                "levels": len(self._stock.levels),
                "ready": self._stock.ready,
                "wanted": len(self._stock.levels) * self._per_level,
                "bytes": self._stock.bytes_held,
                "max_bytes": self._stock.bytes_bound,
                "served": self._served,
                "missed": self._missed,
                "refilled": self._refilled,
                "discarded": self._discarded,
                "running": self._thread is not None and self._thread.is_alive(),
                "last_error": self._last_error,
            }

    def __enter__(self) -> Self:
        """Itself, refilling."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _check(self, conditions: NDArray[np.int8]) -> None:
        width = self._machine.condition_nodes.shape[0]
        if conditions.ndim != 2 or conditions.shape[1] != width or conditions.dtype != np.int8:
            raise InvalidInputError("conditions", f"{conditions.dtype} {conditions.shape}", f"int8 (rows, {width})")

    def _draw(self, shelves: list[Shelf], streams: NDArray[np.uint64]) -> int:
        conditions = np.stack([shelf.condition for shelf in shelves])
        request = LatentRequest(self._machine, conditions, streams, self._options, self._deadline_s)
        batch = None
        try:
            batch = self._sampler.sample(request).checked(request)
        finally:
            with self._changed:
                for shelf in shelves:
                    shelf.drawing -= 1
                kept = 0
                if batch is not None:
                    kept = self._stock.put(batch.spins, Source(batch.provenance, time.monotonic()))
                self._refilled += kept
        return kept

    def _advance(self, warm: WarmChains, slots: list[int], streams: NDArray[np.uint64]) -> int:
        machine, clamped = self._machine, self._machine.condition_nodes
        before, after = self._stock.states(slots), None
        try:
            moved = warm.refine(machine, before, warm.sweeps, streams)
            if moved.shape != before.shape or not np.array_equal(moved[:, clamped], before[:, clamped]):
                raise SamplerAnswerError("the advanced chains do not hold their condition")
            after = moved
        finally:
            with self._changed:
                self._stock.return_taken(slots, after)
                self._refilled += 0 if after is None else len(slots)
        return len(slots)

    def _keep_filled(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                if not self._idle():
                    self._stop.wait(_IDLE_POLL_S)
                    continue
                self.refill()
            except Exception as error:  # whatever fails here must show on the health page and be tried again
                retry_s = getattr(error, "retry_after_s", None)
                with self._changed:
                    self._last_error = f"{type(error).__name__}: {error}"
                self._stop.wait(max(pause_s, retry_s or 0.0))
                pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            with self._changed:
                self._last_error = None
                self._changed.wait_for(lambda: self._stop.is_set() or self._stock.lacks)


def _provenance_of(sources: Sequence[Provenance], note: str) -> Provenance:
    """Draws that are told alike share one provenance, and their timing counts once."""
    drawn = {id(provenance): provenance for provenance in sources}
    return provenance_of_kept(list(drawn.values()), note, timing=True)
