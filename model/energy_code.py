"""Energy codes: from an incident energy to the spins of the condition (partition 0).

``ThermometerCode`` is a finite alphabet: the logarithm of the energy in K levels. A batch of any size then needs at
most K different conditions, so that one QPU problem, or one warm chain, serves many showers. The decoder gets the
exact energy besides. ``BitCode`` is the published code of the reference (arXiv:2410.22870): nearly every energy is a
condition of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError

EnergyCodeKind = Literal["thermometer", "bits"]

BITS_PER_FIELD = 20


class EnergyCode(Protocol):
    """A map from incident energies to conditions."""

    @property
    def width(self) -> int:
        """Number of condition spins."""

    @property
    def level_count(self) -> int | None:
        """Number of different conditions, None when there is one for nearly every energy."""

    def conditions(self, incident_energies_mev: NDArray[np.float64]) -> NDArray[np.int8]:
        """Spins (rows, width) of −1 and +1 for energies (rows,) in MeV."""


@dataclass(frozen=True, slots=True)
class ThermometerCode:
    """K levels of equal width in ln E; a condition spin is +1 where the level is above the spin's threshold.

    Spin i has threshold number (i · step) mod (K − 1), step coprime to K − 1, so that neighbouring nodes of the lattice
    see thresholds that are far apart and each free node meets several.
    """

    width: int
    level_count: int
    low_mev: float
    high_mev: float

    def __post_init__(self) -> None:
        if not 2 <= self.level_count <= self.width + 1:
            raise InvalidInputError(
                "levels", self.level_count, f"2 to {self.width + 1} (one more than condition spins)"
            )
        if not 0 < self.low_mev < self.high_mev:
            raise InvalidInputError("domain_mev", (self.low_mev, self.high_mev), "0 < low < high")

    def levels(self, incident_energies_mev: NDArray[np.float64]) -> NDArray[np.int64]:
        """Level 0..K−1 of each energy; energies beyond the domain get the nearest level."""
        span = np.log(self.high_mev / self.low_mev)
        position = np.log(np.asarray(incident_energies_mev, dtype=np.float64) / self.low_mev) / span
        levels: NDArray[np.int64] = np.clip(np.floor(position * self.level_count), 0, self.level_count - 1).astype(
            np.int64
        )
        return levels

    def conditions(self, incident_energies_mev: NDArray[np.float64]) -> NDArray[np.int8]:
        """Spins (rows, width)."""
        return self.alphabet()[self.levels(incident_energies_mev)]

    def alphabet(self) -> NDArray[np.int8]:
        """All conditions, (level_count, width), by level."""
        thresholds = self.level_count - 1
        step = next(
            step for step in range(int(0.618 * thresholds) + 1, 2 * thresholds + 2) if np.gcd(step, thresholds) == 1
        )
        threshold_of_spin = np.arange(self.width) * step % thresholds
        above = np.arange(self.level_count)[:, None] > threshold_of_spin[None, :]
        return np.where(above, 1, -1).astype(np.int8)


@dataclass(frozen=True, slots=True)
class BitCode:
    """The reference's code: 20 bits each of int(E), int(√E·√10) and int(ln E·e¹⁰), E in MeV.

    The least significant bit comes first; the word is repeated as often as it fits, the remaining spins are −1.
    """

    width: int

    def __post_init__(self) -> None:
        if self.width < 3 * BITS_PER_FIELD:
            raise InvalidInputError("width", self.width, f"at least {3 * BITS_PER_FIELD} condition spins")

    @property
    def level_count(self) -> int | None:
        """None: nearly every energy is a condition of its own."""
        return None

    def conditions(self, incident_energies_mev: NDArray[np.float64]) -> NDArray[np.int8]:
        """Spins (rows, width)."""
        energy = np.asarray(incident_energies_mev, dtype=np.float64)
        fields = (energy, np.sqrt(energy * 10.0), np.log(energy) * np.exp(10.0))
        numbers = np.stack([field.astype(np.int64) for field in fields], axis=1)
        bits = (numbers[:, :, None] >> np.arange(BITS_PER_FIELD)) & 1
        word = bits.reshape(len(energy), -1)
        spins = np.full((len(energy), self.width), -1, dtype=np.int8)
        whole = self.width // word.shape[1] * word.shape[1]
        spins[:, :whole] = np.tile(2 * word - 1, whole // word.shape[1])
        return spins


def build_energy_code(
    kind: str, width: int, *, levels: int | None = None, domain_mev: tuple[float, float]
) -> EnergyCode:
    """The code a configuration or manifest names."""
    if kind == "thermometer":
        return ThermometerCode(width, levels if levels is not None else 64, *domain_mev)
    if kind == "bits":
        return BitCode(width)
    raise InvalidInputError("energy_code", kind, "thermometer or bits")
