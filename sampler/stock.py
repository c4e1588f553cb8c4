"""The block of memory in which a reservoir keeps its states: slots, and which condition each belongs to.

Not thread-safe: the reservoir holds its lock around every call.
"""

from __future__ import annotations

import heapq
import sys
from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.bank_file import pack_spins, unpack_spins
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.provenance import Provenance

BOOKKEEPING_BYTES = 64
"""Allowed for each state beside its bits: its slot's place in a queue, its source and its age."""
LEVEL_BYTES = 3072
"""What a level takes beside its states, at most."""
CONDITION_BYTES = 384
"""What a condition that is no level takes beside its states and the bits of its spins, at most."""
SOURCE_BYTES = 768
"""What a source takes beside its provenance, at most."""
LEVELS_SOURCES_BYTES = 8192
"""Allowed for sources where the levels leave nothing: of classical draws there are one or two."""
_LEFT_FOR_SOURCES = 0.25
_COSTS = frozenset({"elapsed_s", "qpu_access_time_us", "qpu_timing_us"})


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The draw that states came from, and the instant of ``time.monotonic`` since which they are kept."""

    provenance: Provenance
    since_s: float


@dataclass(slots=True)
class _Known:
    """A provenance that states share, how many of them do, and how many of those are on the shelves of levels."""

    provenance: Provenance
    alike: Hashable
    bytes: int
    users: int = 0
    shelved: int = 0


@dataclass(slots=True)
class Shelf:
    """The slots of one level: ``ready`` to be served, oldest first; ``spent``, waiting to advance; others under way."""

    condition: NDArray[np.int8]
    ready: deque[int] = field(default_factory=deque)
    spent: deque[int] = field(default_factory=deque)
    advancing: int = 0
    drawing: int = 0

    @property
    def held(self) -> int:
        """Slots that this level occupies."""
        return len(self.ready) + len(self.spent) + self.advancing


class Stock:
    """Bit-packed states in a fixed number of slots.

    ``levels`` are kept in stock, ``per_level`` states each, in slots of their own. What is left takes further states of
    them and of other conditions, of which those asked for longest ago make room for new ones.

    ``max_bytes`` bounds the memory of all states, of up to ``conditions`` conditions that are no levels (None: each
    state may have its own), and of how states came to be: draws that differ in nothing but their costs share that.
    Beside it come ``LEVEL_BYTES`` for each level, and ``LEVELS_SOURCES_BYTES``.

    Something is lacking once a level has less than the share ``low`` of ``per_level``. Then every level is filled that
    has less than the mean of that and all: what is drawn at one go costs less than one level after another does.
    """

    def __init__(
        self,
        machine: BoltzmannMachine,
        levels: NDArray[np.int8],
        *,
        per_level: int,
        max_bytes: int,
        renew_after: int,
        conditions: int | None = None,
        low: float = 1.0,
    ) -> None:
        self.bytes_per_state: int = state_bytes(machine)
        width = machine.condition_nodes.shape[0]
        if levels.ndim != 2 or levels.shape[1] != width or levels.dtype != np.int8 or not (np.abs(levels) == 1).all():
            raise InvalidInputError("levels", f"{levels.dtype} {levels.shape}", f"int8 (levels, {width}) of -1 and +1")
        distinct = dict(zip(_keys(levels), map(np.array, levels), strict=True))
        reserved = len(distinct) * per_level
        left = max_bytes - reserved * self.bytes_per_state
        if left < 0:
            needed = reserved * self.bytes_per_state
            raise InvalidInputError("max_bytes", max_bytes, f"at least {needed} for {per_level} states of each level")
        self.levels = {key: Shelf(condition) for key, condition in distinct.items()}
        self._machine, self._per_level, self._renew_after = machine, per_level, renew_after
        self._due_below, self._filled_below = low * per_level, 0.5 * (low + 1.0) * per_level
        self._bytes_per_condition: int = CONDITION_BYTES + -(-width // 8)
        for_sources = int(left * _LEFT_FOR_SOURCES)
        self._others_bound, self._conditions_bound = self._room(left - for_sources, conditions)
        self._sources_bound = LEVELS_SOURCES_BYTES + for_sources
        slots = reserved + self._others_bound
        self._slots: int = slots
        self._states = np.empty((slots, -(-machine.node_count // 8)), dtype=np.uint8)
        self._source = np.full(slots, -1, dtype=np.int32)
        self._age = np.zeros(slots, dtype=np.int32)
        self._since_s = np.zeros(slots, dtype=np.float64)
        self._free = array("i", range(slots - 1, -1, -1))
        self._others: OrderedDict[bytes, array[int]] = OrderedDict()
        self._others_held = 0
        self._sources: dict[int, _Known] = {}
        self._alike: dict[Hashable, int] = {}
        self._sources_bytes, self._next_source, self._largest_source = 0, 0, 0
        self._cramped = False

    def _room(self, bytes_bound: int, conditions: int | None) -> tuple[int, int]:
        """How many states of how many conditions that are no levels fit."""
        state, condition = self.bytes_per_state, self._bytes_per_condition
        each_its_own = bytes_bound // (state + condition)
        if conditions is None or conditions >= each_its_own:
            return each_its_own, each_its_own
        return (bytes_bound - conditions * condition) // state, conditions

    @property
    def ready(self) -> int:
        """States that can be served."""
        return sum(len(shelf.ready) for shelf in self.levels.values()) + self._others_held

    @property
    def bytes_held(self) -> int:
        """Memory of the slots in use, of conditions that are no levels, and of sources."""
        states = (self._slots - len(self._free)) * self.bytes_per_state
        return states + len(self._others) * self._bytes_per_condition + self._sources_bytes

    @property
    def bytes_bound(self) -> int:
        """What ``bytes_held`` never passes."""
        states = self._slots * self.bytes_per_state
        return states + self._conditions_bound * self._bytes_per_condition + self._sources_bound

    @property
    def lacks(self) -> bool:
        """Whether something waits to be drawn or advanced, and there is room for it."""
        return (
            not self._cramped
            and any(shelf.spent or self._had(key, shelf) < self._due_below for key, shelf in self.levels.items())
            and self._has_room_for_a_source()
        )

    def _has_room_for_a_source(self) -> bool:
        """Whether the levels leave room for one more as large as the largest: what is not kept is drawn for nothing."""
        shelved = sum(known.bytes for known in self._sources.values() if known.shelved)
        return shelved + self._largest_source <= self._sources_bound

    def _had(self, key: bytes, shelf: Shelf) -> int:
        """States of a level: those there, in whatever slots, and those that are being drawn."""
        return shelf.held + shelf.drawing + len(self._others.get(key, ()))

    def count(self, conditions: NDArray[np.int8]) -> NDArray[np.int64]:
        """(rows,) how many states can be served for each of ``conditions`` (rows, width)."""
        return np.array([self._ready_of(key) for key in _keys(conditions)], dtype=np.int64)

    def _ready_of(self, key: bytes) -> int:
        return (len(self.levels[key].ready) if key in self.levels else 0) + len(self._others.get(key, ()))

    def has(self, conditions: NDArray[np.int8]) -> NDArray[np.bool_]:
        """Which rows of ``conditions`` (rows, width) ``serve`` would serve."""
        wanted: Counter[bytes] = Counter()
        found = np.zeros(conditions.shape[0], dtype=np.bool_)
        for row, key in enumerate(_keys(conditions)):
            found[row] = wanted[key] < self._ready_of(key)
            wanted[key] += 1
        return found

    def serve(
        self, conditions: NDArray[np.int8]
    ) -> tuple[NDArray[np.bool_], NDArray[np.uint8], dict[Source, list[int]]]:
        """Which rows of ``conditions`` (rows, width) are served, their packed states, and which source each is from.

        The sources' numbers are those of the served rows, in order.
        """
        served = np.zeros(conditions.shape[0], dtype=np.bool_)
        packed = np.empty((conditions.shape[0], self._states.shape[1]), dtype=np.uint8)
        sources: dict[tuple[int, float], tuple[Source, list[int]]] = {}
        count = 0
        for row, key in enumerate(_keys(conditions)):
            shelf = self.levels.get(key)
            if shelf is not None and shelf.ready:
                slot = shelf.ready.popleft()
            elif key in self._others:
                self._others.move_to_end(key)
                slot, shelf = self._take_other(key), None
            else:
                continue
            packed[row], served[row] = self._states[slot], True
            number, since_s = int(self._source[slot]), float(self._since_s[slot])
            if (number, since_s) not in sources:
                sources[number, since_s] = Source(self._sources[number].provenance, since_s), []
            sources[number, since_s][1].append(count)
            count += 1
            self._used(slot, shelf)
        return served, packed[served], dict(sources.values())

    def _take_other(self, key: bytes) -> int:
        slots = self._others[key]
        slot = slots.pop(0)
        self._others_held -= 1
        if not slots:
            del self._others[key]
        return slot

    def _used(self, slot: int, shelf: Shelf | None) -> None:
        self._age[slot] += 1
        if shelf is not None and self._age[slot] < self._renew_after:
            shelf.spent.append(slot)
        else:
            self._vacate(slot, shelved=shelf is not None)

    def _vacate(self, slot: int, *, shelved: bool) -> None:
        number = int(self._source[slot])
        known = self._sources[number]
        known.users -= 1
        known.shelved -= shelved
        if not known.users:
            del self._sources[number], self._alike[known.alike]
            self._sources_bytes -= known.bytes
            self._cramped = False
        self._source[slot] = -1
        self._free.append(slot)

    def put(self, spins: NDArray[np.int8], origin: Source) -> int:
        """Take in states (rows, nodes) while there is room; how many were."""
        number = self._number_of(origin.provenance)
        if number is None:
            self._cramped = True
            return 0
        known, kept = self._sources[number], 0
        # It must not go to make room for its own states.
        known.users += 1
        packed = pack_spins(spins)
        for row, key in enumerate(_keys(spins[:, self._machine.condition_nodes])):
            shelf = self.levels.get(key)
            if shelf is not None and shelf.held >= self._per_level:
                shelf = None
            if shelf is None and not self._make_room(key):
                continue
            slot = self._free.pop()
            self._states[slot], self._source[slot], self._age[slot] = packed[row], number, 0
            self._since_s[slot] = origin.since_s
            known.users += 1
            if shelf is not None:
                known.shelved += 1
                shelf.ready.append(slot)
            else:
                self._others.setdefault(key, array("i")).append(slot)
                self._others_held += 1
            kept += 1
        known.users -= 1
        if not known.users:
            del self._sources[number], self._alike[known.alike]
            self._sources_bytes -= known.bytes
        return kept

    def _number_of(self, provenance: Provenance) -> int | None:
        """The number of the source that is known by ``provenance``, a new one if need be; None if there is no room.

        To make room the oldest sources go, with their states, unless levels have some of them.
        """
        alike = tuple(getattr(provenance, spec.name) for spec in fields(provenance) if spec.name not in _COSTS)
        if alike in self._alike:
            return self._alike[alike]
        provenance = replace(provenance, elapsed_s={})
        known = _Known(provenance, alike, SOURCE_BYTES + _bytes_of(provenance))
        self._largest_source = max(self._largest_source, known.bytes)
        if known.bytes > self._sources_bound:
            return None
        while self._sources_bytes + known.bytes > self._sources_bound:
            oldest = next((number for number, other in self._sources.items() if not other.shelved), None)
            if oldest is None:
                return None
            self._drop(self._source == oldest)
        number, self._next_source = self._next_source, self._next_source + 1
        self._sources[number], self._alike[alike] = known, number
        self._sources_bytes += known.bytes
        return number

    def _make_room(self, key: bytes) -> bool:
        """Whether a state that no level has a place for may come in, if need be for one asked for longer ago."""
        while key not in self._others and len(self._others) >= max(1, self._conditions_bound):
            oldest = next(iter(self._others))
            while oldest in self._others:
                self._vacate(self._take_other(oldest), shelved=False)
        if self._others_held < self._others_bound:
            return True
        oldest_other = next((other for other in self._others if other != key), None)
        if oldest_other is None:
            return False
        self._vacate(self._take_other(oldest_other), shelved=False)
        return True

    def drop(self, unwanted: Callable[[Provenance], bool], before_s: float) -> int:
        """Forget states; how many, those out of their slots to be advanced excepted.

        Those of an unwanted provenance, and those kept since before the instant ``before_s``.
        """
        doomed = [number for number, known in self._sources.items() if unwanted(known.provenance)]
        old = self._since_s < before_s
        return self._drop((np.isin(self._source, doomed) if doomed else False) | old)

    def _drop(self, doomed: NDArray[np.bool_]) -> int:
        """Forget the states of the slots that are ``doomed`` (slots,) and not empty; how many."""
        doomed = doomed & (self._source >= 0)
        if not doomed.any():
            return 0
        dropped = 0
        for shelf in self.levels.values():
            for queue in (shelf.ready, shelf.spent):
                going = [slot for slot in queue if doomed[slot]]
                kept = [slot for slot in queue if not doomed[slot]] if going else []
                if going:
                    queue.clear()
                    queue.extend(kept)
                for slot in going:
                    self._vacate(slot, shelved=True)
                dropped += len(going)
        for key, slots in list(self._others.items()):
            going = [slot for slot in slots if doomed[slot]]
            if len(going) == len(slots):
                del self._others[key]
            elif going:
                self._others[key] = array("i", [slot for slot in slots if not doomed[slot]])
            for slot in going:
                self._vacate(slot, shelved=False)
            self._others_held -= len(going)
            dropped += len(going)
        return dropped

    def take_spent(self, most: int) -> list[int]:
        """Up to ``most`` slots whose states have to advance, those of the emptiest levels first."""
        slots: list[int] = []
        for shelf in sorted(self.levels.values(), key=lambda shelf: len(shelf.ready)):
            while shelf.spent and len(slots) < most:
                slots.append(shelf.spent.popleft())
                shelf.advancing += 1
        return slots

    def take_lacking(self, most: int) -> list[Shelf]:
        """A shelf for each of up to ``most`` states to draw, those that have least first."""
        shelves = list(self.levels.values())
        had = [self._had(key, shelf) for key, shelf in self.levels.items()]
        heap = [(count, number) for number, count in enumerate(had) if count < self._filled_below]
        heapq.heapify(heap)
        chosen: list[Shelf] = []
        while heap and len(chosen) < most and heap[0][0] < self._per_level:
            have, number = heap[0]
            heapq.heapreplace(heap, (have + 1, number))
            shelves[number].drawing += 1
            chosen.append(shelves[number])
        return chosen

    def states(self, slots: list[int]) -> NDArray[np.int8]:
        """States (slots, nodes) of slots that were taken."""
        return unpack_spins(self._states[slots], self._machine.node_count)

    def return_taken(self, slots: list[int], advanced: NDArray[np.int8] | None) -> None:
        """Put taken slots back: ready with the states ``advanced`` (slots, nodes), or as spent as they were if None."""
        conditions = self.states(slots)[:, self._machine.condition_nodes]
        if advanced is not None:
            self._states[slots] = pack_spins(advanced)
        for slot, key in zip(slots, _keys(conditions), strict=True):
            shelf = self.levels[key]
            shelf.advancing -= 1
            (shelf.spent if advanced is None else shelf.ready).append(slot)


def state_bytes(machine: BoltzmannMachine) -> int:
    """Memory of one state, bookkeeping included."""
    return -(-machine.node_count // 8) + BOOKKEEPING_BYTES


def _keys(conditions: NDArray[np.int8]) -> list[bytes]:
    """What tells the rows of ``conditions`` (rows, width) apart: their bits."""
    return [row.tobytes() for row in np.packbits(conditions > 0, axis=1)]


def _bytes_of(value: Any) -> int:
    """Memory of a provenance, or of a value in it."""
    if isinstance(value, Provenance):
        parts: list[Any] = [getattr(value, spec.name) for spec in fields(value)]
    elif isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    else:
        parts = list(value) if isinstance(value, tuple) else []
    return sys.getsizeof(value) + sum(map(_bytes_of, parts))
