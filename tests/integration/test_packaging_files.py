"""What is shipped: the wheel, the images' files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CLIENT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("sampler", "model", "evaluation", "service")
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
IMAGE_SCRIPTS = ("environment.sh", "start.sh", "warm.py")
NOT_SOURCES = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.egg-info", "build")
NOT_PACKAGED = {"pyproject.toml", "README.md", "LICENSE"}
Wheels = dict[str, Path]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is built from: building leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("qshower", "client", *PACKAGES):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=NOT_SOURCES)
    return folder


@pytest.fixture(scope="module")
def wheels(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    """That of the client, and that of the rest, by the names of their distributions."""
    target = tmp_path_factory.mktemp("wheel")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        target,
        "./client",
        ".",
    ]
    listed = {name: sorted((sources / name).rglob("*")) for name in ("client", *PACKAGES)}
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, before in listed.items():
        for left in set((sources / name).iterdir()) - set(before):
            shutil.rmtree(left)
    return {built.name.split("-")[0].replace("_", "-"): built for built in target.glob("*.whl")}


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def packaged(sources: Path, *packages: str) -> set[str]:
    return {
        f"qshower/{file.relative_to(sources)}"
        for name in packages
        for file in (sources / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_everything_in_the_packages_is_in_one_of_the_wheels(sources: Path, wheels: Wheels) -> None:
    inside = {name: {file for file in names_in(wheels[name]) if ".dist-info/" not in file} for name in wheels}
    rest = packaged(sources, *PACKAGES) | {"qshower/__init__.py", "qshower/py.typed"}
    client = packaged(sources, "client") - {f"qshower/client/{name}" for name in NOT_PACKAGED}
    assert inside == {"qshower": rest, "qshower-client": client}
    assert not rest & client, "two distributions with one file: removing one breaks the other"


def test_both_distributions_have_one_version(wheels: Wheels) -> None:
    assert CLIENT["version"] == PROJECT["version"]
    assert f"qshower-client=={CLIENT['version']}" in PROJECT["dependencies"]
    assert set(CLIENT["dependencies"]) <= set(PROJECT["dependencies"]), "images install what the service needs"


def test_the_installed_client_alone_needs_only_what_it_declares(
    wheels: Wheels, server_url: str, tmp_path: Path
) -> None:
    """In an environment of the wheel and, as links, the distributions that it declares and those that these declare."""
    site = tmp_path / "site"
    command: list[str | Path] = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site]
    subprocess.run([*command, wheels["qshower-client"]], check=True, capture_output=True)
    waiting, linked = {Requirement(need).name for need in CLIENT["dependencies"]}, set[str]()
    while waiting:
        linked.add(name := waiting.pop())
        installed = metadata.distribution(name)
        needs = [Requirement(need) for need in installed.requires or []]
        waiting |= {need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})} - linked
        for top in {file.parts[0] for file in installed.files or [] if file.parts[0] != ".."}:
            if not (site / top).exists():
                (site / top).symlink_to(str(installed.locate_file(top)))
    program = f"""
from qshower.client import Client, MissingPackageError
with Client({server_url!r}) as client:
    showers = client.generate([1000.0, 65536.0], sampler="gibbs", seed=1)
    client.save("showers.hdf5", [1000.0], sampler="gibbs", seed=1)
print(showers.showers_mev.shape, showers.provenance["sampler"])
try:
    showers.to_hdf5("out.hdf5")
except MissingPackageError as error:
    print(error)
"""
    environment = {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
    run: list[str | Path] = [sys.executable, "-S", "-c", program]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = "h5py is needed to write HDF5: pip install 'qshower-client[hdf5]'"
    assert done.stdout.splitlines() == ["(2, 6480) gibbs", said]
    assert (tmp_path / "showers.hdf5").stat().st_size > 0


def test_installed_wheels_leave_the_names_of_their_folders_to_the_user(wheels: Wheels, tmp_path: Path) -> None:
    site = tmp_path / "site"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        site,
        *wheels.values(),
    ]
    subprocess.run(command, check=True, capture_output=True)
    work = tmp_path / "work"
    packages = ("client", *PACKAGES)
    for name in packages:
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text(f"owner = 'the user of {name}'\n", encoding="utf-8")
    program = f"""
import importlib
for name in {packages}:
    assert importlib.import_module(name).owner == f"the user of {{name}}"
    print(importlib.import_module(f"qshower.{{name}}").__file__)
from qshower.model.geometry import named_geometry
"""
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(site / "qshower" / name / "__init__.py") for name in packages]


def test_an_editable_installation_beside_the_client_is_whole(sources: Path, tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
    options: list[str | Path] = ["--no-build-isolation", "--ignore-installed", "--prefix", tmp_path]
    subprocess.run([*command, *options, "./client", "-e", "."], cwd=sources, check=True, capture_output=True)
    (site,) = tmp_path.glob("lib/*/site-packages")
    assert (site / "qshower" / "client" / "__init__.py").exists()
    program = f"import site; site.addsitedir({str(site)!r}); import qshower.model, qshower; print(qshower.__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert done.stdout.strip() == str(sources / "qshower" / "__init__.py"), done.stderr


def test_the_wheels_have_command_and_licence(wheels: Wheels) -> None:
    for wheel in wheels.values():
        endings = {name.split(".dist-info/")[1] for name in names_in(wheel) if ".dist-info/" in name}
        assert "licenses/LICENSE" in endings
    assert "qshower/entry_points.txt" in {name.replace("-0.1.0.dist-info", "") for name in names_in(wheels["qshower"])}


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def stages() -> dict[str, tuple[str, list[str]]]:
    """By stage of the Dockerfile: what it is made from, and its instructions."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found: dict[str, tuple[str, list[str]]] = {}
    for line in lines:
        start = re.fullmatch(r"FROM (\S+) AS (\w+)", line)
        if start:
            instructions: list[str] = []
            found[start[2]] = start[1], instructions
        elif found:
            instructions.append(re.sub(r"\s+", " ", line))
    return found


