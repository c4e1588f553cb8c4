"""What users are told: a file that is not there, a field that is unknown or missing, a number out of its range."""

import ast
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from fastapi.testclient import TestClient

from qshower.model.bundle import find_bundles, load_bundle
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.cli import app
from qshower.service.settings import load_settings

SOURCES = Path(__file__).parents[2]

READ = {
    ("generate", "like"): ["generate", "-o", "out.hdf5", "--like", "GIVEN"],
    ("bank draw", "like"): ["bank", "draw", "-o", "out.hdf5", "--like", "GIVEN"],
    ("bank info", "path"): ["bank", "info", "GIVEN"],
    ("train", "config"): ["train", "GIVEN"],
    ("evaluate", "reference"): ["evaluate", "GIVEN", "sample.hdf5", "-o", "report"],
    ("evaluate", "samples"): ["evaluate", "GIVEN", "GIVEN", "-o", "report"],
    ("evaluate", "floor_reference"): ["evaluate", "GIVEN", "s.hdf5", "--floor-reference", "GIVEN", "-o", "report"],
    ("inspect", "path"): ["inspect", "GIVEN"],
    ("export", "source"): ["export", "GIVEN", "--to", "showerdata", "-o", "points.h5"],
}
"""For each flag and argument that names a file to read, a command that gives it."""

WRITTEN = {(command, "output") for command in ("generate", "bank draw", "evaluate", "inspect", "export")}


def paths_of_commands() -> set[tuple[str, str]]:
    """Command and parameter of every path that the command line takes."""
    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    found: set[tuple[str, str]] = set()
    for prefix, group in groups:
        assert group is not None
        for command in group.registered_commands:
            assert command.callback is not None
            for name, hint in get_type_hints(command.callback, include_extras=True).items():
                if get_origin(hint) is Annotated and "Path" in str(get_args(hint)[0]):
                    found.add((prefix + (command.name or command.callback.__name__), name))
    return found


def test_every_path_of_the_command_line_is_tried() -> None:
    assert set(READ) | WRITTEN == paths_of_commands()


def command(name: str, parameter: str, given: Path) -> list[str]:
    return [str(given) if word == "GIVEN" else word for word in READ[name, parameter]]


@pytest.mark.parametrize(("name", "parameter"), READ)
def test_a_file_that_is_not_there(
    fails: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, parameter: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = fails(2, *command(name, parameter, Path("nofile.hdf5")))
    assert said.removeprefix("qshower: ").removeprefix("bank ").startswith("nofile.hdf5: no such file; expected: ")


@pytest.mark.parametrize(("name", "parameter"), READ)
def test_a_folder_where_a_file_is_expected(
    fails: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, parameter: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.hdf5").mkdir()
    said = fails(2, *command(name, parameter, Path("folder.hdf5")))
    given = said.removeprefix("qshower: ").removeprefix("bank ")
    assert given.startswith(("folder.hdf5: a folder", "folder.hdf5: is a directory"))
    assert "not allowed" not in said


@pytest.mark.parametrize(
    ("setting", "arguments"),
    [
        ("QSHOWER_BANK", ["samplers"]),
        ("QSHOWER_MODEL_FOLDER", ["samplers"]),
        ("QSHOWER_API_KEYS_FILE", ["serve", "--port", "0"]),
    ],
)
def test_a_setting_that_names_nothing(
    fails: Any, environment: pytest.MonkeyPatch, tmp_path: Path, setting: str, arguments: list[str]
) -> None:
    missing = tmp_path / "nothing"
    environment.setenv(setting, str(missing))
    said = fails(2, *arguments)
    assert f"{missing}: no such f" in said
    assert setting in said
    assert "not allowed" not in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "no incident energies: give one of --energies-mev"),
        (["--energies-mev", "1000", "--like", "a.hdf5"], "--energies-mev and --like exclude each other: give one of"),
        (["--log-uniform-mev", "1000:2000"], "-n is required"),
        (["--energies-mev", "2000", "--seed", "-1"], "--seed: -1 is not allowed; allowed: a number from 0 to "),
        (
            ["--energies-mev", "2000", "--sweeps", "0"],
            "--sweeps: 0 is not allowed; allowed: a number from 1 to 1000000",
        ),
    ],
)
def test_flags_of_generate(fails: Any, tmp_path: Path, flags: list[str], said: str) -> None:
    assert fails(2, "generate", "-o", tmp_path / "out.hdf5", *flags).startswith(f"qshower: {said}")


