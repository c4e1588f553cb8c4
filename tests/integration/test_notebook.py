"""The notebook runs as it stands there, but for the service's address."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "first-showers.ipynb"


def test_the_notebook_of_first_showers(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are not kept with the sources"
    assert "http://127.0.0.1:8000" in notebook.cells[1].source
    notebook.cells[1].source = notebook.cells[1].source.replace("http://127.0.0.1:8000", server_url)
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    said = "\n".join(
        output.get("text") or output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    assert "(60, 6480)" in said
    assert "45 layers of 16 angles and 9 radii" in said
    assert said.count("of it is measured") == 3
    assert said.count("layers  0 to  4") == 3
    assert Path("first-showers.hdf5").stat().st_size > 0
