"""``evaluate`` from files to ``index.html`` and ``report.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.evaluation import comparison, report
from qshower.evaluation.classifiers import ClassifierSettings
from qshower.evaluation.comparison import QUICK_SETTINGS
from qshower.evaluation.distances import FpdSettings, KpdSettings
from qshower.evaluation.report import Choices, evaluate
from qshower.model.geometry import named_geometry
from qshower.model.showers_writer import write_showers
from qshower.sampler.errors import InvalidInputError, ShowerFileError

Toy = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]
MakeFile = Callable[..., Path]

PHOTONS = named_geometry("1-photons")


@pytest.fixture(autouse=True)
def _few_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick run with fewer repetitions: what is tested here is the way, not the numbers."""
    fpd, kpd = FpdSettings(repeats=2, points=4), KpdSettings(batches=3)
    tiny = replace(
        QUICK_SETTINGS, fpd=fpd, kpd=kpd, research_fpd=fpd, research_kpd=kpd, neighbour_rows=200, boosted_rows=200,
        classifier=ClassifierSettings(
            hidden=16, layers=2, cnn_width=2, epochs=2, cnn_epochs=1, batch_size=100, cnn_batch_size=50, repeats=2,
            most_rows=300, most_cnn_rows=100,
        ),
    )  # fmt: skip
    monkeypatch.setattr(report, "QUICK_SETTINGS", tiny)
    assert comparison.QUICK_SETTINGS is QUICK_SETTINGS


@pytest.fixture
def make_file(toy_showers: Toy, tmp_path: Path) -> MakeFile:
    def make(name: str, seed: int, count: int = 400, geometry: str = "1-photons", **kwargs: Any) -> Path:
        layout = named_geometry(geometry)
        energies, showers = toy_showers(layout, count, seed)
        if geometry.startswith("1-"):
            energies_of_the_grid = 2.0 ** np.floor(np.log2(energies))
            showers *= (energies_of_the_grid / energies)[:, None].astype(np.float32)
            showers[showers < layout.threshold_mev] = 0
            energies = energies_of_the_grid
        path = tmp_path / f"{name}.hdf5"
        write_showers(path, energies, showers, **kwargs)
        return path

    return make


