"""A cache of latents that are ready before they are asked for, so that a request need not wait for its sampler.

States of one machine, one bit a spin, lie in a bin for each condition. Each is given out once. What fills the cache is
left to its users: ``qshower.service.latent_cache`` draws in idle time, and puts in the unused reads of a QPU.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.claim import Claim
from qshower.sampler.errors import DefectError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.packed_spins import pack_spins, rows_by_key
from qshower.sampler.provenance import Provenance, provenance_from_cache

BIN_BYTES = 448
"""Memory of a bin beside its blocks and the bits of its condition."""
BLOCK_BYTES = 320
"""Memory of a block beside its states."""
DRAW_BYTES = 320
"""Memory of what is known of a draw beside its provenance."""


@dataclass(slots=True, eq=False)
class _Draw:
    """What states came from: how, when (``time.monotonic``), and how many of them the cache has."""

    provenance: Provenance
    at_s: float
    bytes: int
    states: int = 0


@dataclass(slots=True, eq=False)
class _Block:
    """States (rows, ⌈nodes/8⌉) of one bin and one draw, those before row ``first`` consumed."""

    packed: NDArray[np.uint8]
    draw: _Draw
    first: int = 0

    @property
    def left(self) -> int:
        """States in it."""
        return len(self.packed) - self.first

    @property
    def bytes(self) -> int:
        """Memory of it."""
        return BLOCK_BYTES + self.packed.nbytes


class LatentCache:
    """States of one machine in bins, one for each condition. Thread-safe. A state is given out once.

    Args:
        machine: the law they are drawn from.
        max_bytes: bound on the memory of states, of how they came to be, and of bookkeeping. States of the condition
            asked for longest ago make room for new ones, the oldest first.
    """

    def __init__(self, machine: BoltzmannMachine, max_bytes: int) -> None:
        self._machine, self._max_bytes = machine, max_bytes
        self._lock = threading.Lock()
        self._bins: OrderedDict[bytes, list[_Block]] = OrderedDict()
        """By the condition's packed spins: blocks, the oldest first; the bin asked for longest ago first."""
        self._bytes = self._largest_draw = 0
        self._latest: _Draw | None = None
        self._consumed = self._missed = self._discarded = 0
        self._new_bin_bytes = BIN_BYTES + -(-machine.condition_nodes.size // 8)

    def put(self, spins: NDArray[np.int8], provenance: Provenance, *, evict: bool = True) -> int:
        """Take in states (rows, nodes), draws from P(s_free | s_0 = c) that nobody else is given.

        Args:
            spins: the states.
            provenance: of all of them.
            evict: whether others may make room for them.

        Returns:
            How many were taken in.

        Raises:
            InvalidInputError: an array of another shape or type, or values other than ±1.
        """
        nodes = self._machine.node_count
        if spins.ndim != 2 or spins.shape[1] != nodes or spins.dtype != np.int8 or not (np.abs(spins) == 1).all():
            raise DefectError("spins", f"{spins.dtype} {spins.shape}", f"int8 (rows, {nodes}) of -1 and +1")
        packed = pack_spins(spins)
        bins = rows_by_key(spins[:, self._machine.condition_nodes])
        with self._lock:
            draw = self._draw_of(replace(provenance, elapsed_s={}))
            added = sum(self._add(key, _Block(packed[rows], draw), evict=evict) for key, rows in bins.items())
            # The last states may have taken the place of the first.
            return min(added, draw.states)

    def count(self, conditions: NDArray[np.int8]) -> NDArray[np.int64]:
        """(rows,) how many states there are for each of ``conditions`` (rows, condition nodes)."""
        _check(conditions, self._machine)
        found = np.zeros(conditions.shape[0], dtype=np.int64)
        with self._lock:
            for key, rows in rows_by_key(conditions).items():
                found[rows] = self._states_of(key)
        return found

    def has(self, conditions: NDArray[np.int8]) -> NDArray[np.bool_]:
        """(rows,) which of ``conditions`` (rows, condition nodes) ``claim`` would serve now."""
        _check(conditions, self._machine)
        found = np.zeros(conditions.shape[0], dtype=np.bool_)
        with self._lock:
            for key, rows in rows_by_key(conditions).items():
                found[rows[: self._states_of(key)]] = True
        return found

    def claim(self, conditions: NDArray[np.int8], *, whole: bool = False) -> Claim:
        """States for conditions (rows, condition nodes), as many as there are; none of them is given out again.

        With ``whole``, none at all unless there is one for every row.

        Raises:
            InvalidInputError: conditions of another shape or type.
        """
        _check(conditions, self._machine)
        bins, count = rows_by_key(conditions), conditions.shape[0]
        served = np.zeros(count, dtype=np.bool_)
        packed = np.empty((count, -(-self._machine.node_count // 8)), dtype=np.uint8)
        taken: list[tuple[bytes, _Draw, NDArray[np.int64]]] = []
        with self._lock:
            if whole and any(self._states_of(key) < rows.size for key, rows in bins.items()):
                bins = {}
            for key, rows in bins.items():
                for draw, states in self._consume(key, rows.size):
                    mine, rows = np.split(rows, [states.shape[0]])
                    packed[mine], served[mine] = states, True
                    taken.append((key, draw, mine))
            self._consumed += int(served.sum())
            self._missed += int(count - served.sum())
        provenance = provenance_from_cache([draw.provenance for _, draw, _ in taken])

        def give_back() -> None:
            with self._lock:
                for key, draw, rows in reversed(taken):
                    self._add(key, _Block(packed[rows], draw), evict=True, oldest=True)

        return Claim(served, packed, self._machine.node_count, provenance, give_back)

    def discard(self, unwanted: Callable[[Provenance], bool], max_age_s: float = math.inf) -> int:
        """Forget the states of draws that are ``unwanted``, by provenance, or older than ``max_age_s``; how many."""
        latest_s = time.monotonic() - max_age_s
        with self._lock:
            draws = {id(block.draw): block.draw for blocks in self._bins.values() for block in blocks}
            doomed = {key for key, draw in draws.items() if draw.at_s < latest_s or unwanted(draw.provenance)}
            discarded = 0
            for key, blocks in list(self._bins.items()) if doomed else ():
                for block in [block for block in blocks if id(block.draw) in doomed]:
                    discarded += block.left
                    self._remove(key, block)
            self._discarded += discarded
            return discarded

    def bound(self, max_bytes: int) -> None:
        """Another bound on memory from now on; the states that go are those that would make room for new ones."""
        with self._lock:
            self._max_bytes = max_bytes
            while self._bytes > max_bytes and self._bins:
                self._remove(*next((key, blocks[0]) for key, blocks in self._bins.items()))

    @property
    def room(self) -> int:
        """How many more states are sure to fit, whatever their conditions."""
        width = -(-self._machine.node_count // 8)
        with self._lock:
            left = self._max_bytes - self._bytes - self._largest_draw
        return max(0, left // (width + BLOCK_BYTES + self._new_bin_bytes))

    def status(self) -> dict[str, Any]:
        """Counts for a health page: states and bytes now; states consumed, missed and discarded since the start."""
        with self._lock:
            return {
                "ready": sum(map(self._states_of, self._bins)),
                "bytes": self._bytes,
                "max_bytes": self._max_bytes,
                "consumed": self._consumed,
                "missed": self._missed,
                "discarded": self._discarded,
            }

    def _states_of(self, key: bytes) -> int:
        return sum(block.left for block in self._bins.get(key, ()))

    def _draw_of(self, provenance: Provenance) -> _Draw:
        """The latest draw if it has this provenance, else a new one."""
        latest = self._latest
        if latest is None or latest.provenance != provenance:
            latest = self._latest = _Draw(provenance, time.monotonic(), DRAW_BYTES + _bytes_of(provenance))
            self._largest_draw = max(self._largest_draw, latest.bytes)
        return latest

    def _add(self, key: bytes, block: _Block, *, evict: bool, oldest: bool = False) -> int:
        """Put as many states of ``block`` as there is room for into their bin, last or first; how many."""
        draw, bytes_of_state = block.draw, block.packed.shape[1]
        while True:
            mine = self._bins.get(key)
            neighbour = mine[0 if oldest else -1] if mine else None
            joined = neighbour is not None and neighbour.draw is draw
            overhead = (0 if joined else BLOCK_BYTES) + (0 if draw.states else draw.bytes)
            overhead += self._new_bin_bytes if mine is None else 0
            left = self._max_bytes - self._bytes
            if overhead + block.packed.nbytes <= left or not evict or not self._bins:
                break
            self._remove(*next((other, blocks[0]) for other, blocks in self._bins.items()))
        states = block.packed[: max(0, left - overhead) // bytes_of_state]
        count = len(states)
        if not count:
            return 0
        if mine is None:
            mine = self._bins[key] = []
            self._bytes += self._new_bin_bytes
        self._bytes += 0 if draw.states else draw.bytes
        draw.states += count
        place = 0 if oldest else len(mine)
        if joined and neighbour is not None:
            rest = neighbour.packed[neighbour.first :]
            states = np.concatenate((states, rest) if oldest else (rest, states))
            self._bytes -= neighbour.bytes
            place = 0 if oldest else place - 1
            mine.pop(place)
        # A copy, or the states of other bins would stay in memory along with these.
        whole = _Block(np.array(states), draw)
        mine.insert(place, whole)
        self._bytes += whole.bytes
        return count

    def _consume(self, key: bytes, count: int) -> Iterable[tuple[_Draw, NDArray[np.uint8]]]:
        """Take up to ``count`` of the oldest states of a bin, by the draw they came from."""
        if key in self._bins:
            self._bins.move_to_end(key)
        while count and key in self._bins:
            block = self._bins[key][0]
            states = block.packed[block.first : block.first + count]
            block.first += states.shape[0]
            block.draw.states -= states.shape[0]
            count -= states.shape[0]
            self._bytes -= 0 if block.draw.states else block.draw.bytes
            if not block.left:
                self._remove(key, block)
            yield block.draw, states

    def _remove(self, key: bytes, block: _Block) -> None:
        """Take a block out, and its bin if that is empty then."""
        mine = self._bins[key]
        mine.remove(block)
        self._bytes -= block.bytes
        if block.left:
            block.draw.states -= block.left
            self._bytes -= 0 if block.draw.states else block.draw.bytes
        if not mine:
            del self._bins[key]
            self._bytes -= self._new_bin_bytes


def _check(conditions: NDArray[np.int8], machine: BoltzmannMachine) -> None:
    width = machine.condition_nodes.shape[0]
    if conditions.ndim != 2 or conditions.shape[1] != width or conditions.dtype != np.int8:
        raise DefectError("conditions", f"{conditions.dtype} {conditions.shape}", f"int8 (rows, {width})")


def _bytes_of(value: Any) -> int:
    """Memory of a provenance, or of a value in it."""
    if isinstance(value, Provenance):
        parts: list[Any] = [getattr(value, spec.name) for spec in fields(value)]
    elif isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    else:
        parts = list(value) if isinstance(value, tuple) else []
    return sys.getsizeof(value) + sum(map(_bytes_of, parts))
