"""Taking in bundles that were added, replaced or removed while the service runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from qshower.sampler.errors import QShowerError
from qshower.service.catalogue import Catalogue
from qshower.service.latent_cache.latent_caches import LatentCaches
from qshower.service.residency import Residency

_log = structlog.get_logger("qshower.service")


class Reloading:
    """Reads the bundles again when it is told to (SIGHUP), and swaps them in without downtime.

    Requests under way end with the bundle that they began with. A bundle that is broken now leaves the one in use that
    was read before. If nothing can be read, or it is not clear which is the default, all stays as it was.

    Args:
        catalogue: what requests choose from.
        read: the bundles that are there now.
        residency: networks in memory; those of removed bundles leave it.
        caches: latents of the models.
    """

    def __init__(
        self, catalogue: Catalogue, read: Callable[[], Catalogue], residency: Residency, caches: LatentCaches
    ) -> None:
        self._catalogue, self._read, self._residency, self._caches = catalogue, read, residency, caches
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = self._failed = 0
        self._last_error: str | None = None

    def status(self) -> dict[str, Any]:
        """How often it was done and failed, and what went wrong the last time."""
        return {"done": self._done, "failed": self._failed, "last_error": self._last_error}

    def request(self) -> None:
        """Reload soon. From any thread, or from a signal's handler."""
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        task = self._loop.create_task(self.reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reload(self) -> None:
        """Read the bundles and swap them in; what goes wrong is logged and stands in the status."""
        async with self._lock:
            before = self._catalogue.all_versions()
            try:
                found = await asyncio.to_thread(self._read)
            except QShowerError as error:
                self._failed += 1
                self._last_error = str(error)
                _log.error("the models were not read again", error=str(error))
                return
            after = found.all_versions()
            # The caches first: until the catalogue has a bundle, nobody asks for its latents.
            await asyncio.to_thread(self._caches.follow, found.bundles())
            self._catalogue.adopt(found)
            self._residency.retire(bundle for bundle in before if bundle not in after)
            self._done += 1
            self._last_error = None
            for model in found.broken():
                _log.error("a model is broken", model=model.name, error=model.error)
            _log.info(
                "read the models again",
                models=found.names(),
                new=[bundle.name for bundle in after if bundle not in before],
                gone=[bundle.name for bundle in before if bundle not in after],
            )

    async def close(self) -> None:
        """End what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