class Strict(HTMLParser):
    """Tags that are open, and every address a browser would fetch."""

    VOID = frozenset({"meta", "br", "path", "rect", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_whole_report(make_file: MakeFile, tmp_path: Path) -> None:
    provenance = json.dumps({"qpu_access_time_us": 8000.0, "solver": "Advantage2"})
    stages: list[tuple[str, float]] = []
    lines: list[str] = []
    written = evaluate(
        make_file("geant4", 1),
        [make_file("good", 2, attributes={"provenance": provenance}), make_file("small", 3, 200)],
        tmp_path / "out" / "report",
        Choices(quick=True),
        progress=lambda stage, share: stages.append((stage, share)),
        announce=lines.append,
    )
    assert {path.name for path in written.index.parent.iterdir()} == {"index.html", "report.json"}
    data = json.loads(written.report.read_text())
    assert data == json.loads(json.dumps(written.data))
    assert (data["geometry"], data["voxels"], data["quick"]) == ("1-photons", 368, True)
    assert [sample["name"] for sample in data["samples"]] == ["good", "small"]
    for sample in data["samples"]:
        assert set(sample["classifiers"]) == {"low", "low_normalised", "high"}
        for item in sample["classifiers"].values():
            assert {"auc", "auc_error", "auc_spread", "jsd", "rows", "floor", "slices"} <= set(item)
        for key in ("fpd", "kpd", "research_fpd", "research_kpd"):
            assert {"value", "error", "count", "floor"} <= set(sample[key])
            assert sample[key]["floor"]["count"] == 200
        for item in sample["histograms"].values():
            assert item["error"] >= 0
            assert item["floor"] is not None
            assert item["reference_entries"] + item["reference_outside"] > 0
        assert sample["neighbours"]["floor"]["count"] > 0
    assert data["samples"][0]["fpd"]["at_floor_count"]["count"] == 200
    assert data["samples"][0]["qpu"] == {"solver": "Advantage2", "qpu_access_time_us": 8000.0}
    assert data["samples"][1]["qpu"] is None
    assert {warning["code"] for warning in data["samples"][1]["warnings"]} == {"imbalance"}
    assert data["multiclass"]["names"] == ["good", "small"]
    assert data["floor"]["kind"] == "halves"
    assert data["settings"]["classifier"]["hidden"] == 16

    text = written.index.read_text()
    parser = Strict()
    parser.feed(text)
    assert parser.open == []
    assert all(address.startswith("#") for address in parser.fetched)
    assert not re.search(r"url\(|@import|<script|<img|<link", text)
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    words = " ".join(parser.text)
    for phrase in ("How to read it", "floor", "FPD", "QPU access", "mean log-posterior", "200 showers against 400"):
        assert phrase in words
    assert text.count("<svg") > len(data["samples"][0]["histograms"])

    assert len(written.summary) == 4
    assert written.summary[0][1] == "N"
    assert any("FPD" in line and line.startswith("good:") for line in lines)
    assert any("warning" in line for line in lines)
    assert all(0 <= share <= 1 for _, share in stages)
    assert ("good: FPD", 1.0) in stages
    assert ("good: classifier high", 1.0) in stages


def test_dataset_2_has_a_three_dimensional_classifier(make_file: MakeFile, tmp_path: Path) -> None:
    written = evaluate(
        make_file("g", 1, 120, "2"), [make_file("s", 2, 120, "2")], tmp_path / "r", Choices(quick=True, names=["mine"])
    )
    sample = written.data["samples"][0]
    assert sample["name"] == "mine"
    assert set(sample["classifiers"]) == {"low", "low_normalised", "high", "cnn"}
    assert len(sample["histograms"]) == 1 + 2 + 45 * 8 + 1
    assert any("fewer than the 10000 that the published FPD needs" in note for note in sample["notes"])
    assert any("do not have full rank" in note for note in sample["notes"])
    assert_it_reads_well(written.index.read_text(encoding="utf-8"))


def assert_it_reads_well(text: str) -> None:
    """The page of the largest geometry: small, and made for narrow screens as for wide ones."""
    assert len(text.encode()) < 1_200_000
    assert '<meta name="viewport" content="width=device-width,initial-scale=1">' in text
    narrow = text[text.index("@media(max-width:40rem)") : text.index("</style>")]
    assert "thead{display:none}" in narrow
    assert "td[data-label]::before{content:attr(data-label)" in narrow  # so that a row is a card that names its lines
    summary = text[text.index('<section id="summary">') : text.index('<section id="checks">')]
    header, *rows = re.findall(r"<tr>(.*?)</tr>", summary)
    names = re.findall(r"<th>(.*?)</th>", header)
    assert {"FPD × 10³", "AUC boosted"} <= set(names)
    for row in rows:
        assert ["", *re.findall(r'data-label="(.*?)"', row)] == names
    # Two profiles and two maps are one row of a wide screen; no grid has a row of its own for one picture of four.
    averages = text[text.index('<section id="averages">') : text.index('<section id="histograms">')]
    grids = re.findall(r'<div class="figures" style="--columns:(\d)">(.*?)</div>', averages)
    assert [(columns, grid.count("<figure>")) for columns, grid in grids] == [("4", 4)] * len(grids)
    bars = re.findall(r"<svg[^>]*>(?:(?!</svg>).)*crispEdges(?:(?!</svg>).)*</svg>", text)
    units = [re.findall(r">(MeV|correlation)</text>", bar) for bar in bars]
    assert units == [["MeV"]] * (2 * len(grids)) + [["correlation"]] * 3


@pytest.mark.parametrize("count", [1, 3, 10, 30])
def test_few_showers_give_what_can_be_computed(count: int, make_file: MakeFile, tmp_path: Path) -> None:
    written = evaluate(
        make_file("g", 1, count, "1-pions"), [make_file("s", 2, count, "1-pions")], tmp_path / "r", Choices(quick=True)
    )
    sample = written.data["samples"][0]
    assert sample["classifiers"] == {}
    assert (written.data["floor"] is None) == (count < 4)
    assert (sample["fpd"] is None) == (count < 2)
    assert (sample["neighbours"] is None) == (count < 6)
    assert sample["notes"]
    assert len(written.index.read_text()) > 10_000


def test_a_file_beside_itself_has_no_auc(make_file: MakeFile, tmp_path: Path) -> None:
    first, other = make_file("a", 1), make_file("b", 2)
    lines: list[str] = []
    written = evaluate(first, [first, other, other], tmp_path / "r", Choices(quick=True), announce=lines.append)
    same, good, again = written.data["samples"]
    assert same["boosted_auc"] is None
    assert same["classifiers"] == {}
    assert "400 showers are equal, voxel by voxel, in a (rows 0-399) and reference (rows 0-399)" in same["auc_void"]
    assert same["warnings"][0]["code"] == "copies"
    assert good["auc_void"] is None
    assert good["boosted_auc"]
    # The third is a copy of the second, not of the reference: two equal samples cannot be told from each other.
    assert again["boosted_auc"]
    found = next(warning["text"] for warning in again["warnings"] if warning["code"] == "copies")
    assert "in b #2 (rows 0-399) and b (rows 0-399)" in found
    assert written.data["multiclass"] is None
    html = written.index.read_text()
    assert "a: AUC void. 400 showers are equal" in html
    header, row = written.summary[:2]
    assert {row[place] for place, title in enumerate(header) if title.startswith("AUC")} == {"void"}
    assert any(line.startswith("a: ") and line.endswith("AUC void") for line in lines)


def test_the_rows_of_the_reference_in_a_sample_are_named(make_file: MakeFile, tmp_path: Path) -> None:
    reference, sample = make_file("g4", 1), make_file("s", 2)
    with h5py.File(reference) as source, h5py.File(sample, "r+") as file:
        file["showers"][[3, 4, 5, 9]] = source["showers"][20:24]
        file["incident_energies"][[3, 4, 5, 9]] = source["incident_energies"][20:24]
    written = evaluate(reference, [sample], tmp_path / "r", Choices(quick=True, classifiers=False))
    assert (
        "4 showers are equal, voxel by voxel, in s (rows 3-5, 9) and reference (rows 20-23)"
        in (written.data["samples"][0]["auc_void"])
    )


def test_a_reference_with_a_shower_in_both_halves_has_no_floor_of_the_auc(make_file: MakeFile, tmp_path: Path) -> None:
    reference = make_file("g4", 1)
    with h5py.File(reference, "r+") as file:
        file["showers"][7] = file["showers"][2]
        file["incident_energies"][7] = file["incident_energies"][2]
    written = evaluate(reference, [make_file("s", 2)], tmp_path / "r", Choices(quick=True))
    assert "(rows 7) and reference, even rows (rows 2)" in written.data["floor"]["auc_void"]
    assert written.data["floor"]["boosted_auc"] is None
    assert written.data["samples"][0]["boosted_auc"]["floor"] is None
    assert "floor: AUC void" in written.index.read_text()


def test_a_second_reference_is_the_floor(make_file: MakeFile, tmp_path: Path) -> None:
    reference = make_file("g", 1)
    written = evaluate(
        reference,
        [make_file("s", 2)],
        tmp_path / "r",
        Choices(quick=True, classifiers=False, floor_reference=make_file("g2", 3)),
    )
    assert written.data["floor"]["kind"] == "file"
    assert written.data["samples"][0]["fpd"]["floor"]["count"] == 400
    assert written.data["samples"][0]["fpd"]["at_floor_count"] is None
    assert written.data["samples"][0]["classifiers"] == {}
    with pytest.raises(ShowerFileError, match=r"rows 0-399.*other showers than the reference"):
        evaluate(reference, [make_file("s", 2)], tmp_path / "r", Choices(quick=True, floor_reference=reference))


def test_the_same_seed_gives_the_same_report(make_file: MakeFile, tmp_path: Path) -> None:
    reference, sample = make_file("g", 1, 150), make_file("s", 2, 150)
    reports = [evaluate(reference, [sample], tmp_path / name, Choices(quick=True, seed=4)).data for name in ("a", "b")]
    for data in reports:
        del data["created"]
    assert reports[0] == reports[1]


def test_bad_files_are_explained_and_nothing_is_written(make_file: MakeFile, tmp_path: Path) -> None:
    reference, good = make_file("geant4", 1), make_file("good", 2)
    gev, mixed, cut = make_file("gev", 3), make_file("mixed", 4), make_file("cut", 5)
    with h5py.File(gev, "r+") as file:
        file["incident_energies"][:] /= 1000
        file["showers"][:] /= 1000
    with h5py.File(mixed, "r+") as file:
        file["showers"][:] = file["showers"][:][::-1]
    cut.write_bytes(cut.read_bytes()[:5000])
    output = tmp_path / "report"
    for bad, message in (
        (gev, "gev.hdf5.*look like GeV"),
        (mixed, "mixed.hdf5.*shower i must belong to incident energy i"),
        (cut, "cut.hdf5: unreadable"),
        (make_file("pions", 6, geometry="1-pions"), r"pions.hdf5: dataset showers: shape \(400, 533\)"),
        (tmp_path / "none.hdf5", "none.hdf5: no such file"),
    ):
        with pytest.raises(ShowerFileError, match=message) as caught:
            evaluate(reference, [good, bad], output, Choices(quick=True, classifiers=False))
        assert "\n" not in str(caught.value)
    assert not output.exists()


def test_arguments_that_do_not_fit_are_refused(make_file: MakeFile, tmp_path: Path) -> None:
    reference, good = make_file("geant4", 1), make_file("good", 2)
    with pytest.raises(InvalidInputError, match="samples: 0"):
        evaluate(reference, [], tmp_path / "r")
    for names in (["a", "b"], ["reference"]):
        with pytest.raises(InvalidInputError, match="names"):
            evaluate(reference, [good], tmp_path / "r", Choices(names=names))
    with pytest.raises(InvalidInputError, match="geometry"):
        evaluate(reference, [good], tmp_path / "r", Choices(geometry="9"))
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InvalidInputError, match=r"file is no folder"):
        evaluate(reference, [good], blocked, Choices(quick=True, classifiers=False))


def test_samples_of_one_name_stay_apart(make_file: MakeFile, tmp_path: Path) -> None:
    sample = make_file("s", 2, 60)
    written = evaluate(make_file("g", 1, 60), [sample, sample], tmp_path / "r", Choices(quick=True, classifiers=False))
    assert [entry["name"] for entry in written.data["samples"]] == ["s", "s #2"]
