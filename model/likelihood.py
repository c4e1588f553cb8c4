"""The sampled likelihood: normal mixtures and counts, their log densities.

A squared error on voxels blurs; here the decoder's outputs are parameters of distributions that are *sampled* at
generation (``qshower.model.drawing``).

Law of a mixture with raw outputs (a_k, m_k, r_k), k = 1..K:  Σ_k softmax(a)_k Normal(m_k, σ_k),
σ_k = exp(bounded(r_k)), ln σ between MIN_LOG_SCALE and MAX_LOG_SCALE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from qshower.model.decoder_shape import SCALE_CENTRE, SCALE_HALF

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
LOWEST_COUNT_PROBABILITY = 1e-7
LOWEST_MASS = 1e-12


@dataclass(frozen=True, slots=True)
class NormalMixture:
    """Σ_k w_k Normal(μ_k, σ_k) on the real line; tensors (..., K), the weights normalised."""

    log_weights: Tensor
    means: Tensor
    log_scales: Tensor

    @classmethod
    def from_outputs(cls, outputs: Tensor) -> Self:
        """From raw network outputs (..., 3K): K logits of the weights, K means, K raw scales."""
        weights, means, raw_scales = torch.chunk(outputs, 3, dim=-1)
        log_scales = SCALE_CENTRE + SCALE_HALF * torch.tanh((raw_scales - SCALE_CENTRE) / SCALE_HALF)
        return cls(torch.log_softmax(weights, dim=-1), means, log_scales)

    def log_density(self, value: Tensor) -> Tensor:
        """ln p(value); ``value`` (...,)."""
        z = (value.unsqueeze(-1) - self.means) * torch.exp(-self.log_scales)
        return torch.logsumexp(self.log_weights - 0.5 * z * z - self.log_scales, dim=-1) - HALF_LOG_TAU

    def cumulative(self, value: Tensor) -> Tensor:
        """P(X ≤ value)."""
        z = (value.unsqueeze(-1) - self.means) * torch.exp(-self.log_scales)
        below: Tensor = torch.special.ndtr(z)
        return (self.log_weights.exp() * below).sum(dim=-1)

    def log_mass(self, low: Tensor, high: Tensor) -> Tensor:
        """ln P(low < X < high), no less than ln of ``LOWEST_MASS``; bounds (...,) may be infinite."""
        scales = torch.exp(-self.log_scales)
        a, b = ((bound.unsqueeze(-1) - self.means) * scales for bound in (low, high))
        # In the upper tail the difference is taken of the small ends.
        upper = a > 0
        first, last = torch.where(upper, -b, a), torch.where(upper, -a, b)
        mass = torch.special.ndtr(last) - torch.special.ndtr(first)
        whole: Tensor = (self.log_weights.exp() * mass).sum(dim=-1).clamp_min(LOWEST_MASS)
        return whole.log()


def bernoulli_log_probability(logit: Tensor, happened: Tensor) -> Tensor:
    """ln P of a Bernoulli outcome (bool tensor) with the given logit."""
    return torch.where(happened, logsigmoid(logit), logsigmoid(-logit))


def count_log_probability(mixture: NormalMixture, count: Tensor, highest: Tensor) -> Tensor:
    """ln P(n) of a count 1..highest: the mass of a mixture on ln n from ln(n − ½) to ln(n + ½), open at both ends."""
    upper = torch.where(count >= highest, torch.ones_like(count), mixture.cumulative((count + 0.5).log()))
    lower = torch.where(count <= 1, torch.zeros_like(count), mixture.cumulative((count - 0.5).clamp_min(0.5).log()))
    return (upper - lower).clamp_min(LOWEST_COUNT_PROBABILITY).log()
