"""Compiled code that is kept on disk is that of today's sources."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLED = "from qshower.sampler.jit.kernel import kernel\n\n\n@kernel()\ndef number():\n    return {}\n"
CALLING = """import sys

from inner import number
from qshower.sampler.jit.kernel import kernel


@kernel()
def outer():
    return number() + 1


print(outer(), sum(outer.stats.cache_misses.values()))
"""


def test_a_change_in_what_a_kernel_calls_is_seen(tmp_path: Path) -> None:
    """Two processes share what is compiled; a third, with another constant in the other file, does not."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[4])])
    (tmp_path / "outer.py").write_text(CALLING)

    def answer() -> str:
        command = [sys.executable, str(tmp_path / "outer.py")]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "inner.py").write_text(CALLED.format(1))
    assert answer() == "2 1"
    assert answer() == "2 0"
    (tmp_path / "inner.py").write_text(CALLED.format(41))
    assert answer() == "42 1"


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--energies-mev", "2000", "--sampler", "gibbs", "-o", "out.hdf5"],
        ["generate", "--energies-mev", "2000", "--sampler", "annealing", "-o", "out.hdf5"],
        ["bank", "draw", "--energies-mev", "2000", "-o", "bank.hdf5"],
        ["serve", "--port", "0"],
        ["emulator"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_without_its_compiler_a_command_says_so(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qshower.service.cli", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QSHOWER_", "DWAVE_"))}
    environment = {**kept, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(Path(__file__).parents[4])}
    done = subprocess.run(command, env=environment, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last == "qshower: NUMBA_DISABLE_JIT switches the compiler off that samplers and decoders need; unset it"
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
