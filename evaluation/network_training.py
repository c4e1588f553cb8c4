"""How the classifiers' networks are trained: Adam, and the weights of the epoch that does best on rows kept apart.

Rows are split 60/20/20 into training, selection and test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SPLIT = (0.6, 0.2)

Rows = NDArray[np.float32]
Progress = Callable[[float], None]


class Split(NamedTuple):
    """Inputs (n, D) and labels (n,) of the training, the selection and the test rows."""

    train: tuple[Rows, Rows]
    select: tuple[Rows, Rows]
    test: tuple[Rows, Rows]


class TrainingPlan(NamedTuple):
    """Passes over the training rows, rows per step, and Adam's learning rate."""

    epochs: int
    batch_size: int
    learning_rate: float


class Objective(NamedTuple):
    """Of logits and labels: the loss to descend, and the score that chooses the epoch, where more is better."""

    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]


def split_bounds(count: int) -> tuple[slice, slice, slice]:
    """The training, selection and test rows of ``count`` rows in random order."""
    first, second = int(count * SPLIT[0]), int(count * (SPLIT[0] + SPLIT[1]))
    return slice(0, first), slice(first, second), slice(second, count)


def share_of(progress: Progress | None, index: int, count: int) -> Progress:
    """What part ``index`` of ``count`` equal parts calls with the share of it that is done."""

    def report(done: float) -> None:
        if progress is not None:
            progress((index + done) / count)

    return report


def device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained(
    build: Callable[[], nn.Module],
    split: Split,
    plan: TrainingPlan,
    objective: Objective,
    *,
    seed: int = 0,
    progress: Progress = lambda _share: None,
) -> nn.Module:
    """A network of ``build`` after training; ``seed`` is of its first weights and of the order of rows."""
    with torch.random.fork_rng(devices=[0] if torch.cuda.is_available() else []):
        torch.manual_seed(seed)
        network = build().to(device())
        _fit(network, split, plan, objective, progress)
    return network


def _fit(network: nn.Module, split: Split, plan: TrainingPlan, objective: Objective, progress: Progress) -> None:
    """Train with Adam; at the end the network holds the weights of the epoch with the best score on ``select``."""
    where = next(network.parameters()).device
    x, y = (torch.from_numpy(values) for values in split.train)
    select_labels = torch.from_numpy(split.select[1])
    optimiser = torch.optim.Adam(network.parameters(), lr=plan.learning_rate)
    best, best_state = -np.inf, {name: value.clone() for name, value in network.state_dict().items()}
    for epoch in range(plan.epochs):
        network.train()
        order = torch.randperm(len(x))
        for start in range(0, len(x) - 1, plan.batch_size):  # no batch of one, which has no variance to normalise by
            rows = order[start : start + plan.batch_size]
            value = objective.loss(network(x[rows].to(where)), y[rows].to(where))
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
            optimiser.step()
        reached = objective.score(predict(network, split.select[0], plan.batch_size), select_labels)
        if reached > best:
            best, best_state = reached, {name: value.clone() for name, value in network.state_dict().items()}
        progress((epoch + 1) / plan.epochs)
    network.load_state_dict(best_state)


def predict(network: nn.Module, rows: Rows, batch_size: int) -> Tensor:
    """(n, outputs) logits on the CPU."""
    where = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        starts = range(0, len(rows), batch_size)
        return torch.cat([network(torch.from_numpy(rows[i : i + batch_size]).to(where)).cpu() for i in starts])
