"""How kernels are compiled: once, without the GIL, kept on disk.

numba keeps compiled code beside the source, or in ``NUMBA_CACHE_DIR`` if that is set, or else in the user's cache
folder, and picks it up in later processes on the same kind of processor. Where none of these can be written, kernels
are compiled anew in each process; that costs start-up time and is logged.

numba looks only at a kernel's own file to tell whether what it kept is still its code. Kernels call others, so here
every source beside them counts, and so do those of ``jit`` and ``gibbs``: after any change they are compiled anew.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

_log = logging.getLogger(__name__)
_JIT = Path(__file__).parent
_SHARED = (*_JIT.glob("*.py"), *(_JIT.parent / "gibbs").rglob("*.py"))


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` with ``options``, without the GIL, cached on disk where a cache can be written."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            made = njit(cache=True, nogil=True, **options)(function)
        except RuntimeError as error:
            _log.warning("%s is compiled in every process: %s; set NUMBA_CACHE_DIR", function.__qualname__, error)
            return njit(nogil=True, **options)(function)
        index = made._cache._cache_file  # noqa: SLF001 - numba has no public way to add to the stamp
        index._source_stamp = (index._source_stamp, _sources(Path(inspect.getfile(function)).parent))  # noqa: SLF001
        return made

    return compiled


@cache
def _sources(folder: Path) -> str:
    """Hash of the sources in ``folder`` and of those that all kernels may use."""
    found = hashlib.sha256()
    for path in sorted({*folder.glob("*.py"), *_SHARED}):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
