"""What the Gibbs kernels are measured against: a dense torch block Gibbs, and dwave-samplers at fixed beta.

Both draw from the same law as ``qshower.sampler.gibbs`` and are tested to
(tests/unit/benchmarks/test_gibbs_baselines.py).
"""

from __future__ import annotations

import numpy as np
import torch
from dimod import BinaryQuadraticModel
from dwave.samplers import SimulatedAnnealingSampler
from numpy.typing import NDArray

from qshower.sampler.machine import PARTITION_COUNT, BoltzmannMachine


class TorchDense:
    """Block Gibbs the way of the published models: binary units in four partitions, dense masked weight blocks.

    A sweep updates partitions 1 to 3 in turn: three matrix products for the activations, a sigmoid, a Bernoulli draw.
    With x = (s + 1)/2 the activation of unit i is −2 h_i − 2 Σ_j J_ij (2 x_j − 1).
    """

    def __init__(self, machine: BoltzmannMachine, device: str = "cpu") -> None:
        coupling = np.zeros((machine.node_count, machine.node_count))
        coupling[machine.edges[:, 0], machine.edges[:, 1]] = machine.j
        coupling += coupling.T
        self.nodes = [machine.nodes_of(partition) for partition in range(PARTITION_COUNT)]
        bias = -2.0 * machine.h + 2.0 * coupling.sum(axis=1)

        def tensor(values: NDArray[np.float64]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        self.device = device
        self.bias = [tensor(bias[nodes]) for nodes in self.nodes]
        self.weight = [[tensor(-4.0 * coupling[np.ix_(one, other)]) for other in self.nodes] for one in self.nodes]

    def draw(self, conditions: NDArray[np.int8], sweeps: int, seed: int) -> NDArray[np.int8]:
        """States (rows, nodes) after ``sweeps`` sweeps at beta = 1 from random starts, the condition held."""
        generator = torch.Generator(device=self.device).manual_seed(seed)
        rows = conditions.shape[0]
        units = [torch.tensor(conditions > 0, dtype=torch.float32, device=self.device)]
        for nodes in self.nodes[1:]:
            half = torch.full((rows, nodes.shape[0]), 0.5, device=self.device)
            units.append(torch.bernoulli(half, generator=generator))
        with torch.inference_mode():
            for _ in range(sweeps):
                for partition in range(1, PARTITION_COUNT):
                    activation = self.bias[partition]
                    for other in range(PARTITION_COUNT):
                        if other != partition:
                            activation = activation + units[other] @ self.weight[other][partition]
                    units[partition] = torch.bernoulli(torch.sigmoid(activation), generator=generator)
        spins = np.empty((rows, sum(nodes.shape[0] for nodes in self.nodes)), dtype=np.int8)
        for nodes, values in zip(self.nodes, units, strict=True):
            spins[:, nodes] = 2 * values.cpu().numpy().astype(np.int8) - 1
        return spins


class DwaveFixedBeta:
    """dwave-samplers' simulated annealing, held at beta = 1 with Gibbs acceptance, one condition folded in."""

    def __init__(self, machine: BoltzmannMachine, condition: NDArray[np.int8]) -> None:
        self.machine, self.condition = machine, condition
        self.free = machine.free_nodes
        fields = machine.folded_fields(condition[None, :])[0]
        inside = (machine.partitions[machine.edges] != 0).all(axis=1)
        self.model = BinaryQuadraticModel(
            dict(zip(self.free.tolist(), fields.tolist(), strict=True)),
            dict(zip(map(tuple, machine.edges[inside].tolist()), machine.j[inside].tolist(), strict=True)),
            "SPIN",
        )
        self.sampler = SimulatedAnnealingSampler()  # type: ignore[no-untyped-call]

    def draw(self, rows: int, sweeps: int, seed: int) -> NDArray[np.int8]:
        """States (rows, nodes) after ``sweeps`` sweeps at beta = 1 from random starts."""
        answer = self.sampler.sample(
            self.model,
            num_reads=rows,
            beta_schedule_type="custom",
            beta_schedule=[1.0],
            num_sweeps_per_beta=sweeps,
            proposal_acceptance_criteria="Gibbs",
            seed=seed,
        )
        spins = np.empty((rows, self.machine.node_count), dtype=np.int8)
        spins[:, self.machine.condition_nodes] = self.condition
        spins[:, np.array(answer.variables)] = answer.record.sample
        return spins
