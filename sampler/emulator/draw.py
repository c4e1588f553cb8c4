"""Boltzmann draws on any part of a chip's graph: annealed block Gibbs, one chain for each read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_CHAINS = 512


class StoppedError(Exception):
    """The draw was told to stop."""


def draw(
    beta_h: NDArray[np.float64],
    beta_j: NDArray[np.float64],
    ends: NDArray[np.int64],
    colours: NDArray[np.int8],
    reads: int,
    sweeps: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.int8]:
    """(reads, n) int8 spins from P(s) ∝ exp(−Σ βh_i s_i − Σ βJ_ij s_i s_j).

    Every chain starts at random; the energy is ramped from 0.05 to 1 over three quarters of the sweeps and held there.
    Raises StoppedError soon after ``stop`` says so.
    """
    count = beta_h.shape[0]
    degree = np.bincount(ends.ravel(), minlength=count)
    width = int(degree.max(initial=0))
    neighbours = np.zeros((count, width), dtype=np.int64)
    weights = np.zeros((count, width), dtype=np.float32)
    source = np.concatenate([ends[:, 0], ends[:, 1]])
    target = np.concatenate([ends[:, 1], ends[:, 0]])
    order = np.argsort(source, kind="stable")
    slot = np.arange(source.shape[0]) - np.repeat(np.cumsum(degree) - degree, degree)
    neighbours[source[order], slot] = target[order]
    weights[source[order], slot] = np.concatenate([beta_j, beta_j])[order]
    classes = [np.flatnonzero(colours == colour) for colour in np.unique(colours)]
    rng = np.random.default_rng(seed)
    ramp = max(sweeps * 3 // 4, 1)
    scales = np.concatenate([np.linspace(0.05, 1.0, ramp), np.ones(sweeps - ramp)])
    result = np.empty((reads, count), dtype=np.int8)
    for start in range(0, reads, _CHAINS):
        chains = min(_CHAINS, reads - start)
        state = np.where(rng.random((count, chains)) < 0.5, -1.0, 1.0).astype(np.float32)
        for scale in scales:
            if stop():
                raise StoppedError
            for nodes in classes:
                field = np.repeat(beta_h[nodes, None].astype(np.float32), chains, axis=1)
                for column in range(int(degree[nodes].max(initial=0))):
                    field += weights[nodes, column, None] * state[neighbours[nodes, column]]
                up = 1.0 / (1.0 + np.exp(np.clip(np.float32(2.0 * scale) * field, -80.0, 80.0)))
                state[nodes] = np.where(rng.random(field.shape, dtype=np.float32) < up, 1.0, -1.0)
        result[start : start + chains] = state.T.astype(np.int8)
    return result
