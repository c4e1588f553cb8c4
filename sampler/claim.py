"""Latents that were ready before they were asked for, in the hands of one request."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.packed_spins import unpack_spins
from qshower.sampler.provenance import Provenance


class Claim:
    """Latents of a latent cache or a bank for the rows of one request. Nobody else gets them, unless given back.

    Thread-safe.

    Attributes:
        served: (rows,) bool, the rows of the request that there is a latent for.
        provenance: of these latents.
    """

    def __init__(
        self,
        served: NDArray[np.bool_],
        packed: NDArray[np.uint8],
        nodes: int,
        provenance: Provenance,
        give_back: Callable[[], object],
    ) -> None:
        """``packed`` (rows, ⌈nodes/8⌉) holds the latents; ``give_back`` is called once at most."""
        self.served, self.provenance = served, provenance
        self._packed, self._nodes, self._give_back = packed, nodes, give_back
        self._lock = threading.Lock()
        self._given_back = False

    @property
    def complete(self) -> bool:
        """Whether there is a latent for every row."""
        return bool(self.served.all())

    def spins(self, start: int = 0, stop: int | None = None) -> NDArray[np.int8]:
        """(served rows, nodes) the latents of the request's rows ``start`` to ``stop``.

        Raises:
            SamplerUnavailableError: they were given back.
        """
        with self._lock:
            if self._given_back:
                raise SamplerUnavailableError("the latents of this request were given back")
            return unpack_spins(self._packed[start:stop][self.served[start:stop]], self._nodes)

    def give_back(self) -> None:
        """Let others have the latents, which were shown to nobody. Idempotent."""
        with self._lock:
            if not self._given_back:
                self._given_back = True
                self._give_back()
