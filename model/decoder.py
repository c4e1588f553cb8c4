"""The decoder with the sampled likelihood: latents and incident energy → the law of the shower, in torch, to train.

::

    p(shower | s, E) = p(E_tot | s, E) · Π_l p(e_l, n_l | e_<l, n_<l, E_tot, s, E) · Π_l p(voxels of l | e, n, s, E)

E_tot is the shower's energy, e_l the energy of layer l and n_l its number of hit voxels. ``Profile`` draws E_tot and
then the layers in order of depth, each from the trunk's view of the latent and the layers just before it; ``VoxelHead``
then gives, for all layers at once, a hit logit and an activation (a distribution of ln of the voxel's energy in units
of the layer's mean hit) for every voxel. n_l hits are drawn by Pareto sampling, the activations from their
distributions, and each layer is scaled to e_l, so that the layers' energies have exactly the law of the profile.

Angles enter through convolutions with circular padding, and the shower is turned by a uniformly random element of its
symmetry group (``qshower.model.symmetry``) at the end. Showers are drawn by ``model.drawing.sampled_drawing``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, hardswish, pad

from qshower.model.decoder_shape import (
    EMPTY_LOG_SHARE,
    ENERGY_FEATURES,
    LAYER_VALUES,
    LEAST_REMAINING,
    NEIGHBOUR_LAYERS,
    PROFILE_COMPONENTS,
    RESPONSE_SCALE,
    VOXEL_COMPONENTS,
    DecoderShape,
)
from qshower.model.layers import PerLayerLinear, RadialOutputs, Rings, Trunk, energy_features
from qshower.model.likelihood import NormalMixture, bernoulli_log_probability, count_log_probability

LOWEST_TOTAL_MEV = 1e-3


@dataclass(frozen=True, slots=True)
class ShowerView:
    """What the likelihood sees of showers (rows): all in natural logarithms.

    ``log_response`` (rows,) ln(E_tot/E_inc); ``log_share`` (rows, L) ln(e_l/E_tot), ``EMPTY_LOG_SHARE`` if empty;
    ``count`` (rows, L) hits, float; ``hit`` (rows, L, A, R) bool; ``log_activation`` (hits,) ln of each hit voxel's
    energy over its layer's mean hit, in the order of ``hit.nonzero()``.
    """

    log_response: Tensor
    log_share: Tensor
    count: Tensor
    hit: Tensor
    log_activation: Tensor

    @classmethod
    def of(cls, showers: Tensor, incident_energies: Tensor) -> ShowerView:
        """Of showers (rows, L, A, R) and energies (rows,), both in MeV."""
        hit = showers > 0
        layer = showers.sum(dim=(2, 3))
        total = layer.sum(dim=1)
        count = hit.sum(dim=(2, 3)).to(showers.dtype)
        share = (layer / total.clamp_min(LOWEST_TOTAL_MEV).unsqueeze(1)).clamp_min(1e-12).log()
        mean_hit = layer / count.clamp_min(1.0)
        ratio = showers[hit] / mean_hit[:, :, None, None].expand_as(showers)[hit]
        return cls(
            log_response=(total.clamp_min(LOWEST_TOTAL_MEV) / incident_energies).log(),
            log_share=torch.where(layer > 0, share, torch.full_like(share, EMPTY_LOG_SHARE)),
            count=count,
            hit=hit,
            log_activation=ratio.log(),
        )


def layer_values(filled: Tensor, log_share: Tensor, count: Tensor) -> Tensor:
    """A layer's hits and energy as network inputs, (..., LAYER_VALUES), from (...) each; 0 for the energy of none."""
    return torch.stack([filled, (log_share / 4 + 1) * filled, torch.log1p(count) - 2.0], dim=-1)


