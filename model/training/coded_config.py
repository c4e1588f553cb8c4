"""What a coded run is made of: a YAML file with a section ``code``, checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from qshower.model.manifest import Symmetry
from qshower.model.shower_code import GIVEN_HITS, Observable
from qshower.model.training.sections import RunConfig, Section


class CodeSection(Section):
    """The fixed code of each layer: the cell of its share of the energy, and a bit for each observable.

    ``share_cells`` equal parts of a layer's share at given incident energy, 0 for none; ``share_given_energy`` as
    ``model.share_cells`` has it. Observables are those of the layer and ``reach`` layers on either side; those in
    ``given_hits`` are judged at a given number of hits.
    """

    share_cells: Literal[0, 2, 3, 4, 5, 6, 7, 8] = 0
    share_given_energy: float = Field(default=1.0, gt=0, le=1)
    observables: tuple[Observable, ...] = ("share", "radius", "width", "cos_1", "sin_1")
    given_hits: tuple[Observable, ...] = GIVEN_HITS
    reach: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _some_bits(self) -> Self:
        if not self.observables and not self.share_cells:
            raise ValueError("code.observables: give at least one, or code.share_cells of 2 to 8")
        return self


class MachineSection(Section):
    """Placement and fit of the machine; ``training.machine_fit.FitSchedule`` explains most.

    ``swaps`` of bits are tried when they are placed. ``fills`` drafts of each shower's missing bits, after
    ``fill_sweeps`` sweeps, are kept for the decoder's training.
    """

    steps: int = Field(ge=1)
    rate: float = Field(default=6e-3, gt=0)
    chains: int = Field(default=1024, ge=2)
    sweeps: int = Field(default=6, ge=1)
    open_sweeps: int = Field(default=3, ge=1)
    bound: float = Field(default=2.0, gt=0)
    swaps: int = Field(default=3_000_000, ge=1)
    fills: int = Field(default=3, ge=1)
    fill_sweeps: int = Field(default=40, ge=1)


class DepthSection(Section):
    """Sizes of ``model.depth_decoder``."""

    symmetry: Symmetry | None = None
    trunk: int = Field(default=32, ge=1)
    layer_code: int = Field(default=24, ge=1)
    layer_hidden: int = Field(default=64, ge=1)
    angular_channels: int = Field(default=8, ge=1)
    voxel_channels: int = Field(default=48, ge=1)
    hit_channels: int = Field(default=32, ge=1)
    profile_hidden: int = Field(default=64, ge=1)
    profile_memory: int = Field(default=3, ge=1)


class DepthSchedule(Section):
    """Optimisation of the decoder. ``flips`` is the share of bits that are turned in each draw of a training shower.

    Bits that name a cell of a layer's share are never turned: the share would lie outside.
    """

    seed: int = 0
    steps: int = Field(ge=1)
    batch: int = Field(default=96, ge=2)
    learning_rate: float = Field(default=2.5e-3, gt=0)
    weight_decay: float = Field(default=0.03, ge=0)
    average: float = Field(default=0.998, ge=0, lt=1)
    flips: float = Field(default=0.02, ge=0, lt=0.5)
    checkpoint_every: int = Field(default=250, ge=1)
    threads: int = Field(default=1, ge=1)


class CodedConfig(RunConfig):
    """A whole run: code, then machine, then decoder.

    ``start_from``: folder of a coded bundle whose decoder is the starting point, as far as it fits.
    """

    start_from: Path | None = None
    code: CodeSection
    machine: MachineSection
    network: DepthSection = DepthSection()
    schedule: DepthSchedule

    @property
    def total_steps(self) -> int:
        """Steps of the machine and of the decoder."""
        return self.machine.steps + self.schedule.steps
