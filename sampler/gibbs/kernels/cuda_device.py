"""Whether a CUDA device can be used, found without loading torch where there is no driver."""

from __future__ import annotations

import ctypes
import sys


def missing() -> str | None:
    """Why no CUDA device can be used, None if one can. Loads torch where there is a driver."""
    if sys.platform == "linux" and not _driver_is_there():
        return "no CUDA driver (libcuda.so.1) is installed"
    from qshower.sampler.gibbs.kernels import cuda

    return cuda.missing()


def _driver_is_there() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
