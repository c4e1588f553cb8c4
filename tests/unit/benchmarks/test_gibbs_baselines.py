"""The benchmark measures what it says: the baselines draw from the law, and the report has its fields."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.baselines import DwaveFixedBeta, TorchDense
from benchmarks.bench import main
from tests.conftest import LawMaker, MachineMaker, SpinMaker

FIELDS = {
    "topology",
    "chains",
    "sweeps",
    "updates_per_cpu_s",
    "ms_per_sample",
    "ratio_to_torch_dense",
    "ratio_to_dwave_samplers",
}


@pytest.mark.parametrize("name", ["torch", "dwave"])
def test_baselines_draw_from_the_law(
    rng: np.random.Generator, random_machine: MachineMaker, random_spins: SpinMaker, enumerate_law: LawMaker, name: str
) -> None:
    """Mean energy and magnetisations within 6 standard errors: false alarms below 1e-7 a run."""
    machine = random_machine(rng, free=9, condition=3, coupling=0.3)
    condition = random_spins(rng, (3,))
    law, rows = enumerate_law(machine, condition), 20_000
    if name == "torch":
        spins = TorchDense(machine).draw(np.tile(condition, (rows, 1)), 60, 1)
    else:
        spins = DwaveFixedBeta(machine, condition).draw(rows, 60, 1)
    assert (spins[:, machine.condition_nodes] == condition).all()
    for values, drawn in ((law.energies, machine.energies(spins)), (law.spins[:, law.free], spins[:, law.free])):
        mean = law.mean(values)
        deviation = np.sqrt(np.maximum(law.mean(np.square(values, dtype=np.float64)) - mean**2, 1e-3))
        assert (np.abs(drawn.mean(axis=0) - mean) < 6 * deviation / np.sqrt(rows)).all()


def test_report_has_its_fields_and_keeps_those_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "latest.json"
    path.write_text('{"decoder": [1]}')
    assert main(["--chains", "2", "--sweeps", "2", "--repeats", "1", "-o", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["decoder"] == [1]
    assert [row["topology"] for row in report["gibbs"]] == ["pegasus", "zephyr"]
    for row in report["gibbs"]:
        assert set(row) >= FIELDS
        assert row["chains"] == row["sweeps"] == 2
        assert row["updates_per_cpu_s"] == pytest.approx(2 * 2 * 906 / (2 * row["ms_per_sample"] / 1e3))
        baseline = row["torch_dense_updates_per_cpu_s"]
        assert row["ratio_to_torch_dense"] == pytest.approx(row["updates_per_cpu_s"] / baseline)
    table = capsys.readouterr().out
    assert "zephyr" in table
    assert "updates/CPU s" in table
    assert list(tmp_path.iterdir()) == [path]
