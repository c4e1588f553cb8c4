"""The latent prior as a torch module: energies with gradients, on the lattice of a BoltzmannMachine.

    E(s) = Σ_i h_i s_i + Σ_(ij) J_ij s_i s_j,  P(s_free | s_0 = c) ∝ exp(−E(s))

The gradient of −ln P(s_free | c) with respect to the parameters is ∂E(data) − ⟨∂E⟩ over P(· | c) (persistent
contrastive divergence: the second term comes from chains kept from step to step, Tieleman 2008).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from qshower.sampler.machine import BoltzmannMachine


class RBM(nn.Module):
    """Biases and couplings of a machine as parameters."""

    free: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, machine: BoltzmannMachine) -> None:
        super().__init__()
        self.lattice = machine
        self.h = nn.Parameter(torch.from_numpy(np.array(machine.h)))
        self.j = nn.Parameter(torch.from_numpy(np.array(machine.j)))
        free = torch.from_numpy((machine.partitions != 0).astype(np.float32))
        self.register_buffer("free", free, persistent=False)
        self.register_buffer("first", torch.from_numpy(machine.edges[:, 0].astype(np.int64)), persistent=False)
        self.register_buffer("second", torch.from_numpy(machine.edges[:, 1].astype(np.int64)), persistent=False)

    def coupling_matrix(self) -> Tensor:
        """Symmetric (nodes, nodes), zero diagonal."""
        nodes = self.h.shape[0]
        dense = torch.zeros((nodes, nodes), dtype=self.j.dtype)
        dense = dense.index_put((self.first, self.second), self.j)
        return dense + dense.T

    def energy(self, spins: Tensor) -> Tensor:
        """E (rows,) of spins (rows, nodes), which may be relaxed; differentiable in both."""
        return spins @ self.h + 0.5 * ((spins @ self.coupling_matrix()) * spins).sum(dim=1)

    def machine(self) -> BoltzmannMachine:
        """The machine with today's parameters."""
        return self.lattice.with_parameters(self.h.detach().numpy(), self.j.detach().numpy())

    @torch.no_grad()
    def contrast(self, data: Tensor, model: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients (h, J) of −ln P(data | condition): ⟨s⟩, ⟨s s'⟩ of ``data`` less those of ``model``."""
        # Biases of the condition's nodes have no part in the law of the others.
        biases = (data.mean(dim=0) - model.mean(dim=0)) * self.free
        pairs = data.T @ data / len(data) - model.T @ model / len(model)
        return biases, pairs[self.first, self.second]
