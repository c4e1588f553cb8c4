"""The samplers of this process, as the settings say."""

from __future__ import annotations

from typing import Literal

from sampler.annealing import AnnealingSampler
from sampler.gibbs.sampler import GibbsSampler
from sampler.protocol import Sampler
from sampler.registry import SamplerRegistry
from service.errors import SettingsError
from service.settings import Settings


def build_registry(settings: Settings) -> SamplerRegistry:
    """Build the samplers. None of them opens a connection yet. SettingsError if one cannot be had."""
    samplers: list[Sampler] = [GibbsSampler(_device(settings), settings.threads), AnnealingSampler(settings.threads)]
    return SamplerRegistry(samplers)


def _device(settings: Settings) -> Literal["cpu", "cuda"]:
    import torch  # slow to load, and needed here alone

    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise SettingsError("QSHOWER_DEVICE", "cuda", "auto or cpu: torch finds no CUDA device here")
    return "cuda" if settings.device != "cpu" and has_gpu else "cpu"
