"""Small figures."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from qshower.evaluation.svg import Axis, Cells, ColourScale, heat_figure, histogram_figure, line_figure, sheet


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
    two = Cells("layer", ["0", "1"])
    for text in (
        heat(values),
        heat_figure("h", np.zeros((2, 2)), ColourScale(0, 0, "nats"), two, two),
        line_figure("l", "x", np.arange(5.0), [np.arange(5.0), np.zeros(5)], log_y=True),
        line_figure("l", "x", np.array([2.0]), [np.array([1.0])]),
    ):
        ET.fromstring(text)  # noqa: S314  our own text
        assert "nan" not in text


def heat(values: np.ndarray, **scale: bool) -> str:
    rows, columns = (
        Cells(name, [f"a long {name} {k}" for k in range(n)]) for name, n in zip("rc", values.shape, strict=True)
    )
    return heat_figure("h", values, ColourScale(-1, 1, "MeV", **scale), columns, rows)


def texts_of(drawing: str) -> set[str]:
    return {element.text or "" for element in ET.fromstring(drawing).findall(".//{*}text")}  # noqa: S314  our own text


def cells_of(text: str) -> dict[tuple[int, int], str]:
    """The colour of each cell of a matrix's figure."""
    found = {}
    group = ET.fromstring(text).find("{*}g")  # noqa: S314  our own text
    assert group is not None
    for path in group:
        for x, y, run, back in re.findall(r"M(\d+) (\d+)h(\d+)v1h(-\d+)z", path.attrib["d"]):
            assert int(back) == -int(run)
            for column in range(int(x), int(x) + int(run)):
                assert (int(y), column) not in found
                found[int(y), column] = path.attrib["fill"]
    return found


def test_a_matrix_has_each_cell_once_in_the_colour_of_its_value() -> None:
    values = np.array([[-1.0, -1.0, np.nan, 1.0], [0.0, 5.0, 5.0, -5.0]])
    cells = cells_of(heat(values, diverging=True))
    assert set(cells) == {(r, c) for r in range(2) for c in range(4)} - {(0, 2)}
    low, high = cells[0, 0], cells[0, 3]
    assert low != high
    assert [cells[0, 1], cells[1, 1], cells[1, 2], cells[1, 3]] == [low, high, high, low]
    assert cells[1, 0] not in (low, high)


def test_a_colour_bar_has_values_and_a_unit() -> None:
    assert {"MeV", "-1", "0", "1", "r", "c"} <= texts_of(heat(np.eye(3)))
    assert {"MeV", "0.1", "1", "10"} <= texts_of(heat(np.eye(3), decades=True))
    assert max(map(len, texts_of(heat(np.eye(3))))) <= 8


def path_of(d: str) -> list[tuple[float, float]]:
    """The corners of a path of M, h, v and z."""
    x = y = 0.0
    points = []
    for letter, numbers in re.findall(r"([Mhvz])([-\d. ]*)", d):
        values = [float(value) for value in numbers.split()]
        if letter == "M":
            x, y = values
        elif letter == "h":
            x += values[0]
        elif letter == "v":
            y += values[0]
        points.append((round(x, 3), round(y, 3)))
    return points


def test_the_steps_of_a_histogram_are_its_counts() -> None:
    """In paths of relative strokes, which must not add up their rounding errors."""
    edges = np.linspace(0.0, 1.0, 8)
    counts = np.array([0.0, 3.0, 3.0, 7.0, 1.0, 1.0, 2.0])
    text = histogram_figure("h", "x", edges, counts, [counts])
    found = [re.search(rf'd="([^"]*)" {end}', text) for end in ('fill="#c9ced6"/', 'fill="none"')]
    filled, sample = (path_of(match[1]) for match in found if match)
    assert filled[0] == (46.0, 168.0)
    assert filled[-1] == (332.0, 168.0)
    top = 168 - (168 - 20) / 1.08
    heights = [168 - round(10 * (168 - top) * count / 7) / 10 for count in counts]
    assert sorted({y for _, y in sample}) == pytest.approx(sorted(set(heights)), abs=0.1)
    places = [46 + 286 * edge for edge in edges]
    assert {round(x, 1) for x, _ in sample} == {round(place, 1) for k, place in enumerate(places) if k not in (2, 5)}


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
