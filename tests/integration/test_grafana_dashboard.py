"""docker/monitoring/dashboard.json asks for metrics and labels that /metrics has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.service.app import create_app
from qshower.service.settings import load_settings

DASHBOARD = json.loads(
    (Path(__file__).parents[2] / "docker" / "monitoring" / "dashboard.json").read_text(encoding="utf-8")
)
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]
KEY = {"x-api-key": "open sesame"}
DIGEST = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb"
"""SHA-256 of the words "open sesame"."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, untrained_bundles: Path) -> str:
    """/metrics of a service that has all of it: a QPU, a budget, keys with limits, and an answered request."""
    with pytest.MonkeyPatch.context() as patch, EmulatorServer(EmulatorConfig(topology="zephyr:6")) as emulator:
        patch.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
        patch.setenv("DWAVE_API_TOKEN", "any")
        settings = load_settings(
            model_folder=untrained_bundles,
            default_model="test-zephyr",
            qpu_state_folder=tmp_path_factory.mktemp("state"),
            qpu_daily_budget_us=1e6,
            qpu_recalibrate_s=86400.0,
            api_keys=f"ada:{DIGEST}:1e6:1000",
        )
        with TestClient(create_app(settings)) as client:
            body = {"incident_energies_mev": [65536], "sampler": "gibbs", "seed": 1}
            assert client.post("/generate", json=body, headers=KEY).status_code == 200
            return client.get("/metrics", headers=KEY).text


def test_every_metric_is_there(page: str) -> None:
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    known = set(kinds) | {f"{name}_bucket" for name, kind in kinds.items() if kind == "histogram"}
    asked = {name for expression in EXPRESSIONS for name in re.findall(r"\b(?:qshower|process)_\w+", expression)}
    assert len(asked) > 30
    assert asked - known == set()
    for expression in EXPRESSIONS:
        for name in re.findall(r"rate\((\w+)", expression):
            assert name.endswith(("_total", "_bucket")), expression


def test_the_page_on_monitoring_names_metrics_that_are_there(page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(qshower_\w+)`", text))
    assert len(named) > 25
    assert named - set(re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE)) == set()


def test_every_label_is_there(page: str) -> None:
    labels = {
        name: set(re.findall(r'(\w+)="', inside)) for name, inside in re.findall(r"^(\w+)\{(.*)\} ", page, re.MULTILINE)
    }
    for expression in EXPRESSIONS:
        (name,) = set(re.findall(r"\b(?:qshower|process)_\w+", expression))
        if name in labels:
            wanted = {label.strip() for group in re.findall(r"by \((.*?)\)", expression) for label in group.split(",")}
            wanted |= set(re.findall(r'(\w+)="', expression))
            assert wanted <= labels[name], expression


def test_panels_have_a_title_a_place_and_a_source_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS}
    assert len(places) == len(PANELS) == len({panel["title"] for panel in PANELS})
    assert all(target["datasource"]["uid"] == "${prometheus}" for panel in PANELS for target in panel["targets"])
    assert DASHBOARD["templating"]["list"][0]["name"] == "prometheus"