def whole(stage: str) -> list[str]:
    """The instructions of a stage after those of the stages that it is made from."""
    source, instructions = stages()[stage]
    return (whole(source) if source in stages() else []) + instructions


def last(stage: str, instruction: str) -> str:
    return [line for line in whole(stage) if line.startswith(f"{instruction} ")][-1].partition(" ")[2]


def test_the_dockerfile_has_a_target_each_for_cpu_and_gpu() -> None:
    assert list(stages()) == ["build", "runtime", "gpu", "cpu"], "the last one is what docker build makes"
    assert [file.name for file in (ROOT / "docker").glob("*Dockerfile")] == []
    assert COMPOSE["services"]["qshower"]["build"]["target"] == "cpu"
    for target in ("cpu", "gpu"):
        assert "COPY --from=build /opt/qshower /opt/qshower" in whole(target)
        assert last(target, "HEALTHCHECK").partition("CMD ")[2].startswith('["python"')
        assert last(target, "ENTRYPOINT") == '["qshower-start"]'
        assert whole(target).count("ARG VERSION=" + PROJECT["version"]) == 1
    assert "QSHOWER_DEVICE=cuda" in last("gpu", "ENV")


def test_bases_are_pinned_by_digest() -> None:
    (base,) = re.findall(r"^ARG BASE=(.*)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert {source for source, _ in stages().values()} == {"${BASE}", "runtime"}
    for service in COMPOSE["services"].values():
        assert service["image"] == "qshower" or re.fullmatch(r"\S+:v[\d.]+@sha256:[0-9a-f]{64}", service["image"])


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_images_run_as_any_user_of_group_0(target: str) -> None:
    """OpenShift picks a user for each project, always of group 0; docker run --user NUMBER is of group 0 too."""
    user, group = last(target, "USER").split(":")
    assert (user != "0", group) == (True, "0")
    (folder,) = [json.loads(line.partition(" ")[2])[0] for line in whole(target) if line.startswith("VOLUME")]
    made = [line for line in whole(target) if "install --directory" in line and line.endswith(folder)]
    assert [f"--owner={user} --group=0 --mode=0775" in line for line in made] == [True]
    assert f"HOME={folder}" in " ".join(whole(target))
    assert f"QSHOWER_QPU_STATE_FOLDER={folder}/" in " ".join(whole(target))
    started = (ROOT / "docker" / "start.sh").read_text(encoding="utf-8").splitlines()
    assert started.index("umask 0002") < started.index('exec "$@"')


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_services_of_the_compose_file_have_limits_and_a_health_check(name: str) -> None:
    service = COMPOSE["services"][name]
    assert {"cpus", "mem_limit", "pids_limit"} <= service.keys()
    assert service["healthcheck"]["test"][0] == "CMD"


def test_the_build_context_holds_what_images_are_made_of() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"]
    wanted = {*PACKAGES, "client", "qshower", "pyproject.toml", "requirements.lock", "README.md", "LICENSE"}
    assert set(kept) == wanted | {f"docker/{name}" for name in IMAGE_SCRIPTS}
    assert [name for name in kept if not (ROOT / name).exists()] == []


def test_no_host_of_an_index_or_registry_is_written_down() -> None:
    files = [DOCKERFILE, ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "requirements.lock"]
    for file in [*files, *(ROOT / "docker" / name for name in IMAGE_SCRIPTS)]:
        assert "://" not in re.sub(r"http://127\.0\.0\.1", "", file.read_text(encoding="utf-8")), file


def test_the_lock_pins_every_dependency_of_the_images() -> None:
    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    }
    wanted = {re.split(r"[\[<>=]", need)[0].lower() for need in PROJECT["dependencies"]}
    assert wanted - {CLIENT["name"]} <= pinned


def test_prometheus_scrapes_the_service_of_the_compose_file() -> None:
    scraped = yaml.safe_load((ROOT / "docker" / "monitoring" / "prometheus.yml").read_text(encoding="utf-8"))
    (target,) = scraped["scrape_configs"][0]["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert COMPOSE["services"][name]["ports"][0].endswith(f":{port}")


def test_a_container_that_cannot_keep_kernels_says_why(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    environment = os.environ | {"NUMBA_CACHE_DIR": str(occupied / "kernels")}
    command: list[str | Path] = ["sh", ROOT / "docker" / "start.sh", "echo", "started"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "NUMBA_CACHE_DIR" in done.stderr
    assert "--tmpfs /tmp" in done.stderr
