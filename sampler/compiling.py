"""How kernels are compiled: once, without the GIL, kept on disk.

numba keeps compiled code beside the source, or in ``NUMBA_CACHE_DIR`` if that is set, or else in the user's cache
folder, and picks it up in later processes on the same kind of processor. Where none of these can be written, kernels
are compiled anew in each process; that costs start-up time and is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from numba import njit

_log = logging.getLogger(__name__)


def kernel(function: Callable[..., Any]) -> Any:
    """``numba.njit`` without the GIL, cached on disk where a cache can be written."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        _log.warning("%s is compiled in every process: %s; set NUMBA_CACHE_DIR", function.__qualname__, error)
        return njit(nogil=True)(function)
