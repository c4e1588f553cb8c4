"""What showers of a bundle cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from qshower.evaluation.cost import measure_cost
from qshower.sampler.errors import BundleError


def test_cost_of_a_bundle(untrained_bundles: Path) -> None:
    found = measure_cost(untrained_bundles / "test-zephyr", batches=(1, 20))
    assert found.bundle == "test-zephyr"
    assert found.decoder_parameters > 0
    assert found.machine_parameters > 100
    assert found.peak_memory_bytes > 50_000_000
    assert [row.batch for row in found.batches] == [1, 20]
    for row in found.batches:
        assert row.ms_per_shower > 0
        assert row.sample_ms_per_shower + row.decode_ms_per_shower == pytest.approx(row.ms_per_shower)


def test_cost_of_a_broken_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="none"):
        measure_cost(tmp_path / "none")
