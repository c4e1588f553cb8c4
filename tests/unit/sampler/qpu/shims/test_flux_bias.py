from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.qpu.shims.couplers import CouplerOffsets
from qshower.sampler.qpu.shims.flux_bias import Shim, ShimStore

SHIM = Shim("Z", "g1", 20.0, [4, 7], [1e-5, -2e-5], 0.5, 0.1, 3000, "2026-07-01T12:00:00.000+00:00")
COUPLERS = CouplerOffsets(
    [0.01, 0.02], beta=4.0, before=0.02, after=0.01, reads=10_000, measured_at="2026-07-01T12:00:01.000+00:00"
)
INFO: Any = SimpleNamespace(key=("Z", "g1"))


@pytest.mark.parametrize("couplers", [None, COUPLERS])
def test_a_shim_is_kept_by_graph_and_annealing_time(tmp_path: Path, couplers: CouplerOffsets | None) -> None:
    store = ShimStore(tmp_path / "shims.json")
    shim = replace(SHIM, couplers=couplers)
    store.put(shim)
    assert store.get(INFO, 20.0) == shim
    assert store.get(INFO, 40.0) is None
    other: Any = SimpleNamespace(key=("Z", "g2"))
    assert store.get(other, 20.0) is None


def test_a_shim_may_hold_more_than_this_version_knows(tmp_path: Path) -> None:
    path = tmp_path / "shims.json"
    entry = asdict(replace(SHIM, couplers=COUPLERS))
    entry["of_a_later_version"] = 1
    entry["couplers"]["of_a_later_version"] = 1
    path.write_text(json.dumps({"Z|g1|20": entry}))
    assert ShimStore(path).get(INFO, 20.0) == replace(SHIM, couplers=COUPLERS)


@pytest.mark.parametrize("entry", [1.77, {"solver": "secret-1.77"}, asdict(SHIM) | {"couplers": {"beta": 1.77}}])
def test_a_file_that_is_no_store_is_refused_by_name_and_not_shown(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "shims.json"
    path.write_text(json.dumps({"Z|g1|20": entry}))
    with pytest.raises(SamplerUnavailableError, match=r"shims\.json is not as this program wrote it") as caught:
        ShimStore(path).get(INFO, 20.0)
    assert "1.77" not in str(caught.value)
