"""The samplers of this process, as the settings say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from sampler.annealing import AnnealingSampler
from sampler.bank import ReplaySampler
from sampler.gibbs.sampler import GibbsSampler
from sampler.protocol import Sampler
from sampler.registry import SamplerRegistry
from sampler.tempering import TemperingSampler
from service.errors import SettingsError
from service.settings import Settings

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
    from sampler.qpu.settings import QpuSettings

    return QpuSettings(state_dir=settings.qpu_state_folder).state_folder / "qpu_budget.json"


def _qpu(settings: Settings) -> Sampler:
    from sampler.qpu.sampler import QpuSampler  # brings Ocean along; not everybody has a QPU
    from sampler.qpu.settings import QpuSettings

    own = QpuSettings(
        state_dir=settings.qpu_state_folder,
        refine_sweeps=settings.qpu_refine_sweeps,
        gauges=settings.qpu_gauges,
        condition_mode=settings.qpu_condition_mode,
        range_policy=settings.qpu_range_policy,
        max_hole_fraction=settings.qpu_max_hole_fraction,
        request_cap_us=settings.qpu_request_cap_us,
        daily_budget_us=settings.qpu_daily_budget_us,
        recalibrate_on_drift=settings.qpu_recalibrate_on_drift,
        spare_reads=settings.qpu_spare_reads,
    )
    return QpuSampler(own)


def _device(settings: Settings) -> Literal["cpu", "cuda"]:
    if settings.device == "cpu":
        return "cpu"
    from sampler.gibbs import cuda  # loads torch

    reason = cuda.missing()
    if settings.device == "cuda" and reason is not None:
        raise SettingsError("QSHOWER_DEVICE", "cuda", f"auto or cpu: {reason}")
    return "cpu" if reason is not None else "cuda"
