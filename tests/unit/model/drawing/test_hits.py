"""Which voxels are hit."""

import numpy as np

from qshower.model.drawing.hits import draw_hits


def test_hits_come_with_the_probability_of_their_logits(rng: np.random.Generator) -> None:
    """Pareto sampling keeps inclusion probabilities that sum to the count: 24 voxels, 9 hits, tolerance 0.015.

    Five standard deviations of a frequency over 40,000 rows are 0.0125 at most.
    """
    probability = rng.beta(0.7, 1.0, 24)
    logits = np.log(probability / (1 - probability))
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-logits - middle))).sum() < 9 else (low, middle)
    logits += low
    # Four angles of six rings, whose logits stand eight apart.
    spread = np.zeros((4, 8), dtype=np.float32)
    spread[:, :6] = logits.reshape(4, 6)
    rows, times = 40_000, np.zeros(24)
    uniforms = rng.uniform(1e-6, 1 - 1e-6, rows * 24).astype(np.float32)
    keys, hits = np.empty(24, dtype=np.float32), np.empty(25, dtype=np.int32)
    for row in range(rows):
        found = draw_hits(spread.reshape(-1), 0, 8, 4, 6, uniforms, 24 * row, 9, keys, hits)
        assert found == 9
        times[hits[:9]] += 1
    np.testing.assert_allclose(times / rows, 1 / (1 + np.exp(-logits)), atol=0.015)
