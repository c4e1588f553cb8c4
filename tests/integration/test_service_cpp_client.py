"""The C++ client: compiled by two compilers with warnings as errors, against the service and servers that misbehave."""

import contextlib
import io
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray

from qshower.client import Client, Showers
from qshower.model.bundle import find_bundles, load_bundle
from qshower.model.geometry import named_geometry
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue
from qshower.service.settings import load_settings
from tests.polling import START_PATIENCE_S, until

ROOT = Path(__file__).parents[2]
COMPILERS = ("g++", "clang++")
FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
PROGRAM = r"""
#include <cmath>
#include <fstream>
#include <iostream>
#include "qshower.hpp"
void tell(const qshower::Error& error) {
  static const char* const kinds[] = {"argument", "connection", "incomplete", "bad_answer", "refused", "stopped"};
  std::cout << kinds[static_cast<int>(error.kind)] << "|" << error.status << "|" << error.type << "|"
            << error.retry_after_s << "|" << error.message << "\n";
}
int main(int, char** argument) {
  qshower::Options options{argument[1]};
  if (std::string(argument[2]) != "-") options.urls.push_back(argument[2]);
  options.api_key = "key";
  options.longest_wait_s = std::atof(argument[3]);
  qshower::Client client(options);
  qshower::Request request;
  request.showers_per_energy = 2;
  request.sampler = argument[4];
  request.seed = 18446744073709551615ULL;
  const std::vector<double> energies = {1000.0, std::atof(argument[5])};
  if (std::string(argument[6]) == "dry run") {
    request.incident_energies_mev = energies;
    request.timeout_s = 60;
    const qshower::Result<qshower::Estimate> one = client.estimate(request);
    if (!one) {
      tell(one.error());
    } else {
      std::cout << one->model << "|" << one->solver << "|" << one->graph_id << "|" << one->access_time_us << "|"
                << one->calibration_us << "|" << one->problems << "|" << one->reads << "|" << one->conditions << "|"
                << one->copies << "|" << one->missing_qubits << "|" << one->cached << "\n";
    }
    return 0;
  }
  if (std::string(argument[6]).rfind("stream ", 0) == 0) {
    std::ofstream file(argument[6] + 7, std::ios::binary);
    request.incident_energies_mev = {1000.0, 2000.0, 3000.0};
    request.showers_per_energy = 400;
    const std::size_t stop_at = static_cast<std::size_t>(std::atof(argument[5]));
    std::size_t batches = 0;
    const qshower::Result<qshower::StreamEnd> end = client.stream(request, [&](const qshower::Batch& batch) {
      ++batches;
      if (batch.incident_energies_mev[0] != 1000.0 * (1.0 + std::floor(double(batch.first) / 400))) return false;
      file.write(reinterpret_cast<const char*>(batch.row(0)),
                 static_cast<std::streamsize>(batch.count * batch.voxels * sizeof(float)));
      return stop_at == 0 || batch.first + batch.count < stop_at;
    });
    if (!end) {
      tell(end.error());
    } else {
      std::cout << end->count << " " << batches << " " << end->provenance << "\n";
    }
    return 0;
  }
  request.options_json = request.sampler == "gibbs" ? "{\"sweeps\": 8}" : "";
  std::cout.precision(17);
  for (int repeat = 0; repeat < 2; ++repeat) {
    for (double energy : energies) client.collect(energy);
    const qshower::Result<qshower::Showers> showers = client.flush(request);
    if (!showers) {
      tell(showers.error());
      if (client.collected() != 2) return 1;
      client.discard();
      continue;
    }
    if (client.collected() != 0 || !client.flush()) return 1;
    std::ofstream file(argument[6], std::ios::binary);
    file.write(reinterpret_cast<const char*>(showers->row(0)),
               static_cast<std::streamsize>(showers->showers_mev.size() * sizeof(float)));
    const qshower::Result<std::vector<qshower::VoxelCentre>> centres = qshower::voxel_centres(showers->geometry);
    if (!centres) {
      tell(centres.error());
      continue;
    }
    const qshower::VoxelCentre& last = centres->back();
    std::cout << "ok " << showers->count << " " << showers->voxels << " " << showers->incident_energies_mev[3] << " "
              << last.layer << " " << last.x_mm << " " << last.y_mm << " " << showers->provenance << "\n";
  }
}
"""
EVENT = r"""
#include <fstream>
#include "geant4_shower_model.hh"
struct Detector : G4VSensitiveDetector {
  std::ofstream file;
  G4bool ProcessHits(G4Step* step, G4TouchableHistory*) override {
    const G4ThreeVector& at = step->GetPreStepPoint()->GetPosition();
    const double deposit[4] = {step->GetTotalEnergyDeposit(), at.x(), at.y(), at.z()};
    file.write(reinterpret_cast<const char*>(deposit), sizeof deposit);
    return true;
  }
};
int main(int, char** argument) {
  Detector detector;
  detector.file.open(argument[2], std::ios::binary);
  G4VPhysicalVolume world;
  world.logical.detector = &detector;
  G4TransportationManager::GetTransportationManager()->GetNavigatorForTracking()->SetWorldVolume(&world);
  G4RunManager::GetRunManager()->event.id = 7;
  G4Region region;
  QShowerModel model("qshower", &region, qshower::Options{argument[1]}, 3.4 * CLHEP::mm);
  if (!model.IsApplicable(*G4Electron::Definition()) || model.IsApplicable(G4ParticleDefinition())) return 1;
  const G4Track tracks[] = {{2000, {0, 800, 0}, {0, 1, 0}}, {5, {0, 800, 0}, {0, 1, 0}}, {65536, {1, 2, 3}, {0, 0, 1}}};
  for (const G4Track& track : tracks) {
    G4FastTrack fast(track);
    G4FastStep step;
    if (!model.ModelTrigger(fast)) continue;
    model.DoIt(fast, step);
    if (!step.killed) return 1;
  }
  model.Flush();
  model.Flush();
}
"""

