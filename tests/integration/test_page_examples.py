"""The Python on the pages runs as it stands there, but for ports and the user's own files."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qshower.evaluation import report
from qshower.evaluation.comparison import QUICK_SETTINGS
from qshower.evaluation.distances import FpdSettings, KpdSettings
from qshower.model.geometry import named_geometry
from qshower.model.showers_writer import write_showers
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer

ROOT = Path(__file__).parents[2]


def examples_of(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run(code: str, **addresses: str) -> dict[str, Any]:
    """The names that ``code`` leaves behind."""
    for was, address in addresses.items():
        assert f"://{was.replace('_', '.')}" in code
        code = re.sub(rf"http://{was.replace('_', '.')}:\d+", address, code)
    names: dict[str, Any] = {}
    exec(compile(code, "page", "exec"), names)  # noqa: S102  our own pages
    return names


def test_the_client_of_the_readme(server_url: str) -> None:
    (code,) = examples_of("README.md")
    assert run(code, localhost=server_url)["answer"].showers_mev.shape == (2, 6480)


@pytest.mark.parametrize("example", range(3))
def test_the_client_of_its_page(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], example: int
) -> None:
    monkeypatch.chdir(tmp_path)
    code = examples_of("docs/python-client.md")[example].replace("127.0.0.1", "localhost")
    names = run(code, localhost=server_url)
    if example == 0:
        assert names["showers"].showers_mev.shape == (20, 6480)
        assert {path.name for path in tmp_path.iterdir()} == {"showers.hdf5", "more.hdf5"}
    elif example == 1:
        assert names["showers"].showers_mev.shape == (1, 6480)
    else:
        assert capsys.readouterr().out.startswith("incident_energies_mev[0] 5.0 1000 to 1000000 MeV")


def test_a_quantum_annealer_in_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = examples_of("docs/qpu.md")[0]
    with EmulatorServer(EmulatorConfig(topology="zephyr:12", defects=0.03)) as emulator:
        monkeypatch.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
        monkeypatch.setenv("DWAVE_API_TOKEN", "any")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        batch = run(code)["batch"]
    assert batch.spins.shape == (2, 1208)
    assert batch.provenance.qpu_access_time_us > 0


def test_the_emulator_in_python() -> None:
    with_client, in_process = examples_of("docs/emulator.md")
    with EmulatorServer(EmulatorConfig(topology="zephyr:2", defects=0)) as emulator:
        address = emulator.endpoint.removesuffix("/sapi/v2")
        reads = run(with_client.replace("127.0.0.1", "localhost"), localhost=address)["reads"]
    assert reads.record.num_occurrences.sum() == 100
    assert run(in_process)["emulator"].solver_name


def test_the_evaluation_in_python(toy_showers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fpd, kpd = FpdSettings(repeats=2, points=4), KpdSettings(batches=3)
    classifier = replace(QUICK_SETTINGS.classifier, hidden=16, layers=2, epochs=1, repeats=1, most_rows=200)
    tiny = replace(
        QUICK_SETTINGS, fpd=fpd, kpd=kpd, research_fpd=fpd, research_kpd=kpd, neighbour_rows=100, classifier=classifier
    )
    monkeypatch.setattr(report, "QUICK_SETTINGS", tiny)
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("geant4", "mine")):
        write_showers(Path(f"{name}.hdf5"), *toy_showers(named_geometry("1-photons"), 300, seed))
    (code,) = examples_of("docs/evaluation.md")
    assert run(code)["written"].index == Path("report/index.html")
    assert Path("report/index.html").stat().st_size > 0
