"""The statistical checks of a run are counted over all of its processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = """
import pytest

@pytest.mark.parametrize("share", [0.5, 0.25])
def test_some(judge, share):
    judge({{str(number): share for number in range({each})}})
"""


@pytest.mark.parametrize("processes", ["0", "2"])
@pytest.mark.parametrize(("each", "status", "said"), [(500, 0, ""), (501, 1, "more than the 1000")])
def test_checks_of_all_processes_count(tmp_path: Path, each: int, status: int, said: str, processes: str) -> None:
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE.format(each=each), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.judge", "-n", processes, "-c", os.devnull, str(suite)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    assert f"statistical checks: {2 * each} judged, smallest p-value 2.5e-01" in done.stdout
    assert said in done.stdout
