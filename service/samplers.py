"""The samplers of this process, as the settings say."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Literal

from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.bank import ReplaySampler
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.protocol import Sampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.registry import SamplerRegistry
from qshower.sampler.tempering import TemperingSampler
from qshower.service.service_errors import SettingsError
from qshower.service.settings import Settings

SAMPLER_NAMES = ("gibbs", "annealing", "tempering", "qpu", "replay")
OCEAN_VARIABLES = ("DWAVE_API_TOKEN", "DWAVE_API_ENDPOINT", "DWAVE_PROFILE", "DWAVE_CONFIG_FILE")
OCEAN_FILES = ("dwave.conf", "~/.config/dwave/dwave.conf", "/etc/xdg/dwave/dwave.conf")


def build_registry(settings: Settings) -> SamplerRegistry:
    """Build the samplers. None of them opens a connection yet. SettingsError if one cannot be had."""
    samplers: list[Sampler] = [
        GibbsSampler(_device(settings), settings.threads),
        AnnealingSampler(settings.threads),
        TemperingSampler(settings.threads),
    ]
    if settings.qpu == "on" or (settings.qpu == "auto" and ocean_is_configured()):
        samplers.append(_qpu(settings))
    if settings.bank is not None:
        samplers.append(ReplaySampler(settings.bank, settings.bank_order, seed=settings.bank_seed))
    return SamplerRegistry(samplers)


def ocean_is_configured() -> bool:
    """Whether Ocean's own environment variables or configuration files say anything about an API."""
    return any(os.environ.get(name) for name in OCEAN_VARIABLES) or any(
        Path(name).expanduser().is_file() for name in OCEAN_FILES
    )


def qpu_ledger_path(settings: Settings) -> Path:
    """The file in which the QPU sampler keeps what was used."""
    return QpuSettings(state_dir=settings.qpu_state_folder).state_folder / "qpu_budget.json"


def _qpu(settings: Settings) -> Sampler:
    from qshower.sampler.qpu.qpu_sampler import QpuSampler  # brings Ocean along; not everybody has a QPU

    # Each setting of the service that has a name of QpuSettings is that one.
    named = {field.name: f"qpu_{field.name}" for field in fields(QpuSettings)}
    own = {name: getattr(settings, qpu) for name, qpu in named.items() if qpu in Settings.model_fields}
    return QpuSampler(QpuSettings(state_dir=settings.qpu_state_folder, **own))


def _device(settings: Settings) -> Literal["cpu", "cuda"]:
    if settings.device == "cpu":
        return "cpu"
    from qshower.sampler.gibbs.kernels import cuda  # loads torch

    reason = cuda.missing()
    if settings.device == "cuda" and reason is not None:
        raise SettingsError("QSHOWER_DEVICE", "cuda", f"auto or cpu: {reason}")
    return "cpu" if reason is not None else "cuda"
