"""The benchmark of the service starts one, asks it, and keeps its figures beside the others."""

import json
from pathlib import Path

import pytest

from benchmarks.service import main


def test_it_measures_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "latest.json"
    output.write_text('{"gibbs": []}')
    assert main(["--showers", "40", "--repeats", "1", "-o", str(output)]) == 0
    report = json.loads(output.read_text())
    assert report["gibbs"] == []
    assert [row["format"] for row in report["service"]["rows"]] == ["arrow", "hdf5", "npz"]
    for row in report["service"]["rows"]:
        assert row["showers"] == 40
        assert row["answer_bytes"] > 40 * 8
        assert row["wall_s"] > 0
        # Requests without a seed are served from the latent cache; what they wait for is the decoder.
        assert row["decode_wall_s"] > 0
    assert "showers/CPU s" in capsys.readouterr().out
