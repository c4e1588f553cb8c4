"""Small figures."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pytest

from qshower.evaluation.svg import Axis, heat_figure, histogram_figure, line_figure, sheet


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("log_x", [False, True])
def test_histograms_are_well_formed_drawings(log_x: bool, log_y: bool, rng: np.random.Generator) -> None:
    edges = np.geomspace(0.01, 1e4, 40) if log_x else np.linspace(-3, 3, 40)
    reference, sample = rng.poisson(20.0, 39).astype(float), rng.poisson(20.0, 39).astype(float)
    reference[:3] = sample[5] = 0
    text = histogram_figure("a < b & c", "x [mm]", edges, reference, [sample, np.zeros(39)], log_x=log_x, log_y=log_y)
    root = ET.fromstring(text)  # noqa: S314  our own text
    assert root.attrib["aria-label"] == "a < b & c"
    assert "nan" not in text
    assert "inf" not in text
    paths = [element.attrib["d"] for element in root.iter() if element.tag.endswith("path") and "d" in element.attrib]
    assert len(paths) >= 6


def test_other_drawings_are_well_formed(rng: np.random.Generator) -> None:
    values = rng.normal(size=(5, 4))
    values[0, 0] = np.nan
    for text in (
        heat_figure("h", values, -1, 1, diverging=True),
        heat_figure("h", np.zeros((2, 2)), 0, 0, diverging=False),
        line_figure("l", "x", np.arange(5.0), [np.arange(5.0), np.zeros(5)], log_y=True),
        line_figure("l", "x", np.array([2.0]), [np.array([1.0])]),
    ):
        ET.fromstring(text)  # noqa: S314  our own text
        assert "nan" not in text
    assert heat_figure("h", values, -1, 1, diverging=True).count("<rect") == 19


def test_axes_map_and_round() -> None:
    axis = Axis(0.5, 1.5, 0, 100)
    assert axis(np.array([0.5, 1.0, 1.5, 9.0])).tolist() == [0, 50, 100, 100]
    assert axis.ticks() == pytest.approx([0.6, 0.8, 1.0, 1.2, 1.4])
    assert Axis(0.01, 1e4, 0, 60, log=True)(np.array([1.0])).tolist() == pytest.approx([20])
    assert len(Axis(1e-8, 1e8, 0, 1, log=True).ticks()) <= 6


def test_a_sheet_holds_its_figures() -> None:
    one = line_figure("a & b", "x", np.arange(3.0), [np.arange(3.0)])
    root = ET.fromstring(sheet([one] * 5, columns=3))  # noqa: S314  our own text
    inner = [element for element in root if element.tag.endswith("svg")]
    assert [element.attrib["x"] for element in inner] == ["0", "340", "680", "0", "340"]
    assert len({(element.attrib["x"], element.attrib["y"]) for element in inner}) == 5
