"""What a coded run is made of: a YAML file with a section ``code``, checked before anything starts."""

from __future__ import annotations

from pydantic import Field

from qshower.model.shower_code import OBSERVABLES, Observable
from qshower.model.symmetry import Symmetry
from qshower.model.training.sections import RunConfig, Section


class CodeSection(Section):
    """The fixed code: one bit of each layer for each observable, of the layer and ``reach`` layers on either side."""

    observables: tuple[Observable, ...] = Field(default=OBSERVABLES, min_length=1)
    reach: int = Field(default=1, ge=0)


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

    symmetry: Symmetry = "dihedral"
    trunk: int = Field(default=32, ge=1)
    layer_code: int = Field(default=24, ge=1)
    layer_hidden: int = Field(default=64, ge=1)
    angular_channels: int = Field(default=8, ge=1)
    voxel_channels: int = Field(default=48, ge=1)
    hit_channels: int = Field(default=32, ge=1)
    profile_hidden: int = Field(default=64, ge=1)
    profile_memory: int = Field(default=3, ge=1)


class DepthSchedule(Section):
    """Optimisation of the decoder. ``flips`` is the share of bits that are turned in each draw of a training shower."""

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
    """A whole run: code, then machine, then decoder."""

    code: CodeSection
    machine: MachineSection
    network: DepthSection = DepthSection()
    schedule: DepthSchedule

    @property
    def total_steps(self) -> int:
        """Steps of the machine and of the decoder."""
        return self.machine.steps + self.schedule.steps
