"""Matrix products: right, and the same bits whatever the batch."""

import numpy as np
import pytest

from qshower.model.drawing.products import LANES, add_products, packed, padded


def product(values: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    width = len(padded(bias))
    outputs = np.full(len(values) * width, np.nan, dtype=np.float32)
    add_products(values.reshape(-1), 0, values.shape[1], len(values), packed(weight), padded(bias), 0, 0, outputs, 0)
    return outputs.reshape(len(values), width)


def fused(a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    """a b + c rounded once: a product of floats is exact in double, and a sum is rounded to odd before it is cut."""
    exact = float(a) * float(b)
    total = exact + float(c)
    lost = (exact - (total - float(c))) + (float(c) - (total - (total - float(c))))
    bits = np.float64(total).view(np.int64)
    if lost and not bits & 1:
        total = float(np.nextafter(total, np.inf if lost > 0 else -np.inf))
    return np.float32(total)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 9), (54, 96), (36, 32), (33, 81)])
def test_rows_are_the_same_bits_in_any_batch(rng: np.random.Generator, inputs: int, outputs: int) -> None:
    values = rng.normal(size=(37, inputs)).astype(np.float32)
    weight = rng.normal(size=(inputs, outputs)).astype(np.float32)
    bias = rng.normal(size=outputs).astype(np.float32)
    together = product(values, weight, bias)
    np.testing.assert_allclose(together[:, :outputs], values @ weight.astype(np.float64) + bias, atol=1e-4)
    assert not together[:, outputs:].any()
    for first, last in ((0, 1), (5, 6), (36, 37), (3, 11), (8, 37), (1, 20)):
        np.testing.assert_array_equal(product(values[first:last], weight, bias), together[first:last])


def test_sums_go_input_after_input_by_fused_operations(rng: np.random.Generator) -> None:
    values = rng.normal(size=(9, 21)).astype(np.float32)
    weight = rng.normal(size=(21, 5)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32)
    found = product(values, weight, bias)
    for row in range(9):
        for output in range(5):
            total = bias[output]
            for i in range(21):
                total = fused(values[row, i], weight[i, output], total)
            assert found[row, output] == total


def test_a_product_is_added_to_what_is_there(rng: np.random.Generator) -> None:
    values, weight = rng.normal(size=(10, 6)).astype(np.float32), rng.normal(size=(6, 20)).astype(np.float32)
    before = rng.normal(size=(10, 2 * LANES)).astype(np.float32)
    outputs = before.copy().reshape(-1)
    add_products(values.reshape(-1), 0, 6, 10, packed(weight), outputs, 0, 2 * LANES, outputs, 0)
    expected = before[:, :20] + values @ weight.astype(np.float64)
    np.testing.assert_allclose(outputs.reshape(10, -1)[:, :20], expected, atol=1e-5)
    np.testing.assert_array_equal(outputs.reshape(10, -1)[:, 20:], before[:, 20:])


def test_rows_may_overlap(rng: np.random.Generator) -> None:
    """Each bin beside its two neighbours: rows of three bins, one bin apart."""
    circle = rng.normal(size=18 * 4).astype(np.float32)
    weight = rng.normal(size=(12, 3)).astype(np.float32)
    outputs = np.empty(16 * LANES, dtype=np.float32)
    add_products(circle, 0, 4, 16, packed(weight), np.zeros(LANES, dtype=np.float32), 0, 0, outputs, 0)
    windows = np.lib.stride_tricks.sliding_window_view(circle, 12)[::4]
    np.testing.assert_allclose(outputs.reshape(16, LANES)[:, :3], windows @ weight, atol=1e-5)
