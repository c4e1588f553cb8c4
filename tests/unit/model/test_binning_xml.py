"""Binning files: of the challenge, of one's own, in any encoding, and those that are not clear."""

from __future__ import annotations

from pathlib import Path

import pytest

from qshower.model.binning_xml import read_binning_xml, write_binning_xml
from qshower.model.geometry import GEOMETRIES, Geometry, Layer, named_geometry
from qshower.sampler.errors import InvalidInputError

LAYER = '<Layer id="0" r_edges="0,1,2" n_bin_alpha="2"/>'


@pytest.mark.parametrize("name", GEOMETRIES)
def test_binning_file_round_trip(name: str, tmp_path: Path) -> None:
    geometry = named_geometry(name)
    path = tmp_path / "binning.xml"
    write_binning_xml(path, geometry)
    assert read_binning_xml(path, geometry.particle) == geometry
    assert [entry.name for entry in tmp_path.iterdir()] == ["binning.xml"]


def test_binning_file_lists_absent_layers_for_scripts_that_count_lines(tmp_path: Path) -> None:
    path = tmp_path / "binning.xml"
    write_binning_xml(path, named_geometry("1-photons"))
    text = path.read_text()
    assert text.count("<Layer") == 13
    assert '<Layer id="4" r_edges="0" n_bin_alpha="1" />' in text
    assert 'etaMin="0" etaMax="130"' in text or ('etaMin="0"' in text and 'etaMax="130"' in text)


def test_binning_file_of_a_new_detector(tmp_path: Path) -> None:
    path = tmp_path / "mine.xml"
    path.write_text(
        '<Bins><Bin pid="13" name="muon"><Layer id="0" r_edges="0" n_bin_alpha="1"/>'
        '<Layer id="1" r_edges="0,1.5,3" n_bin_alpha="4"/></Bin></Bins>'
    )
    geometry = read_binning_xml(path, "muon", threshold_mev=0.5)
    assert geometry == Geometry("mine", "muon", 13, (Layer(1, (0.0, 1.5, 3.0), 4),), 0.5)
    with pytest.raises(InvalidInputError, match=r"'photon' is not allowed.*muon"):
        read_binning_xml(path, "photon")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<Bins><Bin",
        '<!DOCTYPE x [<!ENTITY a "b">]><Bins/>',
        '<Bins><Bin pid="1" name="p"><Layer id="0" n_bin_alpha="1"/></Bin></Bins>',
        '<Bins><Bin pid="1" name="p"><Layer id="0" r_edges="0,2,1" n_bin_alpha="1"/></Bin></Bins>',
        '<Bins><Bin pid="1" name="p"><Layer id="0" r_edges="0,x" n_bin_alpha="1"/></Bin></Bins>',
        '<Bins><Bin pid="1" name="p"><Layer id="0" r_edges="0,1" n_bin_alpha="0"/></Bin></Bins>',
        '<Bins><Bin name="p"><Layer id="0" r_edges="0,1" n_bin_alpha="1"/></Bin></Bins>',
        '<Bins><Bin pid="1" name="p"></Bin></Bins>',
    ],
)
def test_bad_binning_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.xml"
    path.write_text(text)
    with pytest.raises(InvalidInputError):
        read_binning_xml(path, "p")


def test_missing_binning_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"none.xml"):
        read_binning_xml(tmp_path / "none.xml", "electron")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "iso-8859-1", "windows-1252", "shift_jis"]
)
def test_a_binning_file_in_the_encoding_that_an_editor_saved_it_in(encoding: str, tmp_path: Path) -> None:
    declared = encoding.removesuffix("-sig").removesuffix("-le")
    comment = "ソ" if encoding in ("shift_jis", "utf-16") else "Bjørn"
    text = f'<?xml version="1.0" encoding="{declared}"?>\n<!-- {comment} -->'
    text += f'<Bins><Bin pid="11" name="electron">{LAYER}</Bin></Bins>'
    path = tmp_path / "mine.xml"
    path.write_bytes(text.encode(encoding))
    assert read_binning_xml(path).layers == (Layer(0, (0.0, 1.0, 2.0), 2),)


