"""A line that shows how far a call has come, in a terminal or in a notebook. Nothing is shown elsewhere."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

EVERY_S = 0.1
BAR = 30

Shown: TypeAlias = Callable[[int, int | None], None]
Progress: TypeAlias = bool | Shown


@contextmanager
def shown(progress: Progress, *, unit: str) -> Iterator[Shown]:
    """What to tell of ``done`` and the ``total``, if that is known: the caller's function, a line, or nothing.

    ``unit`` is ``bytes`` or ``showers``.
    """
    if callable(progress):
        yield progress
        return
    with _line(wanted=progress) as show:
        told: list[tuple[int, int | None]] = []
        next_s = time.monotonic()

        def tell(done: int, total: int | None) -> None:
            nonlocal next_s
            told[:] = [(done, total)]
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + EVERY_S
                show(_text(done, total, unit))

        try:
            yield tell
        finally:
            if told:
                show(_text(*told[0], unit))


@contextmanager
def _line(*, wanted: bool) -> Iterator[Callable[[str], object]]:
    """Shows a text in place of the one before, where there is something to show it on."""
    stream = sys.stderr
    if wanted and (handle := _notebook_output()) is not None:
        yield lambda text: handle.update({"text/plain": text}, raw=True)
    elif wanted and stream is not None and stream.isatty():
        try:
            yield lambda text: print(f"\r\x1b[K{text}", end="", file=stream, flush=True)
        finally:
            print(file=stream)
    else:
        yield len


def _notebook_output() -> Any:
    """A display of the notebook that runs this, None outside of one."""
    loaded = sys.modules.get("IPython")
    shell = loaded.get_ipython() if loaded is not None else None
    if getattr(shell, "kernel", None) is None:
        return None
    return importlib.import_module("IPython.display").display({"text/plain": ""}, raw=True, display_id=True)


def _text(done: int, total: int | None, unit: str) -> str:
    def amount(number: int) -> str:
        return f"{number / 1e6:.1f} MB" if unit == "bytes" else f"{number} {unit}"

    if not total:
        return amount(done)
    filled = min(BAR, BAR * done // total)
    return f"{'#' * filled}{'.' * (BAR - filled)} {100 * done // total:3d} %  {amount(done)} of {amount(total)}"
