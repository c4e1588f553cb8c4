"""What every training configuration has: names, data, and the machine's lattice and condition."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from qshower.model.energy_code import EnergyCodeKind


class Section(BaseModel):
    """A part of a configuration: no unknown keys, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataFile(Section):
    """One CaloChallenge HDF5 file. ``weight`` is its share of the training draws relative to the other files."""

    path: Path
    weight: float = Field(default=1.0, gt=0)


class DataSection(Section):
    """Training data. Energies in MeV.

    ``geometry`` is a CaloChallenge name, or a binning XML file, of which ``particle`` and ``eta_range`` choose the
    entry where it has several. ``validation_fraction`` of the showers is kept out of the training, chosen by the seed.
    """

    files: list[DataFile] = Field(min_length=1)
    geometry: str = "2"
    particle: str | None = None
    eta_range: tuple[float, float] | None = None
    threshold_mev: float | None = Field(default=None, ge=0)
    domain_mev: tuple[float, float]
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)


class LatentSection(Section):
    """The Boltzmann machine and the condition. ``chip_size``: the grid of the chip, None for today's full-size one."""

    topology: Literal["zephyr", "pegasus"] = "zephyr"
    chip_size: int | None = Field(default=None, ge=1)
    nodes_per_partition: int = Field(default=302, ge=4)
    energy_code: EnergyCodeKind = "thermometer"
    levels: int = Field(default=64, ge=2)


class RunConfig(Section):
    """What configurations of all runs have. Relative paths are relative to the configuration file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    description: str = ""
    default: bool = False
    output: Path
    data: DataSection
    latent: LatentSection = LatentSection()

    @model_validator(mode="after")
    def _domain(self) -> Self:
        low, high = self.data.domain_mev
        if not 0 < low < high:
            raise ValueError(f"data.domain_mev {self.data.domain_mev} must be 0 < low < high")
        return self
