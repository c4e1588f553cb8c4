"""Which models' networks are in memory: loaded when they are first asked for, gone again when others need the room."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

from qshower.model.bundle import DECODER_FILE
from qshower.sampler.errors import BundleError
from qshower.service.service_errors import ModelBrokenError

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle

_log = structlog.get_logger("qshower.service")


class Residency:
    """Keeps the networks in memory below ``most_bytes``. Lives in one event loop; networks are loaded in threads.

    A network is loaded for the first request that needs it. If there is no room, those leave that were used longest
    ago, and never one that is in use: a request whose network finds no room beside those in use waits for it. One
    network alone may be larger than the bound.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.loads: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()
        self._failures: dict[Bundle, str] = {}
        self._loaded: OrderedDict[Bundle, int] = OrderedDict()
        """Bytes of each network, the one used longest ago first."""
        self._uses: Counter[Bundle] = Counter()
        self._retired: set[Bundle] = set()
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def bytes(self) -> int:
        """Memory of all networks."""
        return sum(self._loaded.values())

    def has(self, bundle: Bundle) -> bool:
        """Whether the network of ``bundle`` is in memory."""
        return bundle in self._loaded

    def failure(self, bundle: Bundle) -> str | None:
        """Why the network of ``bundle`` could not be loaded the last time, None if it could or was not asked for."""
        return self._failures.get(bundle)

    @asynccontextmanager
    async def using(self, bundle: Bundle) -> AsyncIterator[None]:
        """The network is in memory as long as the block lasts; ModelBrokenError if it cannot be loaded."""
        await self._room(bundle)
        self._uses[bundle] += 1
        try:
            if bundle not in self._loaded:
                await self._load(bundle)
            self._loaded.move_to_end(bundle)
            yield
        finally:
            self._leave(bundle)

    def retire(self, bundles: Iterable[Bundle]) -> None:
        """Drop the networks of ``bundles``, which nobody will ask for any more, as soon as they are not in use."""
        for bundle in bundles:
            self._failures.pop(bundle, None)
            if self._uses[bundle]:
                self._retired.add(bundle)
            else:
                self._drop(bundle)

    async def _room(self, bundle: Bundle) -> None:
        """Wait until ``bundle`` finds room beside the networks in use, and make it."""
        if bundle in self._loaded:
            return
        need = _file_bytes(bundle)
        while True:
            busy = sum(self._loaded.get(other, _file_bytes(other)) for other in +self._uses if other is not bundle)
            if not busy or busy + need <= self.most_bytes:
                break
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        for other in [other for other in self._loaded if not self._uses[other]]:
            if self.bytes + need <= self.most_bytes:
                break
            self._drop(other)
            self.evictions[other.name] += 1
            _log.info("a model left memory", model=other.name, to_make_room_for=bundle.name)

    async def _load(self, bundle: Bundle) -> None:
        begun = time.monotonic()
        # A use of its own: whoever asked may go away meanwhile, and nothing is dropped that is being loaded.
        self._uses[bundle] += 1
        loading = asyncio.ensure_future(asyncio.to_thread(lambda: bundle.drawing))
        loading.add_done_callback(lambda done: self._note(bundle, done))
        try:
            await asyncio.shield(loading)
        except BundleError as error:
            raise ModelBrokenError(bundle.name, self._failures[bundle]) from error
        _log.info("loaded a model", model=bundle.name, load_s=round(time.monotonic() - begun, 3), bytes=self.bytes)

    def _note(self, bundle: Bundle, done: asyncio.Future[Any]) -> None:
        """What came of loading."""
        if done.cancelled():
            pass
        elif (error := done.exception()) is not None:
            self._failures[bundle] = str(error).replace(f"{bundle.path.parent}/", "")
        elif bundle not in self._loaded:
            self.loads[bundle.name] += 1
            self._loaded[bundle] = bundle.network_bytes
            self._failures.pop(bundle, None)
        self._leave(bundle)

    def _leave(self, bundle: Bundle) -> None:
        self._uses[bundle] -= 1
        if not self._uses[bundle]:
            del self._uses[bundle]
            if bundle in self._retired:
                self._drop(bundle)
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)

    def _drop(self, bundle: Bundle) -> None:
        self._retired.discard(bundle)
        if self._loaded.pop(bundle, None) is not None:
            bundle.release()


def _file_bytes(bundle: Bundle) -> int:
    """Memory that a network will take, as its file tells."""
    try:
        return (bundle.path / DECODER_FILE).stat().st_size
    except OSError:
        return 0
