"""Numbers for people."""

from __future__ import annotations

from qshower.evaluation.report_json import summary_rows


def test_summary_digits_follow_the_error() -> None:
    entry = {
        "name": "a", "count": 10, "reference_count": 12, "classifiers": {}, "neighbours": None, "boosted_auc": None,
        "separation": {key: {"mean": 0.01234, "error": 0.00031} for key in ("response", "e_layer", "e_voxel")},
        "fpd": {"value": 0.0246, "error": 0.0003}, "kpd": None,
    }  # fmt: skip
    _, row = summary_rows({"samples": [entry], "floor": None})
    assert row[:7] == ["a", "10 / 12", "0.0123 ± 0.0003", "0.0123 ± 0.0003", "0.0123 ± 0.0003", "24.6 ± 0.3", "–"]
