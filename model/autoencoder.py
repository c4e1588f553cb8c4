"""Encoder, prior and decoder together: the evidence lower bound that training climbs.

ln p(shower | E) ≥ E_q[ln p(shower | s, E)] − KL(q(s_free | shower, E) ‖ P(s_free | s_0 = c(E)))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qshower.model.decoder import SampledDecoder, ShowerView
from qshower.model.encoder import Encoder
from qshower.model.layers import energy_features
from qshower.model.losses import squared_error_loss
from qshower.model.point_decoder import PointDecoder
from qshower.model.rbm import RBM


class Batch(NamedTuple):
    """Showers (rows, L, A, R) and incident energies (rows,) in MeV, with what the networks see of them.

    ``features`` (rows, ·) are the encoder's input, ``conditions`` (rows, condition nodes) ±1.
    """

    features: Tensor
    showers: Tensor
    energies: Tensor
    view: ShowerView
    conditions: Tensor


@dataclass(frozen=True, slots=True)
class Bound:
    """Terms of the bound for a batch.

    ``parts``: −ln p(shower | s, E), or the reconstruction loss, by part, (rows,) each. ``spins`` (rows, nodes):
    condition and posterior sample. ``logits`` (rows, free bits): of the posterior.
    """

    parts: dict[str, Tensor]
    spins: Tensor
    logits: Tensor

    @property
    def reconstruction(self) -> Tensor:
        """Sum of the parts, (rows,)."""
        return torch.stack(list(self.parts.values())).sum(dim=0)


class Autoencoder(nn.Module):
    """See the module. ``high`` and ``low`` are the weights of the squared error, for a ``PointDecoder`` only."""

    def __init__(
        self,
        encoder: Encoder,
        rbm: RBM,
        decoder: SampledDecoder | PointDecoder,
        *,
        high: float | None = None,
        low: float | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.rbm = rbm
        self.decoder = decoder
        self.high, self.low = high, low

    def encode(
        self, features: Tensor, energies: Tensor, noise: Tensor, beta: float, *, hard: bool
    ) -> tuple[Tensor, Tensor]:
        """Spins and logits (rows, free bits) of the posterior; arguments as of ``Encoder.forward``."""
        spins, logits = self.encoder(features, energy_features(self.decoder.shape, energies), noise, beta, hard=hard)
        return spins, logits

    def forward(self, batch: Batch, noise: Tensor, beta: float, *, hard: bool) -> Bound:
        """Bound of a batch; ``noise``, ``beta`` and ``hard`` as of ``Encoder.forward``."""
        features, showers, energies, view, conditions = batch
        latent, logits = self.encode(features, energies, noise, beta, hard=hard)
        if isinstance(self.decoder, SampledDecoder):
            likelihood = self.decoder.log_likelihood(latent, energies, view)
            parts = {name: -value for name, value in likelihood.items()}
        else:
            scaled = self.decoder.scaling.forward(showers / energies[:, None, None, None])
            hit_logits, activation = self.decoder(latent, energies)
            parts = {"squared_error": squared_error_loss(scaled, activation, hit_logits, high=self.high, low=self.low)}
        return Bound(parts, torch.cat([conditions, latent], dim=1), logits)
