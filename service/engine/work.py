"""What is asked of the engine, and how what comes of it was drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.provenance import Provenance
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.claim import Claim

BYTES_OF_VOXEL = 4
COPIES_HELD = 2
"""Times that the rows of a window are in memory at most: as showers, and encoded."""


@dataclass(frozen=True, slots=True)
class DrawKey:
    """What requests must share to be drawn in one batch.

    ``sha256`` is the bundle's: one of the same name may have taken its place. ``account``: who pays for it, "" for
    nobody in particular. ``cached``: every latent is there already, from a cache or a bank, so that it does not wait
    for those that are drawn. ``elsewhere``: it is drawn on another machine, and leaves the processor of this one idle.
    """

    bundle: str
    sampler: str
    options: SamplerOptions
    threshold_mev: float
    sha256: str = ""
    account: str = ""
    cached: bool = False
    elsewhere: bool = False

    @property
    def lane(self) -> str:
        """The queue it waits in."""
        return f"{self.sampler}-cached" if self.cached else self.sampler


class Draws(Protocol):
    """What the engine asks of a sampler."""

    def sample(self, request: LatentRequest) -> LatentBatch:
        """One latent per row of ``request``."""


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """How rows ``start`` to ``stop`` of a request were drawn. ``share`` is their part of the rows drawn together."""

    start: int
    stop: int
    share: float
    provenance: Provenance


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Rows ``start`` to ``stop`` of a request: ``showers_mev`` (stop − start, voxels) float32, in MeV."""

    start: int
    stop: int
    showers_mev: NDArray[np.float32]


def joined(chunks: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Showers of chunks as one array, without a copy where there is one chunk."""
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Showers (rows, voxels) in MeV in request order, and how each part of them was drawn."""

    showers_mev: NDArray[np.float32]
    parts: tuple[DrawnRows, ...]
    elapsed_s: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What a request asks of the engine: latents of ``sampler`` for ``conditions`` (rows, condition nodes), decoded.

    Attributes:
        key: what it shares with those it may be drawn with.
        bundle, sampler: the model, and who draws its latents.
        energies_mev: (rows,) incident energies.
        conditions: (rows, condition nodes).
        streams: (rows, 2) random streams.
        deadline_at: ``time.monotonic`` instant that the request set, None where it set none.
        patience_s: without ``deadline_at``, longest time beyond what its own rows are projected to take; None for ever.
        claim: rows that it serves are not drawn.
        window_bytes: most bytes of showers that may wait to be taken, None for no bound.
        deadline_s: the seconds that ``deadline_at`` came from, to be told.
        rows, voxels, free_spins: showers asked for, voxels of one, spins that are drawn for it.
    """

    key: DrawKey
    bundle: Bundle
    sampler: Draws
    energies_mev: NDArray[np.float64]
    conditions: NDArray[np.int8]
    streams: NDArray[np.uint64]
    deadline_at: float | None = None
    patience_s: float | None = None
    claim: Claim | None = None
    window_bytes: int | None = None
    deadline_s: float | None = None
    rows: int = field(init=False)
    voxels: int = field(init=False)
    free_spins: int = field(init=False)

    def __post_init__(self) -> None:
        # Counted once: whoever comes is compared with all that wait.
        object.__setattr__(self, "rows", int(self.energies_mev.shape[0]))
        object.__setattr__(self, "voxels", self.bundle.geometry.voxel_count)
        object.__setattr__(self, "free_spins", len(self.bundle.machine.free_nodes))

    @property
    def row_bytes(self) -> int:
        """Memory of one shower."""
        return self.voxels * BYTES_OF_VOXEL

    @property
    def window_rows(self) -> int:
        """Most rows that may be in work or wait to be taken."""
        if self.window_bytes is None:
            return self.rows
        return min(self.rows, max(1, self.window_bytes // self.row_bytes))

    @property
    def held_bytes(self) -> int:
        """Most memory of its showers at a time, those encoded included."""
        return self.window_rows * self.row_bytes * COPIES_HELD
