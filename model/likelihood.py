"""The sampled likelihood: distributions with closed-form log densities and one-uniform quantile draws.

A squared error on voxels blurs; here the decoder's outputs are parameters of distributions that are *sampled* at
generation. Everything is drawn by inverse transforms of given uniforms, so that a shower is a deterministic function of
(latent, incident energy, uniforms).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

MIN_LOG_SCALE = -5.0
MAX_LOG_SCALE = 2.0


@dataclass(frozen=True, slots=True)
class LogisticMixture:
    """Σ_k w_k Logistic(μ_k, s_k) on the real line. Tensors (..., K): ``log_weights`` normalised, ``means``,
    ``log_scales``.
    """

    log_weights: Tensor
    means: Tensor
    log_scales: Tensor

    @classmethod
    def from_outputs(cls, outputs: Tensor, components: int) -> LogisticMixture:
        """From raw network outputs (..., 3K)."""
        weights, means, log_scales = outputs.split(components, dim=-1)
        centre, half = (MAX_LOG_SCALE + MIN_LOG_SCALE) / 2, (MAX_LOG_SCALE - MIN_LOG_SCALE) / 2
        return cls(torch.log_softmax(weights, dim=-1), means, centre + half * torch.tanh((log_scales - 1.5) / half))

    def log_density(self, value: Tensor) -> Tensor:
        """ln p(value), shape of ``value`` = the batch shape."""
        z = (value.unsqueeze(-1) - self.means) * torch.exp(-self.log_scales)
        each = -z - self.log_scales - 2 * softplus(-z)
        return torch.logsumexp(self.log_weights + each, dim=-1)

    def cumulative(self, value: Tensor) -> Tensor:
        """P(X ≤ value)."""
        z = (value.unsqueeze(-1) - self.means) * torch.exp(-self.log_scales)
        return (self.log_weights.exp() * torch.sigmoid(z)).sum(dim=-1)

    def draw(self, uniform: Tensor) -> Tensor:
        """A value for each uniform in (0, 1): the uniform picks the component, its remainder the quantile."""
        edges = self.log_weights.exp().cumsum(dim=-1)
        component = (uniform.unsqueeze(-1) >= edges[..., :-1]).sum(dim=-1, keepdim=True)
        lower = torch.where(component > 0, edges.gather(-1, (component - 1).clamp_min(0)), torch.zeros_like(edges[..., :1]))
        width = self.log_weights.exp().gather(-1, component)
        within = ((uniform.unsqueeze(-1) - lower) / width).clamp(1e-6, 1 - 1e-6)
        value = self.means.gather(-1, component) + self.log_scales.gather(-1, component).exp() * torch.logit(within)
        return value.squeeze(-1)


def bernoulli_log_probability(logit: Tensor, happened: Tensor) -> Tensor:
    """ln P of a Bernoulli outcome (bool tensor) with the given logit."""
    return torch.where(happened, logsigmoid(logit), logsigmoid(-logit))


def count_log_probability(mixture: LogisticMixture, count: Tensor, highest: Tensor) -> Tensor:
    """ln P(n) of a count 1..highest: the mixture on ln n, its mass between ln(n − ½) and ln(n + ½), open at both ends."""
    upper = torch.where(count >= highest, torch.ones_like(count), mixture.cumulative((count + 0.5).log()))
    lower = torch.where(count <= 1, torch.zeros_like(count), mixture.cumulative((count - 0.5).clamp_min(0.5).log()))
    return (upper - lower).clamp_min(1e-7).log()


def draw_count(mixture: LogisticMixture, uniform: Tensor, highest: int) -> Tensor:
    """A count 1..highest for each uniform, of the law of ``count_log_probability``."""
    return mixture.draw(uniform).clamp(-1.0, 8.0).exp().round().clamp(1, highest)


def pareto_sample(logits: Tensor, uniforms: Tensor, counts: Tensor) -> Tensor:
    """Exactly ``counts`` (...,) of the last axis' entries, a bool tensor like ``logits`` (..., V).

    Pareto order sampling (Rosén, J. Stat. Plan. Inference 62, 1997): the entries of largest logit + logistic noise. Its
    law is close to independent Bernoulli draws conditioned on their number.
    """
    rank_value = logits + torch.logit(uniforms)
    order = rank_value.argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1]).expand_as(order).contiguous())
    return rank < counts.unsqueeze(-1)