@pytest.mark.parametrize(
    ("declared", "message"),
    [("klingon", r"encoding klingon"), ("utf-16", r"not in its encoding utf-16|no element"), ("rot13", r"rot13")],
)
def test_a_binning_file_whose_declared_encoding_is_wrong(declared: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.xml"
    path.write_text(f'<?xml version="1.0" encoding="{declared}"?><Bins><Bin pid="1" name="p">{LAYER}</Bin></Bins>')
    with pytest.raises(InvalidInputError, match=rf"mine.xml: .*({message})"):
        read_binning_xml(path)


def two(first: str, second: str) -> str:
    entries = "".join(f'<Bin pid="22" {attributes}>{LAYER}</Bin>' for attributes in (first, second))
    return f"<Bins>{entries}</Bins>"


def test_a_binning_file_with_two_entries_of_one_particle(tmp_path: Path) -> None:
    path = tmp_path / "twice.xml"
    path.write_text(two('name="photon" etaMin="0" etaMax="20"', 'name="photon" etaMin="20" etaMax="40"'))
    for particle in ("photon", None):
        with pytest.raises(InvalidInputError, match=r"eta_range: None .*2 entries .*\(0.0, 20.0\), \(20.0, 40.0\)"):
            read_binning_xml(path, particle)
        with pytest.raises(InvalidInputError, match=r"eta_range: \(0.0, 40.0\)"):
            read_binning_xml(path, particle, eta_range=(0.0, 40.0))
        assert read_binning_xml(path, particle, eta_range=(20, 40)).eta_range == (20.0, 40.0)
    path.write_text(two('name="photon"', 'name="photon"'))
    with pytest.raises(InvalidInputError, match=r"eta_range: None .*2 entries"):
        read_binning_xml(path, "photon")
    path.write_text(two('name="photon" etaMin="0" etaMax="20"', 'name="photon" etaMin="0" etaMax="20"'))
    with pytest.raises(InvalidInputError, match=r"twice.xml: 2 entries photon of one eta range"):
        read_binning_xml(path, "photon", eta_range=(0, 20))


def test_a_binning_file_with_two_particles_needs_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "both.xml"
    path.write_text(two('name="photon"', 'name="pion"'))
    with pytest.raises(InvalidInputError, match=r"particle: None .*'photon', 'pion'"):
        read_binning_xml(path)
    assert read_binning_xml(path, "pion").particle == "pion"


@pytest.mark.parametrize(
    "entry",
    [
        '<Bin pid="x" name="p">' + LAYER,
        '<Bin pid="1" name="p" etaMin="0">' + LAYER,
        '<Bin pid="1" name="p" etaMin="a" etaMax="b">' + LAYER,
        '<Bin pid="1" name="p">' + LAYER + LAYER,
        '<Bin pid="1" name="p"><Layer id="0" r_edges="0,1" n_bin_alpha="1000000000"/>',
        '<Bin pid="1" name="p"><Layer id="0" r_edges="0,nan" n_bin_alpha="1"/>',
        '<Bin pid="1" name="p"><Layer id="0" r_edges="" n_bin_alpha="1"/>',
        '<Bin pid="' + "9" * 5000 + '" name="p">' + LAYER,
    ],
)
def test_what_is_wrong_in_a_binning_file_is_told_with_its_name(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.xml"
    path.write_text(f"<Bins>{entry}</Bin></Bins>")
    with pytest.raises(InvalidInputError, match=r"binning file .*bad.xml"):
        read_binning_xml(path)


def test_a_folder_or_a_large_file_is_no_binning_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"a folder"):
        read_binning_xml(tmp_path)
    (tmp_path / "large.xml").write_bytes(b" " * 5_000_000)
    with pytest.raises(InvalidInputError, match=r"5000000 bytes"):
        read_binning_xml(tmp_path / "large.xml")
