"""What is asked for, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qshower.model.geometry import Geometry
from qshower.sampler.errors import InvalidInputError
from qshower.service.engine.work import DrawnRows
from qshower.service.generation.answer_provenance import Origin, provenance_json
from qshower.service.service_errors import TooLargeError

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle


@dataclass(frozen=True, slots=True, eq=False)
class ShowerRequest:
    """What is asked for: one shower for each entry of ``energies_mev`` (rows,), float64.

    ``options`` are the sampler's, by the names of SamplerOptions; shower i has stream (seed, first_row + i).
    ``bytes_per_voxel`` is what a voxel takes in the answer's format, for the check of its projected size;
    ``account`` is the name of the API key that pays for QPU access time, "" for none;
    ``showers_per_energy`` says how often each energy stands in place, so that errors name the one that was given;
    ``window_bytes`` is how much of the answer may wait to be taken, None for all of it.
    """

    energies_mev: NDArray[np.float64]
    sampler: str = "auto"
    fallback: tuple[str, ...] = ()
    model: str | None = None
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    threshold_mev: float | None = None
    deadline_s: float | None = None
    first_row: int = 0
    bytes_per_voxel: float = 4.0
    showers_per_energy: int = 1
    account: str = ""
    window_bytes: int | None = None

    @property
    def rows(self) -> int:
        """Number of showers asked for."""
        return int(self.energies_mev.shape[0])

    @property
    def takes_cached(self) -> bool:
        """Whether latents drawn before will do: a seed asks for certain showers, an option for a certain draw."""
        return self.seed is None and not self.options

    def threshold_of(self, bundle: Bundle) -> float:
        """The threshold to apply, in MeV."""
        return bundle.geometry.threshold_mev if self.threshold_mev is None else self.threshold_mev

    def outside(self, bundle: Bundle) -> NDArray[np.int64]:
        """Rows whose energies are not in the model's domain."""
        low, high = bundle.domain_mev
        return np.flatnonzero((self.energies_mev < low) | (self.energies_mev > high))

    def check(self, bundle: Bundle, max_response_bytes: int | None) -> None:
        """InvalidInputError for an energy outside the model's domain, TooLargeError for too large an answer."""
        low, high = bundle.domain_mev
        outside = self.outside(bundle)
        if outside.size:
            index = int(outside[0])
            raise InvalidInputError(
                f"incident_energies_mev[{(self.first_row + index) // self.showers_per_energy}]",
                float(self.energies_mev[index]),
                f"{low:.10g} to {high:.10g} MeV, the domain of model {bundle.name}",
            )
        size = int(self.rows * bundle.geometry.voxel_count * self.bytes_per_voxel)
        if max_response_bytes is not None and size > max_response_bytes:
            raise TooLargeError(
                f"the answer would take about {size} bytes, more than {max_response_bytes}; ask for fewer showers"
            )


@dataclass(frozen=True, slots=True, eq=False)
class ShowerAnswer:
    """Showers (rows, voxels) float32 in MeV, in request order, and how they came to be."""

    energies_mev: NDArray[np.float64]
    showers_mev: NDArray[np.float32]
    geometry: Geometry
    origin: Origin
    parts: tuple[DrawnRows, ...]
    elapsed_s: dict[str, float]

    def provenance(self) -> dict[str, Any]:
        """The JSON object of the design."""
        return provenance_json(self.origin, self.parts, self.elapsed_s)
