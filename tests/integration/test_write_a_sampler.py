"""The example of docs/write-a-sampler.md, added by its one row: drawn from by law, over HTTP and by the command line.

The contract suite runs over it, too (tests/contract/conftest.py).
"""

import re
import sys
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
from fastapi.testclient import TestClient

from qshower.model.bundle import find_bundles, load_bundle
from qshower.sampler.protocol import SamplerCapabilities
from qshower.service import sampler_table
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.cli import main
from qshower.service.settings import load_settings
from tests.conftest import LawMaker, MachineMaker, RequestMaker

ROOT = Path(__file__).parents[2]
NAME = "heat-bath"
BODY = {"incident_energies_mev": [65536.0], "sampler": NAME, "seed": 3, "options": {"sweeps": 4}}
FALSE_ALARM_SIGMA = 5.0


@pytest.fixture
def registered(documented_sampler: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of the page, in the table."""
    table: dict[str, sampler_table.SamplerRow] = {}
    exec(documented_sampler.row, {"SAMPLERS": table, "SamplerRow": sampler_table.SamplerRow})  # noqa: S102 - our own page
    monkeypatch.setitem(sampler_table.SAMPLERS, NAME, table[NAME])


def test_it_draws_by_the_law(
    documented_sampler: ModuleType, random_machine: MachineMaker, enumerate_law: LawMaker, latent_request: RequestMaker
) -> None:
    """Twelve means of 4000 rows within five standard errors: a false alarm in 10^5 seeds."""
    rng, rows = np.random.default_rng(7), 4000
    machine = random_machine(rng, free=8, condition=2)
    condition = np.array([1, -1], dtype=np.int8)
    with documented_sampler.HeatBathSampler() as sampler:
        spins = sampler.sample(latent_request(machine, np.tile(condition, (rows, 1)))).spins
    exact = enumerate_law(machine, condition)
    expected = exact.mean(exact.spins)
    error = np.sqrt(np.maximum(1.0 - expected**2, 1e-3) / rows)
    assert (np.abs(spins.mean(axis=0) - expected) < FALSE_ALARM_SIGMA * error).all()


def test_one_row_and_http_knows_it(registered: None, untrained_bundles: Path) -> None:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    app = create_app(load_settings(qpu="off"), load_models=lambda _: Catalogue(bundles, "test-zephyr"))
    with TestClient(app) as client:
        answer = client.post("/generate", json=BODY)
        assert answer.status_code == 200, answer.text
        assert answer.json()["provenance"]["sampler"] == NAME
        assert client.post("/generate", json=BODY).json()["showers_mev"] == answer.json()["showers_mev"]
        fallback = {**BODY, "sampler": "replay", "fallback": [NAME]}
        assert client.post("/generate", json=fallback).json()["provenance"]["sampler"] == NAME
        listed = {state["name"]: state for state in client.get("/samplers").json()["samplers"]}
        assert listed[NAME]["available"]
        assert listed[NAME]["options"] == ["sweeps"]
        refused = client.post("/generate", json={**BODY, "options": {"num_reads": 1}})
        assert (refused.status_code, refused.json()["field"]) == (422, "options.num_reads")
        fields = client.get("/openapi.json").json()["components"]["schemas"]["GenerateRequest"]["properties"]
        assert fields["sampler"]["enum"] == ["auto", *sampler_table.SAMPLERS]
        assert NAME in fields["fallback"]["items"]["enum"]


def test_one_row_and_the_command_line_knows_it(
    registered: None,
    untrained_bundles: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("QSHOWER_MODEL_FOLDER", str(untrained_bundles))
    monkeypatch.setenv("QSHOWER_DEFAULT_MODEL", "test-zephyr")
    output = tmp_path / "out.hdf5"
    flags = ["--sampler", NAME, "--sweeps", "4", "--energies-mev", "65536", "-n", "2", "--seed", "1"]
    for arguments in (["generate", *flags, "-o", str(output)], ["samplers"]):
        monkeypatch.setattr(sys, "argv", ["qshower", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
    assert NAME in capsys.readouterr().out
    with h5py.File(output) as file:
        assert file["showers"].shape[0] == 2


def test_the_page_names_every_capability() -> None:
    page = (ROOT / "docs" / "write-a-sampler.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(SamplerCapabilities.__dataclass_fields__)


def test_every_row_is_a_sampler_of_its_name() -> None:
    for name, row in sampler_table.SAMPLERS.items():
        assert sampler_table._load(row.kind).name == name
        assert sampler_table._load(row.kind).capabilities == row.capabilities


def test_the_service_compares_with_no_sampler_s_name() -> None:
    """Only the table, examples and defaults of flags name a sampler."""
    names = "|".join(sampler_table.SAMPLERS)
    operators, name = r"([=!]=|\b(not )?in\b)", rf"""["']({names})["']"""
    compared = re.compile(rf"{operators}\s*[(\[{{]?\s*{name}|{name}\s*{operators}")
    for path in (ROOT / "service").rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not compared.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
