"""Draws from mixtures as the drawing kernels make them, for tests that compare them with the networks' laws."""

import numpy as np

from qshower.model.drawing.inverse_transforms import LAW, mixture_values, put_law, whole_lanes


def mixture_draws(outputs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """(n,) draws from laws with raw outputs (n, LAW) and uniforms (n,)."""
    count = len(uniforms)
    size = whole_lanes(count)
    laws, chosen = np.zeros(LAW * size, dtype=np.float32), np.zeros(size, dtype=np.float32)
    values, flat = np.empty(size, dtype=np.float32), np.ascontiguousarray(outputs, dtype=np.float32).reshape(-1)
    for place in range(count):
        put_law(flat, LAW * place, laws, place)
    chosen[:count] = uniforms
    mixture_values(laws, chosen, values, count)
    return values[:count]
