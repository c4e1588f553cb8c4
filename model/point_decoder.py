"""The reference's decoder heads: a hit logit and one activation per voxel (arXiv:2410.22870).

Generation: fraction = inverse scaling of the activation, where a Bernoulli draw of the hit says so. The activation ends
in a sigmoid scaled to ``highest``, which keeps the log1p scaling from rare, far too high predictions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qshower.model.decoder_shape import ENERGY_FEATURES, HIGHEST_SCALED, DecoderShape
from qshower.model.layers import RadialOutputs, Rings, Trunk, energy_features
from qshower.model.scaling import build_scaling


class PointDecoder(nn.Module):
    """See the module. ``scaling`` is the name of the voxel scaling."""

    mask: Tensor

    def __init__(self, shape: DecoderShape, scaling: str) -> None:
        super().__init__()
        self.shape = shape
        self.scaling = build_scaling(scaling)
        self.highest = HIGHEST_SCALED[scaling]
        self.trunk = Trunk(shape)
        self.rings = Rings(shape, shape.layer_code + ENERGY_FEATURES)
        self.heads = RadialOutputs(shape, 2)
        self.register_buffer("mask", torch.from_numpy(shape.grid.mask()), persistent=False)

    def forward(self, latent: Tensor, incident_energies: Tensor) -> tuple[Tensor, Tensor]:
        """Hit logits and scaled activations u, (rows, L, A, R) each."""
        energy = energy_features(self.shape, incident_energies)
        _, layer_code = self.trunk(latent, energy)
        shared = energy.unsqueeze(1).expand(-1, self.shape.layers, -1)
        outputs = self.heads(self.rings(torch.cat([layer_code, shared], dim=2)))
        logits = torch.where(self.mask, outputs[..., 0], torch.full_like(outputs[..., 0], -1e4))
        return logits, self.highest * torch.sigmoid(outputs[..., 1])
