"""How kernels are compiled: once, without the GIL, kept on disk.

numba keeps compiled code beside the source, or in ``NUMBA_CACHE_DIR`` if that is set, or else in the user's cache
folder, and picks it up in later processes on the same kind of processor. Where none of these can be written, kernels
are compiled anew in each process; that costs start-up time and is logged.

numba looks only at a kernel's own file to tell whether what it kept is still its code. Kernels call others, so the code
is kept in a folder named after every source beside them and those of ``jit`` and ``gibbs``: after any change it is
compiled anew.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numba
from numba import njit

from qshower.sampler.errors import InvalidInputError

_log = logging.getLogger(__name__)
_JIT = Path(__file__).parent
_SHARED = (*_JIT.glob("*.py"), *(_JIT.parent / "gibbs").rglob("*.py"))
_one_at_a_time = Lock()
config: Any = numba.config


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` with ``options``, without the GIL, cached on disk where a cache can be written.

    Raises:
        InvalidInputError: NUMBA_DISABLE_JIT is set; kernels are made of instructions that Python has not.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        if config.DISABLE_JIT:
            message = "NUMBA_DISABLE_JIT switches the compiler off that samplers and decoders need; unset it"
            raise InvalidInputError("NUMBA_DISABLE_JIT", config.DISABLE_JIT, "0", message=message)
        try:
            with _cache_of_today(Path(inspect.getfile(function)).parent):
                return njit(cache=True, nogil=True, **options)(function)
        except RuntimeError as error:
            _log.warning("%s is compiled in every process: %s; set NUMBA_CACHE_DIR", function.__qualname__, error)
            return njit(nogil=True, **options)(function)

    return compiled


@contextmanager
def _cache_of_today(folder: Path) -> Iterator[None]:
    """Let numba keep what it compiles from ``folder`` where only these sources' code is."""
    with _one_at_a_time:
        before = config.CACHE_DIR
        base = Path(before) if before else _writable(folder)
        if base is not None:
            config.CACHE_DIR = str(base / f"kernels-{_sources(folder)[:16]}")
        try:
            yield
        finally:
            config.CACHE_DIR = before


@cache
def _writable(folder: Path) -> Path | None:
    """The first place that can be written, of those where numba looks itself."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for place in (folder / "__pycache__", home / "numba"):
        with suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place
    return None


@cache
def _sources(folder: Path) -> str:
    """Hash of the sources in ``folder`` and of those that all kernels may use."""
    found = hashlib.sha256()
    for path in sorted({*folder.glob("*.py"), *_SHARED}):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
