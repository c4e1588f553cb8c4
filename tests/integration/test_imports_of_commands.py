"""What a command loads: torch, numba, Ocean, scikit-learn and FastAPI only where it needs them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qshower.model.geometry import named_geometry
from qshower.model.showers_writer import write_showers

HEAVY = ("torch", "numba", "llvmlite", "scipy", "sklearn", "dwave", "dimod", "fastapi", "uvicorn", "pyarrow")
NOBODY = "http://127.0.0.1:9"
LOADS: dict[str, tuple[list[str], set[str]]] = {
    "--version": (["--version"], set()),
    "--help": (["--help"], set()),
    "samplers": (["samplers"], set()),
    "samplers --json": (["samplers", "--json"], set()),
    "samplers --url": (["samplers", "--url", NOBODY], set()),
    "inspect a file": (["inspect", "showers.hdf5"], set()),
    "inspect nothing": (["inspect", "nofile.hdf5"], set()),
    "inspect a bundle": (["inspect", "electron-zephyr"], set()),
    "export": (["export", "showers.hdf5", "--to", "showerdata", "-o", "clouds.h5"], set()),
    "generate --url": (["generate", "--energies-mev", "2000", "-o", "o.hdf5", "--url", NOBODY], set()),
    "generate, wrong": (["generate", "--energies-mev", "-1", "-o", "o.hdf5"], set()),
    "generate": (
        ["generate", "--energies-mev", "2000", "--sampler", "gibbs", "-o", "o.hdf5"],
        {"numba", "llvmlite", "scipy"},
    ),
    "bank draw": (
        ["bank", "draw", "--energies-mev", "2000", "--sweeps", "4", "-o", "bank.hdf5"],
        {"numba", "llvmlite", "scipy"},
    ),
    "bank info": (["bank", "info", "nofile.hdf5"], set()),
    "train nothing": (["train", "nofile.yaml"], set()),
    "evaluate nothing": (["evaluate", "nofile.hdf5", "none.hdf5", "-o", "report"], set()),
    "calibrate, wrong": (["calibrate", "--sampler", "nothing"], {"numba", "llvmlite", "scipy"}),
}
"""A command, and what it may load of ``HEAVY``."""

SCRIPT = """
import sys
from qshower.service.cli import main
sys.argv = ["qshower", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
print(*(name for name in {heavy} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("command", LOADS)
def test_a_command_loads_only_what_it_needs(environment: pytest.MonkeyPatch, tmp_path: Path, command: str) -> None:
    arguments, allowed = LOADS[command]
    environment.chdir(tmp_path)
    voxels = named_geometry("1-photons").voxel_count
    write_showers(tmp_path / "showers.hdf5", np.full(3, 2000.0), np.ones((3, voxels), dtype=np.float32))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(heavy=HEAVY), *arguments], capture_output=True, text=True, check=True
    )
    *said, last = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert set(last.split()) <= allowed, said


def test_the_qpu_is_told_of_without_ocean(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("QSHOWER_QPU", "off")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(heavy=HEAVY), "samplers"], capture_output=True, text=True, check=True
    )
    assert "DWAVE_API_TOKEN" in done.stdout
    assert done.stderr == "\n"
