"""What a command writes: no device or pipe is replaced, links are followed, and a signal leaves nothing behind.

A command that writes has a row in ``WRITERS``; one that has none fails here until it is in ``READERS``.
"""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qshower.client import Client
from qshower.model import sweep_calibration
from qshower.model.geometry import named_geometry
from qshower.model.showers_writer import write_showers
from qshower.sampler import files
from qshower.sampler.diagnostics import Agreement, SweepCalibration
from qshower.sampler.errors import InvalidInputError
from qshower.service.cli import app

READERS = {"serve", "samplers", "emulator", "bank info"}


@dataclass(frozen=True)
class Writer:
    """A command's arguments in a folder, and a file that it writes there."""

    arguments: Callable[[Path], list[Any]]
    file: str


def energies(folder: Path) -> list[Any]:
    return ["--energies-mev", "2000", "--seed", 1, "--sampler", "gibbs", "-o", folder / "out.hdf5"]


WRITERS = {
    "generate": Writer(lambda folder: ["generate", *energies(folder)], "out.hdf5"),
    "generate --url": Writer(lambda folder: ["generate", *energies(folder), "--url", "URL"], "out.hdf5"),
    "bank draw": Writer(lambda folder: ["bank", "draw", *energies(folder), "--overwrite"], "out.hdf5"),
    "evaluate": Writer(
        lambda folder: [
            "evaluate", folder / "in" / "a.hdf5", folder / "in" / "b.hdf5", "--quick", "--no-classifiers", "-o", folder
        ],
        "index.html",
    ),
    "inspect": Writer(lambda folder: ["inspect", folder / "in" / "a.hdf5", "-o", folder], "showers.svg"),
    "inspect a bundle": Writer(lambda folder: ["inspect", "test-zephyr", "-o", folder], "machine.svg"),
    "export": Writer(
        lambda folder: ["export", folder / "in" / "a.hdf5", "--to", "showerdata", "-o", folder / "points.h5"],
        "points.h5",
    ),
    "train": Writer(lambda folder: ["train", folder / "in" / "toy.yaml"], "checkpoint.pt"),
    "calibrate": Writer(lambda _: ["calibrate", "--tolerance", 0.5], "mine/manifest.json"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, environment: pytest.MonkeyPatch, untrained_bundles: Path) -> Path:
    """Where commands write, with a folder ``in`` of what they read."""
    folder = tmp_path / "work"
    (folder / "in").mkdir(parents=True)
    rng = np.random.default_rng(1)
    voxels = named_geometry("1-photons").voxel_count
    for name in "ab":
        given = np.exp(rng.uniform(np.log(1e3), np.log(1e5), 60))
        showers = rng.gamma(0.5, size=(60, voxels)) * given[:, None] / 200
        write_showers(folder / "in" / f"{name}.hdf5", given, showers.astype(np.float32))
    (folder / "in" / "toy.yaml").write_text(
        "{name: toy, output: .., data: {files: [{path: a.hdf5}], geometry: 1-photons, domain_mev: [1000, 100000]},"
        " latent: {nodes_per_partition: 20, levels: 8}, network: {symmetry: none, trunk: 8, layer_code: 4,"
        " layer_hidden: 8, encoder_hidden: 8, level_hidden: 8},"
        " schedule: {batch: 16, autoencoder_steps: 1, prior_steps: 1, chains: 16, chain_sweeps: 1, prior_batch: 16}}"
    )
    shutil.copytree(untrained_bundles / "test-zephyr", folder / "mine")
    environment.setenv("QSHOWER_MODEL_FOLDER", str(folder))
    # What is tested here is where it goes, not how long it takes to measure.
    good = {name: Agreement(0.0, 0.01) for name in ("energy", "magnetisation 1")}
    found = SweepCalibration(
        8, 0.5, 4, dict.fromkeys(sweep_calibration.SWEEPS_TRIED, (good,) * sweep_calibration.BANDS)
    )
    measured = sweep_calibration.SweepMeasurement(found, tuple(np.geomspace(1e3, 1e6, sweep_calibration.BANDS + 1)), {})
    for module in ("qshower.service.commands.calibrate", "qshower.model.training.run"):
        environment.setattr(f"{module}.measure_sweeps", lambda *_, **__: measured)
    return folder


@pytest.fixture
def run(request: pytest.FixtureRequest, qshower: Any, folder: Path) -> Callable[[str], tuple[int, str, str]]:
    def run(command: str) -> tuple[int, str, str]:
        arguments = WRITERS[command].arguments(folder)
        if "URL" in arguments:
            arguments[arguments.index("URL")] = request.getfixturevalue("server_url")
        return qshower(*arguments)

    return run


def every_command() -> set[str]:
    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    for group in app.registered_groups:
        inner = group.typer_instance.registered_commands if group.typer_instance else []
        names |= {f"{group.name} {command.name or command.callback.__name__}" for command in inner if command.callback}
    return names


def test_every_command_that_writes_is_tried_here() -> None:
    known = {name for name in every_command() if any(row.startswith(name) for row in WRITERS)}
    assert known | READERS == every_command()
    assert not known & READERS


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe"])
@pytest.mark.parametrize("command", [name for name in WRITERS if name != "calibrate"])
def test_a_pipe_or_device_is_never_replaced(run: Any, folder: Path, command: str, kind: str) -> None:
    path = folder / WRITERS[command].file
    pipe = path if kind == "pipe" else folder / "in" / "pipe"
    os.mkfifo(pipe)
    if pipe != path:
        path.symlink_to(pipe)
    code, _, err = run(command)
    assert (code, err.count("\n")) == (2, 1), err
    assert f"/{path.name}: " in err
    assert "a pipe" in err
    assert pipe.is_fifo()
    assert parts(folder) == []


@pytest.mark.parametrize("command", WRITERS)
def test_a_link_stays_and_the_file_behind_it_is_replaced(run: Any, folder: Path, command: str) -> None:
    path = folder / WRITERS[command].file
    real = folder / "in" / f"real-{path.name}"
    if path.exists():
        path.rename(real)
    elif command != "train":  # which would read it
        real.write_bytes(b"old")
    path.symlink_to(real)
    before = real.read_bytes() if real.exists() else b""
    code, _, err = run(command)
    assert code == 0, err
    assert path.is_symlink()
    assert real.read_bytes() != before
    assert parts(folder) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("command", WRITERS)
def test_a_signal_while_a_file_is_written_leaves_nothing(
    run: Any, folder: Path, command: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync, before = os.fsync, signal.getsignal(number)

    def interrupted(descriptor: int) -> None:
        if not synced:
            synced.append(descriptor)
            signal.raise_signal(number)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    path = folder / WRITERS[command].file
    old = path.read_bytes() if path.exists() else None
    code, _, err = run(command)
    assert synced
    assert code == 128 + number, err
    assert parts(folder) == []
    if command != "bank draw":  # which may be paid for, and is written first
        assert (path.read_bytes() if path.exists() else None) == old
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with files.stopping():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_does_not_replace_a_folder_that_is_no_bundle(run: Any, folder: Path) -> None:
    (folder / "toy").mkdir()
    (folder / "toy" / "thesis.tex").write_text("years of work")
    code, _, err = run("train")
    assert (code, "thesis" in err, "manifest.json" in err) == (2, False, True), err
    assert (folder / "toy" / "thesis.tex").read_text() == "years of work"


def test_the_client_follows_links_and_replaces_no_pipe(server_url: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.hdf5").symlink_to(tmp_path / "real.hdf5")
    with Client(server_url) as client:
        with pytest.raises(OSError, match="not a regular file"):
            client.save(tmp_path / "pipe", [2000.0], sampler="gibbs")
        client.save(tmp_path / "link.hdf5", [2000.0], sampler="gibbs")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link.hdf5").is_symlink()
    assert (tmp_path / "real.hdf5").is_file()


@pytest.mark.skipif(os.geteuid() != 0 or not hasattr(os, "mknod"), reason="only root makes devices")
def test_root_replaces_no_device(tmp_path: Path) -> None:
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this container makes no devices")
    with pytest.raises(InvalidInputError, match="a device"):
        files.write_file(path, "text")
    assert path.is_char_device()


def parts(folder: Path) -> list[Path]:
    """What a write has left behind."""
    return [path for path in folder.rglob("*") if path.name.endswith((".part", ".tmp"))]