Build = Callable[..., Path]


Asked = tuple[list[str], NDArray[np.float32] | None]


class Ask(Protocol):
    """Runs the program: its two lines, and the showers that it wrote last."""

    def __call__(
        self, url: str, *, second: str = "-", wait_s: float = 0, sampler: str = "gibbs", energy: float = 65536.0
    ) -> Asked: ...


@pytest.fixture(scope="module", params=COMPILERS)
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiles a program: its path."""
    compiler = shutil.which(request.param)
    if compiler is None:
        pytest.skip(f"no {request.param} on this machine")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "probe.cpp").write_text("#include <curl/curl.h>\nint main() {}\n")
    if subprocess.run(
        [compiler, folder / "probe.cpp", "-o", folder / "probe", "-lcurl"], capture_output=True
    ).returncode:
        pytest.skip(f"{request.param} finds no libcurl with its headers (Debian: libcurl4-openssl-dev)")

    def compiled(name: str, source: str, *more: str | Path) -> Path:
        (folder / f"{name}.cpp").write_text(source)
        command = [
            compiler,
            *FLAGS,
            f"-I{ROOT / 'client'}",
            *more,
            folder / f"{name}.cpp",
            "-o",
            folder / name,
            "-lcurl",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return folder / name

    return compiled


@pytest.fixture(scope="module")
def program(build: Build) -> Path:
    return build("main", PROGRAM, "-fno-exceptions")


@pytest.fixture
def ask(program: Path, tmp_path: Path) -> Ask:
    def run(
        url: str, *, second: str = "-", wait_s: float = 0, sampler: str = "gibbs", energy: float = 65536.0
    ) -> Asked:
        output = tmp_path / "showers.bin"
        command: list[str | Path] = [program, url, second, str(wait_s), sampler, str(energy), output]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines(), np.fromfile(output, dtype=np.float32) if output.exists() else None

    return run


@pytest.fixture
def ask_cost(program: Path) -> Callable[[str, str], str]:
    def run(url: str, sampler: str) -> str:
        command: list[str | Path] = [program, url, "-", "0", sampler, "65536", "dry run"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.rstrip("\n")

    return run


@pytest.fixture(scope="module")
def url(untrained_bundles: Path) -> Iterator[str]:
    with served(untrained_bundles, qpu="off") as address:
        yield address


@contextmanager
def served(folder: Path, **settings: Any) -> Iterator[str]:
    """The address of a running service."""
    bundles = {name: load_bundle(path) for name, path in find_bundles(folder).items()}
    app = create_app(load_settings(**settings), load_models=lambda _: Catalogue(bundles, "test-zephyr"))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started or not thread.is_alive(), patience_s=START_PATIENCE_S)
    assert server.started
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """An address where each connection gets the next of some answers, the last one again and again."""
    listener = socket.create_server(("127.0.0.1", 0))
    answers: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # A client that has seen enough may go before the rest is sent, or read.
            with connection, contextlib.suppress(OSError):
                connection.settimeout(60)
                connection.recv(65536)
                connection.sendall(answers.pop(0) if len(answers) > 1 else answers[0])
                # What is closed with a part of the request unread is reset, and the answer with it.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()

    def start(*given: bytes) -> str:
        answers[:] = given
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def http(body: bytes, kind: str = "application/x-npz", status: str = "200 OK", more: str = "", over: int = 0) -> bytes:
    """An answer that announces ``over`` bytes more than there are."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body) + over}\r\n{more}"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def npz(rows: int = 4, **more: Any) -> bytes:
    buffer = io.BytesIO()
    showers = np.ones((rows, 2), dtype=np.float32)
    np.savez(buffer, incident_energies_mev=np.ones(rows), showers_mev=showers, **more)
    return buffer.getvalue()


