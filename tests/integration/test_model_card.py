"""The model card of a bundle: its figures are those of the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.evaluation.model_card import main, write_card
from qshower.evaluation.report import Choices, evaluate
from qshower.model.bundle import load_bundle
from qshower.model.geometry import named_geometry
from qshower.model.showers_writer import write_showers
from qshower.sampler.errors import InvalidInputError

Toy = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]


@pytest.fixture
def bundle_folder(untrained_bundles: Path, tmp_path: Path) -> Path:
    """A bundle that a test may write to, with the training that a card tells of."""
    folder = tmp_path / "test-zephyr"
    shutil.copytree(untrained_bundles / "test-zephyr", folder)
    return folder


def test_a_card_shows_the_figures_of_the_report(
    bundle_folder: Path, toy_showers: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("geant4", 1), ("mine", 2)):
        write_showers(tmp_path / f"{name}.hdf5", *toy_showers(named_geometry("2"), 60, seed))
    written = evaluate(
        tmp_path / "geant4.hdf5", [tmp_path / "mine.hdf5"], tmp_path / "report", Choices(quick=True, classifiers=False)
    )
    main([str(bundle_folder), str(written.report)])
    told = json.loads(capsys.readouterr().out)
    quality = load_bundle(bundle_folder).manifest.quality["evaluation"]
    assert quality == told
    figures, sample = quality["geant4.hdf5"], written.data["samples"][0]
    assert figures["showers"] == 60
    assert figures["FPD"]["value"] == pytest.approx(1e3 * sample["fpd"]["value"], abs=1e-3)
    assert figures["boosted AUC"]["auc"] == pytest.approx(sample["boosted_auc"]["auc"], abs=1e-4)
    card = (bundle_folder / "MODEL_CARD.md").read_text()
    assert "| FPD × 10³ |" in card
    assert "![geant4](geant4.svg)" in card
    ET.parse(bundle_folder / "geant4.svg")  # noqa: S314  our own text


def test_what_is_no_report_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"format": 99}')
    for path in (other, tmp_path / "none.json"):
        with pytest.raises(InvalidInputError, match=path.name):
            write_card(bundle_folder, [path])