def test_a_flag_that_does_not_apply(fails: Any) -> None:
    assert fails(2, "calibrate", "--shim").startswith("qshower: --shim works only with --sampler qpu")


@pytest.fixture(scope="module")
def http(untrained_bundles: Path) -> Any:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    with TestClient(
        create_app(load_settings(qpu="off"), load_models=lambda _: Catalogue(bundles, "test-zephyr"))
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"energies": [1]}, "unknown field `energies`; `incident_energies_mev` is required"),
        ({}, "`incident_energies_mev` is required"),
        ({"incident_energies_mev": [2000], "sed": 1}, "unknown field `sed`; did you mean `seed`?"),
        (
            {"incident_energies_mev": [2000], "options": {"sweep": 1}},
            "unknown field `options.sweep`; did you mean `options.sweeps`?",
        ),
        (
            {"incident_energies_mev": [2000], "options": {"beta": 1}},
            "unknown field `options.beta`; known are sweeps, num_reads, annealing_time_us, gauges, refine_sweeps, "
            "condition_mode, max_qpu_access_time_us",
        ),
        (
            {"incident_energies_mev": [2000], "options": {"sweeps": 0}},
            "options.sweeps: 0 is not allowed; allowed: a number from 1 to 1000000",
        ),
        (
            {"incident_energies_mev": [2000], "dry_run": True, "sampler": "gibbs"},
            "dry_run: true is not allowed; allowed: false",
        ),
    ],
)
def test_fields_of_a_request(http: Any, body: dict[str, Any], said: str) -> None:
    answer = http.post("/generate", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(said)
    assert answer.json().get("errors", [{"value": True}])[0]["value"] != body


CONFIGURATION = (
    "{name: toy, output: out, data: {files: [{path: a.hdf5}], geometry: 1-photons, domain_mev: [1, 2]},"
    " schedule: {autoencoder_steps: 1, prior_steps: 1}}"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mine.yaml: empty; expected: a configuration in YAML"),
        ("[1, 2]", "mine.yaml: no mapping of keys; expected: a configuration in YAML"),
        ("{name: toy, outptu: out}", "mine.yaml: unknown field `outptu`; `output` is required; `data` is required"),
        (CONFIGURATION[:-2] + ", sed: 1}}", "mine.yaml: unknown field `schedule.sed`; did you mean `schedule.seed`?"),
        (CONFIGURATION.replace("path", "pth"), "mine.yaml: unknown field `data.files[0].pth`; `data.files[0].path` is"),
        (CONFIGURATION.replace("[1, 2]", "[2, 1]"), "mine.yaml: data.domain_mev (2.0, 1.0) must be 0 < low < high"),
        (CONFIGURATION[:-2] + ", seed: x}}", "mine.yaml: schedule.seed: 'x' is not allowed; allowed: an integer"),
        ("{name: 'a", "mine.yaml: while scanning a quoted scalar"),
    ],
)
def test_keys_of_a_training(fails: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    assert fails(2, "train", "mine.yaml").startswith(f"qshower: {said}")


def test_what_is_wrong_is_never_called_a_value() -> None:
    """InvalidInputError quotes a value that was given; a fault in words is for DefectError."""
    found = []
    for folder in ("sampler", "model", "evaluation", "service"):
        for file in (SOURCES / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and len(node.exc.args) > 1:
                    name, value = ast.unparse(node.exc.func), node.exc.args[1]
                    words = isinstance(value, ast.JoinedStr) or (
                        isinstance(value, ast.Constant) and " " in str(value.value)
                    )
                    if name == "InvalidInputError" and words and not node.exc.keywords:
                        found.append(f"{file.relative_to(SOURCES)}:{node.lineno}")
    assert found == []
