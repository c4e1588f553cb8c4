"""The hierarchical encoder: q(s_1, s_2, s_3 | shower, E) = Π_k q(s_k | shower, E, s_<k) over the free partitions.

It sees a shower in canonical orientation through fixed features of every layer: energy and number of hits, radial
profiles of both, and the first two angular harmonics of the energy in three radial zones; all as smooth functions. Bits
are drawn by the binary concrete relaxation σ(β(logit + logistic noise)) (Maddison et al., arXiv:1611.00712), either
relaxed or, straight through, rounded in the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, softplus

from qshower.model.decoder import ShowerView, layer_values
from qshower.model.decoder_shape import ENERGY_FEATURES, LAYER_VALUES, DecoderShape

ZONE_STARTS = (0, 1, 3)
HARMONICS = (1, 2)


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """Sizes of an encoder: bits of each free partition, and hidden units."""

    partition_bits: tuple[int, ...]
    hidden: int = 384
    level_hidden: int = 256


def shower_features(showers: Tensor, view: ShowerView) -> Tensor:
    """Features (rows, ·) of showers (rows, L, A, R) in MeV."""
    rows, _, angular, radial = showers.shape
    starts = _zone_starts(radial)
    radial_energy = torch.log1p(showers.sum(dim=2)) / 4
    radial_hits = torch.log1p(view.hit.sum(dim=2).to(showers.dtype)) / 2
    angle = 2 * torch.pi * torch.arange(angular) / angular
    zones = torch.stack(
        [showers[..., a:b].sum(dim=3) for a, b in zip(starts, [*starts[1:], radial], strict=True)], dim=2
    )
    amount = zones.sum(dim=3, keepdim=True).clamp_min(1e-3)
    waves = torch.stack([wave(k * angle) for k in HARMONICS for wave in (torch.cos, torch.sin)], dim=1)
    harmonics = (zones @ waves) / amount
    profile = layer_values((view.count > 0).to(showers.dtype), view.log_share, view.count)
    parts = (radial_energy, radial_hits, harmonics, profile)
    return torch.cat([part.reshape(rows, -1) for part in parts] + [5 * view.log_response.unsqueeze(1)], dim=1)


def _zone_starts(radial: int) -> list[int]:
    """First radial bin of each zone that exists."""
    return [start for start in ZONE_STARTS if start < radial]


class Encoder(nn.Module):
    """See the module."""

    def __init__(self, shape: EncoderShape, shower: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        layers, _, radial = shower.grid.shape
        harmonics = 2 * len(HARMONICS) * len(_zone_starts(radial))
        inputs = layers * (2 * radial + harmonics + LAYER_VALUES) + 1 + ENERGY_FEATURES
        self.norm = nn.LayerNorm(inputs)
        self.first = nn.Linear(inputs, shape.hidden)
        self.second = nn.Linear(shape.hidden, shape.hidden)
        seen = [sum(shape.partition_bits[:k]) for k in range(len(shape.partition_bits))]
        self.level_hidden = nn.ModuleList(nn.Linear(shape.hidden + bits, shape.level_hidden) for bits in seen)
        self.level_logits = nn.ModuleList(nn.Linear(shape.level_hidden, bits) for bits in shape.partition_bits)

    def forward(
        self, features: Tensor, energy: Tensor, noise: Tensor, beta: float, *, hard: bool
    ) -> tuple[Tensor, Tensor]:
        """Spins and logits of P(s = +1), (rows, free bits) each.

        ``features`` of ``shower_features``, ``energy`` features, ``noise`` (rows, free bits) standard logistic.
        """
        hidden = gelu(self.first(self.norm(torch.cat([features, energy], dim=1))))
        hidden = hidden + gelu(self.second(hidden))
        spins: list[Tensor] = []
        logits: list[Tensor] = []
        start = 0
        for bits, level_hidden, level_logits in zip(
            self.shape.partition_bits, self.level_hidden, self.level_logits, strict=True
        ):
            logit = level_logits(gelu(level_hidden(torch.cat([hidden, *spins], dim=1))))
            spins.append(relaxed_spins(logit, noise[:, start : start + bits], beta, hard=hard))
            logits.append(logit)
            start += bits
        return torch.cat(spins, dim=1), torch.cat(logits, dim=1)


def relaxed_spins(logits: Tensor, noise: Tensor, beta: float, *, hard: bool) -> Tensor:
    """2σ(β(logit + noise)) − 1; with ``hard``, its sign in the forward pass and its gradient in the backward pass."""
    soft = 2 * torch.sigmoid(beta * (logits + noise)) - 1
    if not hard:
        return soft
    rounded = torch.where(logits + noise > 0, 1.0, -1.0)
    return soft + (rounded - soft).detach()


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of independent bits with the given logits, summed over the last axis."""
    p = torch.sigmoid(logits)
    return (p * softplus(-logits) + (1 - p) * softplus(logits)).sum(dim=-1)
