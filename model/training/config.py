"""What a training run is made of: a YAML file, checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from qshower.model.decoder_shape import ScalingKind
from qshower.model.field_errors import field_errors, invalid_input
from qshower.model.geometry import GEOMETRIES
from qshower.model.manifest import Symmetry
from qshower.model.training.coded_config import CodedConfig
from qshower.model.training.sections import RunConfig, Section
from qshower.sampler.errors import DefectError
from qshower.sampler.files import why


class NetworkSection(Section):
    """Encoder and decoder. ``likelihood: squared_error`` is the reference's loss; ``high`` and ``low`` its a and b."""

    likelihood: Literal["sampled", "squared_error"] = "sampled"
    scaling: ScalingKind = "log1p"
    symmetry: Symmetry | None = None
    high: float | None = None
    low: float | None = None
    trunk: int = 384
    layer_code: int = 32
    layer_hidden: int = 96
    angular_channels: int = 12
    voxel_channels: int = 32
    profile_hidden: int = 64
    profile_memory: int = Field(default=0, ge=0)
    encoder_hidden: int = 384
    level_hidden: int = 256


class ScheduleSection(Section):
    """Optimisation.

    ``autoencoder_steps`` train everything; then the autoencoder is frozen and ``prior_steps`` train the machine
    alone, anew.
    The divergence's weight rises from ``divergence_start`` to ``divergence`` over the first ``divergence_rise`` of the
    autoencoder's steps. Bits are relaxed with β from ``relaxation_start`` to ``relaxation_end``, and rounded in the
    forward pass if ``hard``. Checkpoints every ``checkpoint_every`` steps.
    """

    seed: int = 0
    batch: int = Field(default=128, ge=2)
    autoencoder_steps: int = Field(ge=0)
    prior_steps: int = Field(ge=0)
    learning_rate: float = Field(default=2e-3, gt=0)
    prior_learning_rate: float = Field(default=3e-4, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    average: float = Field(default=0.998, ge=0, lt=1)
    divergence: float = Field(default=1.0, ge=0)
    divergence_start: float = Field(default=0.02, ge=0)
    divergence_rise: float = Field(default=0.6, gt=0, le=1)
    relaxation_start: float = Field(default=1.0, gt=0)
    relaxation_end: float = Field(default=1.0, gt=0)
    hard: bool = True
    chains: int = Field(default=512, ge=2)
    chain_sweeps: int = Field(default=4, ge=1)
    prior_batch: int = Field(default=1024, ge=2)
    checkpoint_every: int = Field(default=250, ge=1)
    threads: int = Field(default=1, ge=1)


class TrainingConfig(RunConfig):
    """A whole run."""

    network: NetworkSection = NetworkSection()
    schedule: ScheduleSection
    start_from: Path | None = None

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.schedule.autoencoder_steps + self.schedule.prior_steps

    @model_validator(mode="after")
    def _weights(self) -> Self:
        if (self.network.high is None) != (self.network.low is None):
            raise ValueError("network.high and network.low are given together or not at all")
        return self


def read_config(path: Path) -> TrainingConfig | CodedConfig:
    """The configuration in a YAML file, its paths made absolute; InvalidInputError naming the offending key.

    One with a section ``code`` is a coded run (``coded_config``).
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DefectError(str(path), why(error), "a configuration in YAML") from error
    except UnicodeDecodeError as error:
        raise DefectError(
            str(path), f"no text in UTF-8 ({error.reason} at byte {error.start})", "a YAML file"
        ) from None
    except yaml.YAMLError as error:
        raise DefectError(str(path), " ".join(str(error).split()), "a YAML file") from error
    if not isinstance(values, dict):
        raise DefectError(str(path), "empty" if values is None else "no mapping of keys", "a configuration in YAML")
    kind = CodedConfig if "code" in values else TrainingConfig
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        raise invalid_input(path.name, field_errors(error.errors(), kind)) from error
    base = path.resolve().parent
    files = [file.model_copy(update={"path": base / file.path}) for file in config.data.files]
    geometry = config.data.geometry
    if geometry not in GEOMETRIES and (base / geometry).is_file():
        geometry = str(base / geometry)
    data = config.data.model_copy(update={"files": files, "geometry": geometry})
    start = None if config.start_from is None else base / config.start_from
    changes = {"data": data, "output": base / config.output, "start_from": start}
    return config.model_copy(update=changes)
