"""Voxel scalings: voxel energies as fractions of the incident energy ↔ network space, invertible, 0 to 0.

``logit`` (the reference's first): x = R + (1 − 2R)ε, u = ln(x/(1 − x)) − ln(R/(1 − R)), R = 1e−7.
``log1p`` (the weekly update of 2024-11-21): u = ln(1 + ε/R), R = 0.04.

Here is the way to the networks; ``model.drawing.point_kernels`` has the way back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qshower.model.decoder_shape import LOG1P_REGULATOR, LOGIT_REGULATOR
from qshower.sampler.errors import InvalidInputError


class Scaling(Protocol):
    """An invertible map of fractions ε = E_voxel/E_inc ≥ 0 to u ≥ 0 with u(0) = 0."""

    def forward(self, fraction: Tensor) -> Tensor:
        """u of ε, elementwise."""


@dataclass(frozen=True, slots=True)
class LogitScaling:
    """u = logit(R + (1 − 2R)ε) − logit(R). Fractions above 1 are not in its domain and are taken as 1."""

    regulator: float = LOGIT_REGULATOR

    def forward(self, fraction: Tensor) -> Tensor:
        """u of ε."""
        x = self.regulator + (1 - 2 * self.regulator) * fraction.double().clamp(0.0, 1.0)
        return (torch.logit(x) - self._offset()).to(fraction.dtype)

    def _offset(self) -> float:
        return float(torch.logit(torch.tensor(self.regulator, dtype=torch.float64)))


@dataclass(frozen=True, slots=True)
class Log1pScaling:
    """u = ln(1 + ε/R)."""

    regulator: float = LOG1P_REGULATOR

    def forward(self, fraction: Tensor) -> Tensor:
        """u of ε."""
        return torch.log1p(fraction / self.regulator)


def build_scaling(kind: str) -> Scaling:
    """The scaling a configuration or manifest names."""
    if kind == "logit":
        return LogitScaling()
    if kind == "log1p":
        return Log1pScaling()
    raise InvalidInputError("scaling", kind, "logit or log1p")
