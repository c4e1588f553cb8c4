"""The table of samplers, and those of this process as the settings say.

To add a sampler, write it in a file of its own and enter one row here (docs/write-a-sampler.md). Requests, the command
line and the order of ``auto`` follow from the table and from each sampler's ``SamplerCapabilities``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qshower.sampler.errors import DefectError
from qshower.service.service_errors import SettingsError

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.protocol import Sampler, SamplerCapabilities
    from qshower.sampler.qpu.qpu_sampler import QpuSampler
    from qshower.sampler.registry import SamplerRegistry
    from qshower.sampler.request import SamplerOptions
    from qshower.service.settings import Settings

OCEAN_VARIABLES = ("DWAVE_API_TOKEN", "DWAVE_API_ENDPOINT", "DWAVE_PROFILE", "DWAVE_CONFIG_FILE")
OCEAN_FILES = ("dwave.conf", "~/.config/dwave/dwave.conf", "/etc/xdg/dwave/dwave.conf")


@dataclass(frozen=True, slots=True)
class SamplerRow:
    """One sampler: where its class is, and how to build it.

    Names are ``module:attribute``, loaded when they are needed: not everybody has a QPU, and the command line must not
    wait for compilers to show its help.

    Attributes:
        kind: the class.
        build: makes one, of the class and the settings.
        wanted: whether the settings ask for it.
        described_by: its capabilities, where loading the class takes long; "" for the class's own.
    """

    kind: str
    build: Callable[[Any, Settings], Sampler] = lambda kind, _: kind()
    wanted: Callable[[Settings], bool] = lambda _: True
    described_by: str = ""

    @property
    def capabilities(self) -> SamplerCapabilities:
        """What it can do, whether or not it is configured."""
        found = _load(self.described_by) if self.described_by else _load(self.kind).capabilities
        capabilities: SamplerCapabilities = found
        return capabilities


def ocean_is_configured() -> bool:
    """Whether Ocean's own environment variables or configuration files say anything about an API."""
    return any(os.environ.get(name) for name in OCEAN_VARIABLES) or any(
        Path(name).expanduser().is_file() for name in OCEAN_FILES
    )


def _device(settings: Settings) -> Literal["cpu", "cuda"]:
    if settings.device == "cpu":
        return "cpu"
    from qshower.sampler.gibbs.kernels import cuda_device  # loads torch where there is a driver

    reason = cuda_device.missing()
    if settings.device == "cuda" and reason is not None:
        raise SettingsError("QSHOWER_DEVICE", "cuda", f"auto or cpu: {reason}")
    return "cpu" if reason is not None else "cuda"


def _build_replay(kind: Any, settings: Settings) -> Sampler:
    try:
        sampler: Sampler = kind(settings.bank, settings.replay.order, seed=settings.replay.seed)
    except DefectError as error:
        message = f"QSHOWER_BANK={error}"
        raise SettingsError("QSHOWER_BANK", str(settings.bank), error.allowed, message=message) from error
    return sampler


SAMPLERS: dict[str, SamplerRow] = {
    "gibbs": SamplerRow(
        "qshower.sampler.gibbs.gibbs_sampler:GibbsSampler",
        lambda kind, settings: kind(_device(settings), settings.threads),
    ),
    "annealing": SamplerRow(
        "qshower.sampler.annealing:AnnealingSampler", lambda kind, settings: kind(settings.threads)
    ),
    "tempering": SamplerRow(
        "qshower.sampler.tempering:TemperingSampler", lambda kind, settings: kind(settings.threads)
    ),
    "qpu": SamplerRow(
        "qshower.sampler.qpu.qpu_sampler:QpuSampler",
        lambda kind, settings: kind(settings.on_qpu.of_sampler()),
        wanted=lambda settings: settings.qpu == "on" or (settings.qpu == "auto" and ocean_is_configured()),
        described_by="qshower.sampler.qpu.capabilities:CAPABILITIES",
    ),
    "replay": SamplerRow(
        "qshower.sampler.replay:ReplaySampler",
        _build_replay,
        wanted=lambda settings: settings.bank is not None,
    ),
}
"""By the names that requests choose them by, in the order in which they are shown."""


def build_registry(settings: Settings) -> SamplerRegistry:
    """Build the samplers that are wanted. None of them opens a connection yet. SettingsError if one cannot be had."""
    from qshower.sampler.registry import SamplerRegistry

    wanted = [row for row in SAMPLERS.values() if row.wanted(settings)]
    return SamplerRegistry([row.build(_load(row.kind), settings) for row in wanted])


def qpu_usage_path(settings: Settings) -> Path:
    """The file in which the QPU sampler keeps what was used."""
    return settings.on_qpu.of_sampler().state_folder / "qpu_budget.json"


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def qpu_of(registry: SamplerRegistry) -> QpuSampler | None:
    """The QPU sampler of a registry, None if it has none."""
    if not any(sampler.capabilities.billed for sampler in registry):
        return None
    from qshower.sampler.qpu.qpu_sampler import QpuSampler  # loads Ocean, which takes seconds

    return next((sampler for sampler in registry if isinstance(sampler, QpuSampler)), None)


def default_options(sampler: Sampler, bundle: Bundle) -> SamplerOptions:
    """What a request without options is drawn with."""
    from qshower.sampler.request import SamplerOptions

    return SamplerOptions(sweeps=bundle.default_sweeps if sampler.capabilities.sweeps_from_model else None)