class Profile(nn.Module):
    """Total energy, and each layer's energy and number of hits."""

    highest: Tensor

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        layers, hidden = shape.layers, shape.profile_hidden
        remembered = 1 + LAYER_VALUES * shape.profile_memory if shape.profile_memory else 0
        self.response = nn.Linear(shape.trunk + ENERGY_FEATURES, 3 * PROFILE_COMPONENTS)
        self.hidden = PerLayerLinear(layers, shape.layer_code + ENERGY_FEATURES + 1 + remembered, hidden)
        self.energy = PerLayerLinear(layers, hidden, 1 + 3 * PROFILE_COMPONENTS)
        self.count_hidden = PerLayerLinear(layers, hidden + 2, hidden)
        self.count = PerLayerLinear(layers, hidden, 3 * PROFILE_COMPONENTS)
        highest = torch.from_numpy(shape.grid.mask().sum(axis=(1, 2)).astype(np.float32))
        self.register_buffer("highest", highest, persistent=False)

    def response_law(self, energy: Tensor, code: Tensor) -> NormalMixture:
        """Law of RESPONSE_SCALE · ln(E_tot/E_inc)."""
        return NormalMixture.from_outputs(self.response(torch.cat([code, energy], dim=1)))

    def outputs(self, energy: Tensor, layer_code: Tensor, view: ShowerView) -> tuple[Tensor, Tensor]:
        """Raw parameters of each layer's laws given the layers before it, (rows, L, ·): of its energy, of its hits."""
        response = view.log_response[:, None, None].expand(*view.count.shape, 1) * RESPONSE_SCALE / 2
        shared = energy.unsqueeze(1).expand(-1, self.shape.layers, -1)
        hidden = hardswish(self.hidden(torch.cat([layer_code, shared, response, *self._memory(view)], dim=2)))
        known = torch.cat([hidden, (view.log_share / 4 + 1).unsqueeze(2), response], dim=2)
        return self.energy(hidden), self.count(hardswish(self.count_hidden(known)))

    def log_likelihood(
        self,
        energy: Tensor,
        code: Tensor,
        layer_code: Tensor,
        view: ShowerView,
        cells: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """ln p of E_tot, and of the layers' energies and counts, each (rows,).

        ``cells``: lowest and highest x (``share_cells``) of each layer, (rows, L) each, within which the showers' lie.
        """
        total = self.response_law(energy, code).log_density(RESPONSE_SCALE * view.log_response)
        energy_outputs, count_outputs = self.outputs(energy, layer_code, view)
        filled = view.count > 0
        present = bernoulli_log_probability(energy_outputs[..., 0], filled)
        share_law = NormalMixture.from_outputs(energy_outputs[..., 1:])
        share = share_law.log_density(view.log_share)
        if cells is not None:
            spent = (view.log_share.exp() * filled).cumsum(dim=1) - view.log_share.exp() * filled
            low, high = (bound + _remaining(spent) for bound in cells)
            share = share - share_law.log_mass(low, high)
        count_law = NormalMixture.from_outputs(count_outputs)
        count = count_log_probability(count_law, view.count.clamp_min(1.0), self.highest)
        return total, (present + torch.where(filled, share + count, torch.zeros_like(share))).sum(dim=1)

    def _memory(self, view: ShowerView) -> list[Tensor]:
        """What each layer sees of the layers before it."""
        if not self.shape.profile_memory:
            return []
        filled = (view.count > 0).to(view.count.dtype)
        share = view.log_share.exp() * filled
        values = layer_values(filled, view.log_share, view.count)
        past = [pad(values[:, :-back], (0, 0, back, 0)) for back in range(1, self.shape.profile_memory + 1)]
        return [_remaining(share.cumsum(dim=1) - share).unsqueeze(2), *past]


def _remaining(spent: Tensor) -> Tensor:
    """ln of the share of the energy that is left, kept finite."""
    return torch.log((1.0 - spent).clamp_min(0.0) + LEAST_REMAINING)


class VoxelHead(nn.Module):
    """Hit logits and activations of every voxel, given the profile."""

    mask: Tensor

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        window = LAYER_VALUES * (2 * NEIGHBOUR_LAYERS + 1)
        self.rings = Rings(shape, shape.layer_code + ENERGY_FEATURES + 1 + window)
        self.hit = RadialOutputs(shape, 1)
        self.activation = RadialOutputs(shape, 3 * VOXEL_COMPONENTS)
        self.register_buffer("mask", torch.from_numpy(shape.grid.mask()), persistent=False)

    def forward(
        self, energy: Tensor, layer_code: Tensor, log_response: Tensor, log_share: Tensor, count: Tensor
    ) -> Tensor:
        """Code (rows, L, A, channels) of every angular bin of every layer."""
        near = layer_values((count > 0).to(count.dtype), log_share, count)
        padded = pad(near, (0, 0, NEIGHBOUR_LAYERS, NEIGHBOUR_LAYERS))
        windows = [padded[:, offset : offset + self.shape.layers] for offset in range(2 * NEIGHBOUR_LAYERS + 1)]
        shared = torch.cat([energy, log_response.unsqueeze(1) * RESPONSE_SCALE / 2], dim=1)
        values = torch.cat([layer_code, shared.unsqueeze(1).expand(-1, self.shape.layers, -1), *windows], dim=2)
        code: Tensor = self.rings(values)
        return code

    def hit_logits(self, code: Tensor) -> Tensor:
        """Logits (rows, L, A, R) of a hit; −∞, nearly, where there is no voxel."""
        logits: Tensor = self.hit(code).squeeze(-1)
        return logits if self.shape.grid.regular else torch.where(self.mask, logits, torch.full_like(logits, -1e4))

    def log_likelihood(self, code: Tensor, view: ShowerView) -> tuple[Tensor, Tensor]:
        """ln p of hits and of activations, each (rows,)."""
        logits = self.hit_logits(code)
        hits = -binary_cross_entropy_with_logits(logits, view.hit.to(logits.dtype), reduction="none").sum(dim=(1, 2, 3))
        # Activations are worked out only for angular bins that hold a hit, a small part of all at low energies.
        _, layers, angular, radial = view.hit.shape
        struck = view.hit.any(dim=3).flatten()
        bins = struck.nonzero()[:, 0]
        outputs = self.activation.at(code.flatten(0, 2).index_select(0, bins), bins // angular % layers)
        chosen = view.hit.flatten(0, 2).index_select(0, bins).flatten().nonzero()[:, 0]
        law = NormalMixture.from_outputs(outputs.flatten(0, 1).index_select(0, chosen))
        row = bins.index_select(0, chosen // radial) // (layers * angular)
        return hits, torch.zeros_like(hits).index_add(0, row, law.log_density(view.log_activation))


class SampledDecoder(nn.Module):
    """See the module."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = Trunk(shape)
        self.profile = Profile(shape)
        self.voxels = VoxelHead(shape)

    def log_likelihood(self, latent: Tensor, incident_energies: Tensor, view: ShowerView) -> dict[str, Tensor]:
        """ln p(shower | s, E) by part, each (rows,), in nats."""
        energy = energy_features(self.shape, incident_energies)
        code, layer_code = self.trunk(latent, energy)
        total, layers = self.profile.log_likelihood(energy, code, layer_code, view)
        ring = self.voxels(energy, layer_code, view.log_response, view.log_share, view.count)
        hits, activations = self.voxels.log_likelihood(ring, view)
        return {"total": total, "layers": layers, "hits": hits, "activations": activations}
