"""The command line, command by command: what it prints, what it writes, and the one line where it cannot."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.model.bundle import find_bundles, load_bundle, save_bundle
from qshower.model.geometry import named_geometry
from qshower.model.manifest import read_manifest, update_manifest
from qshower.model.showers_writer import write_showers
from qshower.sampler.bank_file import bank_info, open_bank
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.packed_spins import unpack_spins
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.quota import Quota
from qshower.sampler.request import LatentBatch, LatentRequest, streams_of
from qshower.service.catalogue import load_catalogue
from qshower.service.generation.generator import Generator
from qshower.service.generation.shower_request import ShowerAnswer, ShowerRequest
from qshower.service.settings import load_settings
from tests.conftest import LargestFile
from tests.polling import holds_in_loop, until

Command = Callable[..., tuple[int, str, str]]
FailingCommand = Callable[..., str]

COMMANDS = (
    ["serve"], ["generate"], ["train"], ["evaluate"], ["samplers"], ["inspect"], ["emulator"], ["calibrate"],
    ["bank", "draw"], ["bank", "info"],
)  # fmt: skip


def read(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float32], dict[str, Any]]:
    with h5py.File(path) as file:
        return file["incident_energies"][:], file["showers"][:], json.loads(file.attrs["provenance"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(qshower: Command, command: list[str]) -> None:
    code, out, _ = qshower(*command, "--help")
    assert code == 0
    assert f"qshower {' '.join(command)}" in out.split("Example")[1]


def test_the_version(qshower: Command) -> None:
    code, out, _ = qshower("--version")
    assert code == 0
    assert out.startswith("qshower ")


def test_generate_writes_the_challenge_layout(qshower: Command, tmp_path: Path) -> None:
    path = tmp_path / "out.hdf5"
    code, out, err = qshower(
        "generate", "--energies-mev", "1000,65536", "-n", 3, "--sampler", "gibbs", "--seed", 1, "-o", path
    )
    assert code == 0, err
    assert out == ""
    assert "6 showers by gibbs" in err
    energies, showers, provenance = read(path)
    assert energies[:, 0].tolist() == [1000] * 3 + [65536] * 3
    assert (energies.shape, showers.shape) == ((6, 1), (6, 6480))
    assert (provenance["sampler"], provenance["seed"], provenance["model"]) == ("gibbs", 1, "test-zephyr")
    assert [file.name for file in tmp_path.iterdir()] == ["out.hdf5"]


def test_generate_like_a_file_in_chunks_and_by_a_server(qshower: Command, server_url: str, tmp_path: Path) -> None:
    like, own, other = tmp_path / "like.hdf5", tmp_path / "own.hdf5", tmp_path / "other.hdf5"
    wanted = np.geomspace(1000, 1e6, 1203)
    write_showers(like, wanted, np.ones((1203, 6480), dtype=np.float32))
    flags = ("--like", like, "--sampler", "gibbs", "--seed", 3, "--sweeps", 8)
    assert qshower("generate", *flags, "-o", own)[0] == 0
    assert qshower("generate", *flags, "-o", other, "--url", server_url)[0] == 0
    energies, showers, provenance = read(own)
    assert np.array_equal(energies[:, 0], wanted.astype(np.float32))
    _, of_server, origin = read(other)
    # One call or several chunks, one process or another: shower i is that of stream (seed, i).
    assert np.array_equal(showers, of_server)
    for document in (provenance, origin):
        document.pop("elapsed_s")
    assert provenance == origin
    assert "groups" not in provenance
    code, _, err = qshower("generate", *flags, "-n", 5, "-o", tmp_path / "few.hdf5")
    assert code == 0, err
    assert np.array_equal(read(tmp_path / "few.hdf5")[1], showers[:5])


def test_generate_log_uniform(qshower: Command, tmp_path: Path) -> None:
    for name in ("a", "b"):
        flags = ("--log-uniform-mev", "2000:500000", "-n", 40, "--seed", 5, "--sweeps", 4, "--sampler", "gibbs")
        assert qshower("generate", *flags, "-o", tmp_path / name)[0] == 0
    energies, showers, _ = read(tmp_path / "a")
    assert energies.min() >= 2000
    assert energies.max() <= 500000
    assert np.array_equal(showers, read(tmp_path / "b")[1])
    assert abs(np.log(energies).mean() - np.log([2000, 500000]).mean()) < 5 * np.log(250) / np.sqrt(12 * 40)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--like"),
        (("--energies-mev", "1000", "--log-uniform-mev", "1000:2000"), "one of"),
        (("--energies-mev", "a,b"), "'a,b'"),
        (("--energies-mev", "nan"), "'nan'"),
        (("--energies-mev", "5"), "1000 to 1000000 MeV"),
        (("--log-uniform-mev", "1000:2000"), "-n"),
        (("--log-uniform-mev", "2000:1000", "-n", "5"), "LOW:HIGH"),
        (("--energies-mev", "2000", "-n", "0"), "-n"),
        (("--energies-mev", "2000", "--sampler", "guess"), "--sampler"),
        (("--energies-mev", "2000", "--fallback", "guess"), "--fallback"),
        (("--energies-mev", "2000", "--seed", "-1"), "--seed"),
        (("--energies-mev", "2000", "--sweeps", "0"), "--sweeps"),
        (("--energies-mev", "2000", "--sampler", "gibbs", "--num-reads", "5"), "num_reads"),
        (("--like", "/no/such/file.hdf5"), "/no/such/file.hdf5"),
    ],
)
def test_generate_says_what_is_wrong(fails: FailingCommand, tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    path = tmp_path / "out.hdf5"
    path.write_text("before")
    assert said in fails(2, "generate", "-o", path, *flags)
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_generate_without_what_it_needs(fails: FailingCommand, tmp_path: Path) -> None:
    flags = ("--energies-mev", "2000", "-o", tmp_path / "out.hdf5")
    assert "DWAVE_API_TOKEN" in fails(1, "generate", *flags, "--sampler", "qpu")
    assert "test-pegasus" in fails(1, "generate", *flags, "--model", "nothing")
    assert "folder" in fails(2, "generate", "--energies-mev", "2000", "-o", tmp_path / "no" / "out.hdf5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["generate", "samplers"])
def test_a_server_that_is_not_there(
    fails: FailingCommand, qshower: Command, environment: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    pauses: list[float] = []
    environment.setattr(f"qshower.service.commands.{command}.time.sleep", pauses.append)
    needed = ("--energies-mev", "2000", "-o", tmp_path / "out.hdf5") if command == "generate" else ()
    flags = (command, *needed, "--url", "http://127.0.0.1:9")
    assert "no connection to http://127.0.0.1:9: " in fails(1, *flags)
    assert pauses == []
    code, out, err = qshower(*flags, "--connect-wait-s", 1)
    assert (code, out, pauses) == (1, "", [0.2, 0.4])
    first, second, last = err.splitlines()
    assert "no connection to http://127.0.0.1:9" in first
    assert "attempt 1 failed" in first
    assert "attempt 2 failed" in second
    assert "3 times tried" in last
    assert list(tmp_path.iterdir()) == []


def test_generate_told_no_by_a_server(fails: FailingCommand, server_url: str, tmp_path: Path) -> None:
    said = fails(2, "generate", "--energies-mev", "5", "-o", tmp_path / "out.hdf5", "--url", server_url)
    assert "1000 to 1000000 MeV" in said
    assert not (tmp_path / "out.hdf5").exists()


def test_a_full_disk_leaves_the_good_file(
    fails: FailingCommand, qshower: Command, largest_file: LargestFile, tmp_path: Path
) -> None:
    path = tmp_path / "out.hdf5"
    flags = ("generate", "--sampler", "gibbs", "--sweeps", 4, "-o", path)
    assert qshower(*flags, "--energies-mev", "2000")[0] == 0
    before = path.read_bytes()
    with largest_file(40_000):
        said = fails(2, *flags, "--energies-mev", "500000", "-n", 400)
    assert str(path) in said
    assert "File too large" in said
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out.hdf5"]


def test_a_corrupted_bundle_is_named_in_the_last_line(
    qshower: Command, environment: pytest.MonkeyPatch, untrained_bundles: Path, tmp_path: Path
) -> None:
    for source in untrained_bundles.glob("test-zephyr/*"):
        target = tmp_path / "bundles" / "test-zephyr" / source.name
        target.parent.mkdir(exist_ok=True, parents=True)
        target.write_bytes(source.read_bytes()[: -1 if source.name == "prior.safetensors" else None])
    environment.setenv("QSHOWER_MODEL_FOLDER", str(tmp_path / "bundles"))
    code, _, err = qshower("generate", "--energies-mev", "2000", "-o", tmp_path / "out.hdf5")
    assert code == 1
    assert "Traceback" not in err
    assert "prior.safetensors" in err.splitlines()[-1]
    assert not (tmp_path / "out.hdf5").exists()


def test_a_killed_run_leaves_the_good_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "out.hdf5"
    path.write_text("before")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "qshower.service.cli",
        "generate",
        "--energies-mev",
        "500000",
        "-n",
        "100000",
        "-o",
        path,
    ]
    # A child inherits that a signal is ignored, as SIGINT is in jobs that a shell runs in the background.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen([*command, "--sampler", "gibbs", "--sweeps", "4"], stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, ours)
    try:
        until(lambda: len(list(tmp_path.iterdir())) >= 2 or process.poll() is not None)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["out.hdf5"]


def test_a_wrong_token_is_one_line(fails: FailingCommand, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with EmulatorServer(EmulatorConfig(topology="zephyr:6", defects=0.0, token="right")) as emulator:
        environment.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
        environment.setenv("DWAVE_API_TOKEN", "wrong-token-of-mine")
        said = fails(1, "generate", "--energies-mev", "2000", "--sampler", "qpu", "-o", tmp_path / "out.hdf5")
    assert "token" in said
    assert "wrong-token-of-mine" not in said


def table_of(out: str) -> dict[str, str]:
    """The rows of a table of names and values."""
    return dict(re.findall(r"^│ *(\S.*?) *│ *(\S.*?) *│$", out, re.MULTILINE))


def test_the_qpu_from_the_command_line(
    qshower: Command, fails: FailingCommand, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with EmulatorServer(EmulatorConfig(topology="zephyr:6", defects=0.0, sweeps=16)) as emulator:
        environment.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
        environment.setenv("DWAVE_API_TOKEN", "any")
        code, out, err = qshower("calibrate", "--sampler", "qpu", "--shim", "--dry-run")
        assert code == 0, err
        assert "nothing was submitted" in err
        costs = table_of(out)
        shim_ms, calibration_ms, both_ms = (
            float(costs[name].removesuffix(" ms"))
            for name in ("shim: access time", "access time", "access time of both")
        )
        assert both_ms == pytest.approx(shim_ms + calibration_ms, abs=0.11)
        # A budget that would last for the shim, but not for the calibration that it wants after it.
        environment.setenv("QSHOWER_QPU_DAILY_BUDGET_US", str(1000 * (shim_ms + calibration_ms / 2)))
        said = fails(1, "calibrate", "--sampler", "qpu", "--shim")
        assert f"would take {both_ms:.1f} ms" in said
        assert emulator.backend.state()["submitted"] == 0
        environment.setenv("QSHOWER_QPU_DAILY_BUDGET_US", str(1000 * both_ms + 100))
        code, out, err = qshower("calibrate", "--sampler", "qpu", "--shim")
        environment.delenv("QSHOWER_QPU_DAILY_BUDGET_US")
        assert code == 0, err
        assert emulator.solver_name in out
        assert "couplers off by" in out
        assert emulator.backend.state()["submitted"] == int(costs["shim: problems"]) + int(costs["problems"])
        billed = Quota(tmp_path / "state" / "qpu_budget.json", None, None).status().used_today_us
        assert billed / 1000 == pytest.approx(both_ms, rel=0.02)
        path = tmp_path / "out.hdf5"
        code, _, err = qshower("generate", "--energies-mev", "2000", "-n", 4, "--sampler", "qpu", "-o", path)
        assert code == 0, err
        _, showers, provenance = read(path)
        assert showers.shape == (4, 6480)
        assert provenance["solver"] == emulator.solver_name
        assert provenance["problem_ids"]
        assert any("coupler shim" in note for note in provenance["notes"])
        code, out, err = qshower("samplers", "--json")
        assert code == 0, err
        states = {state["name"]: state for state in json.loads(out)["samplers"]}
        assert states["qpu"]["available"]


def test_samplers_here_and_of_a_server(qshower: Command, server_url: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COLUMNS", "80")
    for flags in ((), ("--url", server_url)):
        code, out, err = qshower("samplers", *flags)
        assert code == 0, err
        assert max(map(len, out.splitlines())) <= 80
        assert not set("{}…│") & set(out)
        assert "replay: not usable\n  why not      no bank is configured" in out
        for name in ("gibbs", "annealing", "tempering", "qpu", "replay"):
            assert name in out
        assert "DWAVE_API_TOKEN" in out


def test_inspect(qshower: Command, fails: FailingCommand, untrained_bundles: Path, tmp_path: Path) -> None:
    code, out, err = qshower("inspect", "test-zephyr", "-o", tmp_path / "pictures")
    assert code == 0, err
    assert "6480 voxels" in out
    assert {file.name for file in (tmp_path / "pictures").iterdir()} == {
        "machine.svg",
        "showers.svg",
    }
    assert "test-pegasus" in qshower("inspect", untrained_bundles / "test-pegasus")[1]
    path = tmp_path / "showers.hdf5"
    qshower("generate", "--energies-mev", "2000,5000", "--seed", 1, "--sampler", "gibbs", "-o", path)
    code, out, err = qshower("inspect", path, "-o", tmp_path / "more")
    assert code == 0, err
    assert "2000 to 5000 MeV" in out
    assert "provenance: sampler" in out
    assert (tmp_path / "more" / "showers.svg").read_text().startswith("<svg")
    path.write_bytes(path.read_bytes()[:3000])
    assert str(path) in fails(2, "inspect", path)
    assert "test-zephyr" in fails(2, "inspect", "nothing")


@pytest.mark.parametrize("source", ["gibbs", "tempering"])
def test_a_bank_is_drawn_told_and_replayed(
    qshower: Command, fails: FailingCommand, environment: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    bank, out_path = tmp_path / "bank.hdf5", tmp_path / "out.hdf5"
    flags: tuple[object, ...] = ("--energies-mev", "2000", "-n", 5, "--seed", 1, "--sampler", source, "-o", bank)
    code, _, err = qshower("bank", "draw", *flags)
    assert code == 0, err
    code, out, _ = qshower("bank", "info", bank)
    assert code == 0
    assert source in out
    assert "bank" in fails(2, "bank", "draw", "--energies-mev", "2000", "-o", bank)
    environment.setenv("QSHOWER_BANK", str(bank))
    flags = ("generate", "--energies-mev", "2000", "--sampler", "replay", "-o", out_path)
    assert qshower(*flags, "-n", 5)[0] == 0
    assert read(out_path)[2]["sampler"] == "replay"
    assert "condition" in fails(1, *flags, "-n", 6)


def test_banks_without_a_seed_differ_and_tell_theirs(qshower: Command, tmp_path: Path) -> None:
    seeds: list[str] = []
    held: list[bytes] = []
    flags: tuple[object, ...]
    for name in ("one.hdf5", "two.hdf5"):
        flags = ("--log-uniform-mev", "1000:1000000", "-n", 4, "--sweeps", 2, "-o", tmp_path / name)
        code, _, err = qshower("bank", "draw", *flags)
        assert code == 0, err
        told = re.search(r"seed (\d+)", err)
        assert told is not None
        seeds.append(told[1])
        assert seeds[-1] in qshower("bank", "info", tmp_path / name)[1]
        held.append(open_bank(tmp_path / name).packed.tobytes())
    assert len({*seeds}) == len({*held}) == 2
    # The seed that was told draws the same bank, its energies included.
    flags = ("--log-uniform-mev", "1000:1000000", "-n", 4, "--sweeps", 2, "--seed", seeds[0], "-o", tmp_path / "again")
    assert qshower("bank", "draw", *flags)[0] == 0
    assert open_bank(tmp_path / "again").packed.tobytes() == held[0]


def test_a_bank_of_the_qpu(qshower: Command, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "bank.hdf5"
    draw = ("bank", "draw", "--sampler", "qpu", "--energies-mev", "2000,500000", "-n", 3, "--overwrite", "-o", path)
    requests: list[LatentRequest] = []
    sample = QpuSampler.sample

    def third_call_fails(self: QpuSampler, request: LatentRequest) -> LatentBatch:
        requests.append(request)
        if len(requests) == 3:
            raise SamplerUnavailableError("the line is cut")
        return sample(self, request)

    environment.setattr(QpuSampler, "sample", third_call_fails)
    environment.setattr("qshower.service.commands.draw_request.CHUNK_ROWS", 2)
    with EmulatorServer(EmulatorConfig(topology="zephyr:6", defects=0.0, sweeps=16)) as emulator:
        environment.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
        environment.setenv("DWAVE_API_TOKEN", "any")
        options = ("--solver", "zephyr", "--num-reads", 5, "--gauges", 2, "--refine-sweeps", 3)
        code, _, err = qshower(*draw, *options, "--max-qpu-access-time-us", 6e7)
        assert code == 0, err
        # One call, so that each condition is programmed once.
        (drawn,) = bank_info(path).draws
        assert (drawn.solver, drawn.refine_sweeps) == (emulator.solver_name, 3)
        environment.setattr(QpuSampler, "capabilities", replace(QpuSampler.capabilities, batch_rows=4))
        whole = path.read_bytes()
        code, _, err = qshower(*draw)
        assert [request.rows for request in requests] == [6, 4, 2]
        # The old bank is whole, and stays; so does what an earlier failure left.
        assert path.read_bytes() == whole
        del requests[1:]
        again, _, said_again = qshower(*draw)
    given = {"solver": "zephyr", "num_reads": 5, "gauges": 2, "refine_sweeps": 3, "max_qpu_access_time_us": 6e7}
    assert requests[0].options.given() == given
    for number, ended in enumerate(((code, err), (again, said_again))):
        partial = path.with_name(("bank.partial.hdf5", "bank.partial-2.hdf5")[number])
        said, error = ended[1].splitlines()
        assert said.startswith("only 4 of 6 latents of test-zephyr by qpu")
        assert said.endswith(f"in {partial}")
        assert (ended[0], error) == (1, "qshower: the line is cut")
        assert bank_info(partial).rows == 4


def test_a_bank_of_the_qpu_is_of_the_model_for_its_topology(
    qshower: Command, fails: FailingCommand, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "bank.hdf5"
    draw = ("bank", "draw", "--sampler", "qpu", "--energies-mev", "2000", "-o", path)
    assert "no QPU is configured" in fails(1, *draw)
    with EmulatorServer(EmulatorConfig(topology="pegasus:16", defects=0.0, sweeps=16)) as emulator:
        environment.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
        environment.setenv("DWAVE_API_TOKEN", "any")
        for solver in ((), ("--solver", emulator.solver_name)):
            code, _, err = qshower(*draw, "--overwrite", *solver)
            assert (code, "pegasus by qpu" in err) == (0, True), err
        assert "zephyr" in fails(1, *draw, "--overwrite", "--model", "test-zephyr")
        assert "no zephyr solver" in fails(1, *draw, "--overwrite", "--solver", "zephyr")
    assert sorted(tmp_path.glob("bank*")) == [path]


def test_chunks_have_a_bank_in_its_order_however_long_one_takes(
    qshower: Command, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bank, out_path = tmp_path / "bank.hdf5", tmp_path / "out.hdf5"
    flags = ("--energies-mev", "2000", "-n", 25, "--seed", 1)
    assert qshower("bank", "draw", *flags, "--sampler", "gibbs", "-o", bank)[0] == 0
    begun: list[int] = []
    generate = Generator.generate

    async def first_is_slow(self: Generator, order: ShowerRequest) -> ShowerAnswer:
        begun.append(order.first_row)
        if order.first_row == 0:
            await holds_in_loop(lambda: begun == [0])
        return await generate(self, order)

    environment.setattr(Generator, "generate", first_is_slow)
    environment.setattr("qshower.service.commands.draw_request.CHUNK_ROWS", 10)
    environment.setenv("QSHOWER_BANK", str(bank))
    code, _, err = qshower("generate", *flags, "--sampler", "replay", "-o", out_path)
    assert code == 0, err
    bundle = load_catalogue(load_settings()).get(None)
    content = open_bank(bank)
    spins = unpack_spins(content.packed, bundle.machine.node_count)
    streams = streams_of(1, 25)
    expected = bundle.decode(spins, np.full(25, 2000.0), streams, bundle.geometry.threshold_mev)
    assert np.array_equal(read(out_path)[1], expected)
    assert begun == [0, 10, 20]


def test_tempering_is_there_for_the_asking(qshower: Command, tmp_path: Path) -> None:
    path = tmp_path / "out.hdf5"
    flags = ("--sampler", "tempering", "--sweeps", 20, "--seed", 4)
    code, _, err = qshower("generate", "--energies-mev", "2000,5000", *flags, "-o", path)
    assert code == 0, err
    provenance = read(path)[2]
    assert (provenance["sampler"], provenance["sweeps"]) == ("tempering", 20)
    assert any("temperatures" in note for note in provenance["notes"])


def test_sweeps_are_measured_and_kept(
    qshower: Command, environment: pytest.MonkeyPatch, untrained_bundles: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundles" / "test-zephyr"
    folder.mkdir(parents=True)
    for source in untrained_bundles.glob("test-zephyr/*"):
        (folder / source.name).write_bytes(source.read_bytes())
    environment.setenv("QSHOWER_MODEL_FOLDER", str(tmp_path / "bundles"))
    code, out, err = qshower("calibrate", "--tolerance", 0.5)
    assert code == 0, err
    assert "1024" in out
    manifest = load_bundle(folder).manifest
    assert manifest.sweeps in (8, 16, 32, 64, 128, 256, 512, 1024)
    measured = manifest.sweeps_measurement
    assert measured["converged"]
    assert measured["tolerance_sigma"] == 0.5
    assert np.allclose(measured["bands_mev"], np.geomspace(1e3, 1e6, 7), rtol=1e-4)
    assert measured["chains"] == 6 * 320
    figures = {"energy", "magnetisation_1", "magnetisation_2", "magnetisation_3"}
    assert set(measured["autocorrelation_sweeps"]) == set(measured["autocorrelation_error_sweeps"]) == figures
    assert all(1.0 <= time < 20.0 for time in measured["autocorrelation_sweeps"].values())
    assert all(0.0 < error < 2.0 for error in measured["autocorrelation_error_sweeps"].values())
    for differences in measured["differences_sigma"].values():
        assert set(differences) == figures
        assert all(len(bands) == 6 for bands in differences.values())
    assert "autocorrelation times in sweeps: energy" in err
    assert f"needs {manifest.sweeps} sweeps" in err


def test_the_pretrained_models_were_calibrated_band_by_band() -> None:
    for folder in find_bundles().values():
        manifest, sha256 = read_manifest(folder)
        measured = manifest.sweeps_measurement
        assert measured["converged"], manifest.name
        tolerance = measured["tolerance_sigma"]
        # 0.2 is what a training measures, 0.1 what ``qshower calibrate`` does.
        assert tolerance <= (0.1 if manifest.default else 0.2), manifest.name
        assert len(measured["bands_mev"]) == 7
        for sweeps, figures in measured["differences_sigma"].items():
            if int(sweeps) >= manifest.sweeps:
                most = max(abs(difference) for bands in figures.values() for difference in bands)
                assert most + 2 * measured["difference_error_sigma"] <= tolerance, (manifest.name, sweeps)
        if manifest.default:
            readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
            assert f'"model_sha256": "{sha256}"' in readme


def test_the_sweeps_of_a_model_that_was_not_calibrated_are_said_to_be_assumed(
    qshower: Command, environment: pytest.MonkeyPatch, untrained_bundles: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundles" / "test-zephyr"
    shutil.copytree(untrained_bundles / "test-zephyr", folder)
    environment.setenv("QSHOWER_MODEL_FOLDER", str(tmp_path / "bundles"))

    def notes_of(*flags: object) -> list[str]:
        path = tmp_path / "out.hdf5"
        code, _, err = qshower("generate", "--energies-mev", "2000", "--seed", 1, "-o", path, *flags)
        assert code == 0, err
        return [note for note in read(path)[2]["notes"] if "sweeps" in note]

    update_manifest(folder, sweeps_measurement={})
    (note,) = notes_of("--sampler", "gibbs")
    assert note.startswith("32 sweeps were assumed, not measured: the model was not calibrated")
    assert "qshower calibrate --sampler gibbs --model test-zephyr" in note
    assert notes_of("--sampler", "auto") == [note]
    assert notes_of("--sampler", "gibbs", "--sweeps", 32) == []
    assert notes_of("--sampler", "annealing") == []
    update_manifest(folder, sweeps_measurement={"converged": False})
    assert "the last calibration failed" in notes_of("--sampler", "gibbs")[0]
    update_manifest(folder, sweeps_measurement={"tolerance_sigma": 0.1})
    assert notes_of("--sampler", "gibbs") == []


def test_a_model_on_which_ramps_fail_keeps_its_sweeps_and_says_so(
    qshower: Command, environment: pytest.MonkeyPatch, untrained_bundles: Path, tmp_path: Path
) -> None:
    """A ferromagnet: ramps of all lengths agree on how many chains freeze the wrong way up, and all are wrong."""
    easy = load_bundle(untrained_bundles / "test-zephyr")
    machine = easy.machine
    held = (machine.partitions[machine.edges] == 0).any(axis=1)
    hard = machine.with_parameters(
        np.full(machine.node_count, -0.04, np.float32), np.where(held, 0.0, -0.8).astype(np.float32)
    )
    folder = tmp_path / "bundles" / "test-zephyr"
    folder.parent.mkdir()
    save_bundle(folder, easy.manifest, hard, easy.decoder_tensors())
    before = (folder / "manifest.json").read_bytes()
    environment.setenv("QSHOWER_MODEL_FOLDER", str(tmp_path / "bundles"))
    for flags in (("--no-save",), ()):
        code, table, err = qshower("calibrate", "--tolerance", 0.5, *flags)
        assert code == 1
        assert "yes" not in table
        assert err.count("\n") == 1
        assert err.startswith("qshower: ramps of test-zephyr do not converge within 1024 sweeps: ")
        assert "parallel tempering" in err
        assert "--sampler tempering" in err
        assert (before == (folder / "manifest.json").read_bytes()) == bool(flags)
    failed = load_bundle(folder)
    assert failed.default_sweeps == easy.default_sweeps
    assert not failed.sweeps_measured
    assert not failed.manifest.sweeps_measurement["converged"]
    assert failed.manifest.sweeps_measurement["differences_sigma"].keys() >= {"8", "1024"}


def test_training_measures_the_sweeps_at_its_end(
    qshower: Command, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    energies = np.exp(rng.uniform(np.log(1e3), np.log(1e5), 60))
    showers = rng.gamma(0.5, size=(60, named_geometry("1-photons").voxel_count)) * energies[:, None] / 200
    write_showers(tmp_path / "toy.hdf5", energies, showers.astype(np.float32))
    (tmp_path / "toy.yaml").write_text(
        "{name: toy, output: out, data: {files: [{path: toy.hdf5}], geometry: 1-photons, domain_mev: [1000, 100000]},"
        " latent: {nodes_per_partition: 20, levels: 8}, network: {symmetry: none, trunk: 8, layer_code: 4,"
        " layer_hidden: 8, encoder_hidden: 8, level_hidden: 8},"
        " schedule: {batch: 16, autoencoder_steps: 2, prior_steps: 1, chains: 16, chain_sweeps: 1, prior_batch: 16}}"
    )
    code, _, err = qshower("train", tmp_path / "toy.yaml")
    assert code == 0, err
    bundle = load_bundle(tmp_path / "out" / "toy")
    assert bundle.sweeps_measured
    assert bundle.default_sweeps in (8, 16, 32)
    measured = bundle.manifest.sweeps_measurement
    assert (measured["tolerance_sigma"], measured["converged"]) == (0.5, True)
    # Where nothing can be measured the bundle is written all the same, and says so.
    environment.setattr("qshower.sampler.tempering.MOST_REPLICAS", 1)
    code, _, err = qshower("train", tmp_path / "toy.yaml")
    assert code == 0, err
    bundle = load_bundle(tmp_path / "out" / "toy")
    assert not bundle.sweeps_measured
    assert bundle.default_sweeps == 1024
    assert "weaker couplings" in bundle.manifest.sweeps_measurement["reason"]


def test_the_emulator_serves_until_it_is_told_to_stop() -> None:
    command = [
        sys.executable,
        "-m",
        "qshower.service.cli",
        "emulator",
        "--topology",
        "zephyr:2",
        "--fault",
        "slow_queue:1",
    ]
    bad = subprocess.run([*command, "--defects", "2"], capture_output=True, text=True, timeout=60)
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
    with subprocess.Popen(command[:-2], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
