"""What came back from a solver for the parts of a plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import SamplerError
from qshower.sampler.qpu.embedding.embedding import Embedding
from qshower.sampler.qpu.planning.packing import Part


@dataclass(frozen=True, slots=True, eq=False)
class PartReads:
    """What came back for one part.

    Attributes:
        part: the part.
        embedding: where it was drawn.
        fields: (n,) programmed fields, in kT at the assumed beta_eff and before any rescaling.
        factor: what (h, J)/beta was multiplied by: the strength asked for, and less than that to fit the ranges.
        spins: (reads, n) int8, gauges undone.
        gauges: how many gauges they are shared out over, as ``gauge_of_reads`` says.
    """

    part: Part
    embedding: Embedding
    fields: NDArray[np.float64]
    factor: float
    spins: NDArray[np.int8]
    gauges: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class PlanReads:
    """What came back for a plan.

    Attributes:
        parts: the reads of every part, in the order of the plan's programmings and their parts; of the programmings
            that were answered only, if there is a ``failure``.
        notes: what a user should know of how they were drawn.
        failure: why some programmings were not answered.
    """

    parts: tuple[PartReads, ...]
    notes: tuple[str, ...]
    failure: SamplerError | None = None

    def whole(self) -> tuple[PartReads, ...]:
        """The reads of every part; the ``failure`` is raised if there is one."""
        if self.failure is not None:
            raise self.failure
        return self.parts
