"""Compile every kernel of the service into NUMBA_CACHE_DIR, by drawing a shower from every bundle of the package."""

from __future__ import annotations

import asyncio

from qshower.service.metrics import Metrics
from qshower.service.running import running_service
from qshower.service.settings import load_settings


async def _start_and_stop() -> None:
    async with running_service(load_settings(qpu="off", device="cpu"), Metrics()):
        pass


asyncio.run(_start_and_stop())
