"""Reconstruction losses of the reference, and the latent's Kullback–Leibler term.

The loss of the sampled likelihood is −ln p(shower | s, E) itself (``qshower.model.decoder``).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from qshower.model.encoder import bernoulli_entropy

ACTIVATION_WEIGHT = 0.01


def squared_error_loss(
    scaled: Tensor, predicted: Tensor, hit_logits: Tensor, *, high: float | None = None, low: float | None = None
) -> Tensor:
    """Loss (rows,) of scaled voxels u, (rows, L, A, R), against predictions û and hit logits.

    Without ``high``, the published weights (arXiv:2312.03179): 0.01 · Σ (u − û)² e^{u/2}. With ``high`` a, ``low`` b,
    those of the update of 2024-11-21: (u − û)² · [exp(a(u − ⟨u⟩)) + exp(−b(u − ⟨u⟩))], ⟨u⟩ the mean over the shower; a
    higher b wants a higher a. Both with the summed cross entropy of the hits.
    """
    if high is None or low is None:
        weight = (scaled / 2).exp()
    else:
        offset = scaled - scaled.mean(dim=(1, 2, 3), keepdim=True)
        weight = (high * offset).exp() + (-low * offset).exp()
    squared = ACTIVATION_WEIGHT * ((scaled - predicted) ** 2 * weight).sum(dim=(1, 2, 3))
    hits = binary_cross_entropy_with_logits(hit_logits, (scaled > 0).to(scaled.dtype), reduction="none")
    return squared + hits.sum(dim=(1, 2, 3))


def divergence(logits: Tensor, posterior_energy: Tensor, model_energy: Tensor) -> Tensor:
    """KL(q ‖ P) up to ln Z, as a loss whose gradients are right: −H(q) + E(s ~ q) − ⟨E(s ~ P)⟩.

    ``logits`` (rows, free bits) of the posterior, ``posterior_energy`` (rows,) of its spins, ``model_energy`` (chains,)
    of persistent chains; the last term stands for ln Z, whose gradient is −⟨∂E⟩ (arXiv:1803.01851, eq. 9).
    """
    return (posterior_energy - bernoulli_entropy(logits)).mean() - model_energy.mean()
