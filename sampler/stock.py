"""The block of memory in which a reservoir keeps its states: slots, and which condition each belongs to.

Not thread-safe: the reservoir holds its lock around every call.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sampler.bank_file import pack_spins, unpack_spins
from sampler.errors import InvalidInputError
from sampler.machine import BoltzmannMachine
from sampler.request import Provenance

BOOKKEEPING_BYTES = 64
"""Allowed for each state beside its bits: its slot's place in a queue, its source and its age."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The draw that states came from, and the instant of ``time.monotonic`` since which they are kept."""

    provenance: Provenance
    since_s: float


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

    ``levels`` are kept in stock, ``per_level`` states each, in slots of their own. What is left takes states of other
    conditions, of which those asked for longest ago make room for new ones.
    """

    def __init__(
        self, machine: BoltzmannMachine, levels: NDArray[np.int8], *, per_level: int, max_bytes: int, renew_after: int
    ) -> None:
        self.bytes_per_state = -(-machine.node_count // 8) + BOOKKEEPING_BYTES
        slots = max_bytes // self.bytes_per_state
        width = machine.condition_nodes.shape[0]
        if levels.ndim != 2 or levels.shape[1] != width or levels.dtype != np.int8 or not (np.abs(levels) == 1).all():
            raise InvalidInputError("levels", f"{levels.dtype} {levels.shape}", f"int8 (levels, {width}) of -1 and +1")
        distinct = {row.tobytes(): np.array(row, dtype=np.int8) for row in levels}
        if len(distinct) * per_level > slots:
            needed = len(distinct) * per_level * self.bytes_per_state
            raise InvalidInputError("max_bytes", max_bytes, f"at least {needed} for {per_level} states of each level")
        self.levels = {key: Shelf(condition) for key, condition in distinct.items()}
        self._machine, self._per_level, self._renew_after = machine, per_level, renew_after
        self._states = np.empty((slots, -(-machine.node_count // 8)), dtype=np.uint8)
        self._source = np.zeros(slots, dtype=np.int64)
        self._age = np.zeros(slots, dtype=np.int32)
        self._free = list(range(slots - 1, -1, -1))
        self._others: OrderedDict[bytes, deque[int]] = OrderedDict()
        self._others_held, self._others_bound = 0, slots - len(distinct) * per_level
        self._sources: dict[int, Source] = {}
        self._users: dict[int, int] = {}
        self._next_source = 0

    @property
    def ready(self) -> int:
        """States that can be served."""
        return sum(len(shelf.ready) for shelf in self.levels.values()) + self._others_held

    @property
    def bytes_held(self) -> int:
        """Memory of the slots in use, bookkeeping included."""
        return (self._states.shape[0] - len(self._free)) * self.bytes_per_state

    @property
    def bytes_bound(self) -> int:
        """Memory of all slots."""
        return self._states.shape[0] * self.bytes_per_state

    @property
    def lacks(self) -> bool:
        """Whether something waits to be drawn or advanced."""
        return any(shelf.spent or shelf.held + shelf.drawing < self._per_level for shelf in self.levels.values())

    def has(self, conditions: NDArray[np.int8]) -> NDArray[np.bool_]:
        """Which rows of ``conditions`` (rows, width) ``serve`` would serve."""
        wanted: Counter[bytes] = Counter()
        found = np.zeros(conditions.shape[0], dtype=np.bool_)
        for row, condition in enumerate(conditions):
            key = condition.tobytes()
            slots = self.levels[key].ready if key in self.levels else self._others.get(key, ())
            found[row] = wanted[key] < len(slots)
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
        sources: dict[Source, list[int]] = {}
        count = 0
        for row, condition in enumerate(conditions):
            key = condition.tobytes()
            slot = self._serve(key)
            if slot is not None:
                packed[row], served[row] = self._states[slot], True
                sources.setdefault(self._sources[int(self._source[slot])], []).append(count)
                count += 1
                self._used(slot, self.levels.get(key))
        return served, packed[served], sources

    def _serve(self, key: bytes) -> int | None:
        """The slot of a state that is ready, off its shelf, None if there is none."""
        if key in self.levels:
            ready = self.levels[key].ready
            return ready.popleft() if ready else None
        if key not in self._others:
            return None
        self._others.move_to_end(key)
        return self._take_other(key)

    def _take_other(self, key: bytes) -> int:
        slots = self._others[key]
        slot = slots.popleft()
        self._others_held -= 1
        if not slots:
            del self._others[key]
        return slot

    def _used(self, slot: int, shelf: Shelf | None) -> None:
        self._age[slot] += 1
        if shelf is not None and self._age[slot] < self._renew_after:
            shelf.spent.append(slot)
        else:
            self._forget_source(slot)
            self._free.append(slot)

    def _forget_source(self, slot: int) -> None:
        source = int(self._source[slot])
        self._users[source] -= 1
        if not self._users[source]:
            del self._users[source], self._sources[source]

    def put(self, spins: NDArray[np.int8], origin: Source) -> int:
        """Take in states (rows, nodes) while there is room; how many were."""
        source, kept = self._next_source, 0
        self._next_source += 1
        packed = pack_spins(spins)
        for row, condition in enumerate(spins[:, self._machine.condition_nodes]):
            key = condition.tobytes()
            shelf = self.levels.get(key)
            if shelf.held >= self._per_level if shelf is not None else not self._make_room(key):
                continue
            slot = self._free.pop()
            self._states[slot], self._source[slot], self._age[slot] = packed[row], source, 0
            if shelf is not None:
                shelf.ready.append(slot)
            else:
                self._others.setdefault(key, deque()).append(slot)
                self._others_held += 1
            kept += 1
            self._sources[source] = origin
            self._users[source] = self._users.get(source, 0) + 1
        return kept

    def _make_room(self, key: bytes) -> bool:
        """Whether a state of a condition that is no level may come in, if need be for one asked for longer ago."""
        if self._others_held < self._others_bound:
            return True
        oldest = next((other for other in self._others if other != key), None)
        if oldest is None:
            return False
        slot = self._take_other(oldest)
        self._forget_source(slot)
        self._free.append(slot)
        return True

    def drop(self, unwanted: Callable[[Source], bool]) -> int:
        """Forget the states of unwanted sources, those out of their slots to be advanced excepted; how many."""
        doomed = {number for number, source in self._sources.items() if unwanted(source)}
        queues = [queue for shelf in self.levels.values() for queue in (shelf.ready, shelf.spent)]
        dropped = 0
        for queue in [*queues, *self._others.values()] if doomed else []:
            kept = [slot for slot in queue if int(self._source[slot]) not in doomed]
            for slot in [slot for slot in queue if int(self._source[slot]) in doomed]:
                self._forget_source(slot)
                self._free.append(slot)
                dropped += 1
            queue.clear()
            queue.extend(kept)
        for key in [key for key, slots in self._others.items() if not slots]:
            del self._others[key]
        self._others_held = sum(map(len, self._others.values()))
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
        heap = [(shelf.held + shelf.drawing, number) for number, shelf in enumerate(shelves)]
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
        for slot, condition in zip(slots, conditions, strict=True):
            shelf = self.levels[condition.tobytes()]
            shelf.advancing -= 1
            (shelf.spent if advanced is None else shelf.ready).append(slot)
