"""Waiting for what another thread or process does, where nothing tells when: the only sleeps of the tests.

Where the code under test can be made to tell, an event is better, and needs nothing of this.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")
PATIENCE_S = 60.0
START_PATIENCE_S = 240.0
"""Of a server's first start: in a new checkout it compiles every kernel, on a slow machine for minutes."""
PAUSE_S = 0.01


def until(condition: Callable[[], Value], patience_s: float = PATIENCE_S) -> Value:
    """The first value of ``condition`` that is true, asked for again and again; AssertionError if there is none."""
    ends_at = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < ends_at, f"not within {patience_s:g} s"
        time.sleep(PAUSE_S)
    return value


async def until_in_loop(condition: Callable[[], Value], patience_s: float = PATIENCE_S) -> Value:
    """As ``until``, while the event loop goes on."""
    ends_at = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < ends_at, f"not within {patience_s:g} s"
        await asyncio.sleep(PAUSE_S)
    return value


def holds(condition: Callable[[], object], span_s: float = 0.5) -> None:
    """Assert that ``condition`` is true all the time: that something does not happen cannot be waited for."""
    ends_at = time.monotonic() + span_s
    while time.monotonic() < ends_at:
        assert condition()
        time.sleep(PAUSE_S)


async def holds_in_loop(condition: Callable[[], object], span_s: float = 0.2) -> None:
    """As ``holds``, while the event loop goes on."""
    ends_at = time.monotonic() + span_s
    while time.monotonic() < ends_at:
        assert condition()
        await asyncio.sleep(PAUSE_S)