def python_showers(url: str) -> Showers:
    with Client(url) as client:
        energies, seed = [1000.0, 65536.0], 2**64 - 1
        return client.generate(energies, showers_per_energy=2, sampler="gibbs", seed=seed, options={"sweeps": 8})


def test_it_gets_the_showers_that_python_gets(ask: Ask, url: str) -> None:
    lines, showers = ask(url)
    assert showers is not None
    assert np.array_equal(showers.reshape(4, 6480), python_showers(url).showers_mev)
    geometry = named_geometry("2")
    for line in lines:
        word, count, voxels, energy, layer, x_mm, y_mm, provenance = line.split(" ", 7)
        assert (word, count, voxels, energy, layer) == ("ok", "4", "6480", "65536", "44")
        assert (float(x_mm), float(y_mm)) == pytest.approx((geometry.x_mm()[-1], geometry.y_mm()[-1]), rel=1e-12)
        assert json.loads(provenance)["seed"] == 2**64 - 1
    assert len(lines) == 2


def test_the_program_of_the_page(build: Build, url: str) -> None:
    page = (ROOT / "docs" / "cpp-client.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```cpp\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    showers = build("page", code.replace("http://127.0.0.1:8000", url))
    done = subprocess.run([showers], capture_output=True, text=True, timeout=120, check=True)
    with Client(url) as client:
        expected = client.generate([1000.0, 65536.0], sampler="gibbs", seed=1).showers_mev.sum(axis=1)
    assert [float(line) for line in done.stdout.split()] == pytest.approx(expected.tolist(), rel=1e-5)


def test_streams_are_read_as_they_come(program: Path, url: str, tmp_path: Path) -> None:
    output = tmp_path / "stream.bin"
    command: list[str | Path] = [program, url, "-", "0", "gibbs", "0", f"stream {output}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    count, batches, provenance = done.stdout.split(" ", 2)
    assert int(count) == 1200
    assert int(batches) > 2
    assert json.loads(provenance)["sampler"] == "gibbs"
    with Client(url) as client:
        expected = client.generate([1e3, 2e3, 3e3], showers_per_energy=400, sampler="gibbs", seed=2**64 - 1).showers_mev
    assert np.array_equal(np.fromfile(output, dtype=np.float32).reshape(1200, 6480), expected)
    command[5] = "100"
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "stopped|0||-1|stopped\n"
    assert 100 * 4 * 6480 <= output.stat().st_size < 1200 * 4 * 6480


def test_geant4_gets_its_deposits_in_one_request(build: Build, url: str, tmp_path: Path) -> None:
    """Against declarations of our own in the place of Geant4's headers: see geant4_declarations.hh."""
    model = (ROOT / "docs" / "examples" / "geant4_shower_model.hh").read_text(encoding="utf-8")
    headers = tmp_path / "geant4"
    for name in re.findall(r'#include "((?:G4|CLHEP/)[\w/]+\.h+)"', model):
        (headers / name).parent.mkdir(parents=True, exist_ok=True)
        (headers / name).write_text('#include "geant4_declarations.hh"\n')
    folders = [f"-I{folder}" for folder in (headers, Path(__file__).parent, ROOT / "docs" / "examples")]
    event = build("event", EVENT, *folders)
    done = subprocess.run([event, url, tmp_path / "deposits.bin"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")
    with Client(url) as client:
        expected = client.generate([2000.0, 65536.0], sampler="gibbs", seed=7).showers_mev
    geometry = named_geometry("2")
    x_mm, y_mm = geometry.x_mm(), geometry.y_mm()
    z_mm = np.repeat((np.arange(45) + 0.5) * 3.4, 144)
    # Along y at azimuth pi/2: growing pseudorapidity is +z, growing azimuth is -x.
    first = np.stack([expected[0], -y_mm, 800 + z_mm, x_mm], axis=1)[expected[0] > 0]
    # Along the beam azimuth has no meaning; the frame is that of x and -y.
    second = np.stack([expected[1], 1 + x_mm, 2 - y_mm, 3 + z_mm], axis=1)[expected[1] > 0]
    deposits = np.fromfile(tmp_path / "deposits.bin").reshape(-1, 4)
    assert deposits == pytest.approx(np.concatenate([first, second]), rel=1e-12, abs=1e-9)
    assert np.array_equal(deposits[:, 0].astype(np.float32), expected[expected > 0])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = subprocess.run([event, nobody, tmp_path / "none.bin"], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(f"aborted QShowerModel::Flush {nobody}: ")
    assert (tmp_path / "none.bin").stat().st_size == 0


def test_its_dry_run_is_python_s(
    ask_cost: Callable[[str, str], str], untrained_bundles: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with EmulatorServer(EmulatorConfig(topology="zephyr:6", sweeps=16, seed=5)) as emulator:
        monkeypatch.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
        monkeypatch.setenv("DWAVE_API_TOKEN", "any")
        with served(untrained_bundles, qpu_state_folder=tmp_path) as url:
            told = ask_cost(url, "qpu").split("|")
            with Client(url) as client:
                expected = client.estimate([1000.0, 65536.0], showers_per_energy=2, seed=2**64 - 1)
            assert ask_cost(url, "gibbs").startswith("refused|422|urn:qshower:invalid-value|-1|")
        assert emulator.backend.state()["submitted"] == 0
    assert told[:3] == [expected.model, expected.solver, expected.graph_id]
    assert [float(value) for value in told[3:]] == pytest.approx(astuple(expected)[3:], rel=1e-5)
    assert expected.access_time_us > expected.calibration_us > 0


def test_it_survives_bad_answers_to_a_dry_run(
    ask_cost: Callable[[str, str], str], answering: Callable[..., str]
) -> None:
    numbers = {"access_time_us": 1.5e3, "calibration_us": 0.0}
    counts = dict.fromkeys(("problems", "reads", "conditions", "copies", "missing_qubits", "cached"), 3)
    whole: dict[str, dict[str, Any]] = {
        "estimate": {"model": 'a "b" \\ \u00e9 \U0001f600', "solver": "S", "graph_id": "g", **numbers, **counts}
    }

    def told(text: str) -> str:
        return ask_cost(answering(http(text.encode(), "application/json")), "qpu")

    plain, nested = json.dumps(whole), json.dumps({"a": [{}, []], **whole})
    for text in (plain, nested, json.dumps(whole, ensure_ascii=False, indent=1)):
        assert told(text) == 'a "b" \\ \u00e9 \U0001f600|S|g|1500|0|3|3|3|3|3|3'
    for cut in range(0, len(plain), 11):
        assert told(plain[:cut]).startswith("bad_answer|")
    for name, value in (("reads", "many"), ("reads", -1), ("reads", 1.5), ("access_time_us", "a"), ("cached", None)):
        wrong = {"estimate": {**whole["estimate"], name: value}}
        assert told(json.dumps(wrong)).startswith("bad_answer|"), (name, value)
    for name in whole["estimate"]:
        lacking = {other: value for other, value in whole["estimate"].items() if other != name}
        assert told(json.dumps({"estimate": lacking})) == f"bad_answer|0||-1|the estimate holds no {name}"
    assert told("[" * 100_000).startswith("bad_answer|")


def test_it_tells_a_refusal(ask: Ask, url: str) -> None:
    lines, _ = ask(url, energy=5.0)
    assert len(lines) == 2
    for line in lines:
        start = "refused|422|urn:qshower:invalid-value|-1|HTTP 422: incident_energies_mev[1]: 5.0 is not allowed; "
        assert line.startswith(start)


def test_what_cannot_be_sent_is_an_error(ask: Ask, url: str) -> None:
    assert ask(url, energy=float("nan"))[0] == ["argument|0||-1|an incident energy is not finite"] * 2


def test_it_survives_bad_answers(ask: Ask, answering: Callable[..., str]) -> None:
    text = np.array("{}")
    whole = npz(geometry=text, provenance=text)
    compressed = io.BytesIO()
    np.savez_compressed(compressed, showers_mev=np.ones((4, 2), dtype=np.float32))
    cases = {
        "incomplete|0||-1|": http(whole, over=1),
        "connection|0||-1|": b"SSH-2.0-none\r\n\r\n",
        "bad_answer|0||-1|the answer's npz file is compressed": http(compressed.getvalue()),
        "bad_answer|0||-1|the answer lacks energies": http(npz()),
        "incomplete|0||-1|the answer holds another number": http(npz(3, geometry=text, provenance=text)),
        "bad_answer|0||-1|the geometry has no layers": http(whole),
        "incomplete|0||-1|the answer is cut short": http(whole[: len(whole) // 2]),
        "bad_answer|0||-1|the answer is no npz file": http(whole[len(whole) // 2 :]),
        "bad_answer|0||-1|asked for application/x-npz, got text/html": http(whole, "text/html"),
        "refused|503||7|HTTP 503: {}": http(b"{}", status="503 Busy", more="Retry-After: 7\r\n"),
    }
    for said, answer in cases.items():
        lines, _ = ask(answering(answer))
        assert [line.startswith(said) for line in lines] == [True, True], (said, lines)


def test_it_waits_as_long_as_it_is_told(ask: Ask, answering: Callable[..., str]) -> None:
    text = np.array("{}")
    busy = http(b"{}", status="429 Busy", more="Retry-After: 1\r\n")
    lines, _ = ask(answering(busy, http(npz(geometry=text, provenance=text))), wait_s=1)
    assert [line.split("|")[-1] for line in lines] == ["the geometry has no layers"] * 2, "the answer after the wait"


def test_a_second_service_takes_what_the_first_does_not(ask: Ask, answering: Callable[..., str], url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    expected = python_showers(url).showers_mev.ravel()
    for first in (nobody, answering(http(b"{}", status="503 Off"))):
        lines, showers = ask(first, second=url + "/")
        assert [line[:2] for line in lines] == ["ok", "ok"]
        assert showers is not None
        assert np.array_equal(showers, expected)
    lines, _ = ask(nobody, second=nobody)
    assert lines[0].startswith(f"connection|0||-1|{nobody}: ")
    assert lines[0].count(nobody) == 2


def test_a_lost_request_goes_on_only_if_it_costs_nothing(ask: Ask, answering: Callable[..., str], url: str) -> None:
    lost = answering(b"")
    assert [line[:2] for line in ask(lost, second=url)[0]] == ["ok", "ok"]
    assert [line.split("|")[0] for line in ask(lost, second=url, sampler="auto")[0]] == ["connection"] * 2
