"""The site of ``make docs``: built without a warning, complete, and loading nothing from other hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src"}
LOADING_LINKS = {"stylesheet", "preload", "preconnect", "dns-prefetch", "modulepreload", "icon", "manifest"}


class Loads(HTMLParser):
    """Collects the addresses that a browser would fetch to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADING:
            self.addresses.append(values.get(LOADING[tag]) or "")
        elif tag == "link" and LOADING_LINKS & set((values.get("rel") or "").split()):
            self.addresses.append(values.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_every_page_and_every_package(site: Path) -> None:
    pages = {file.relative_to(site).as_posix() for file in site.rglob("*.html")}
    written = {f"{file.stem}.html" for file in (ROOT / "docs").glob("*.md")} - {"README.html"}
    top = {"index.html", "start.html", "contributing.html", "changelog.html"}
    assert pages >= written | top
    reference = (site / "reference" / "qshower.sampler.html").read_text(encoding="utf-8")
    for name in ("request.LatentRequest", "protocol.SamplerCapabilities", "machine.BoltzmannMachine.energies"):
        assert f'id="qshower.sampler.{name}"' in reference
    for package in ("sampler.qpu.calibration", "model.training", "evaluation", "service.http", "client"):
        assert f"reference/qshower.{package}.html" in pages


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    loads = Loads()
    for page in site.rglob("*.html"):
        loads.feed(page.read_text(encoding="utf-8"))
    assert loads.addresses
    assert [address for address in loads.addresses if "//" in address] == []
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert "url(http" not in text
        assert "url(//" not in text
        assert "@import" not in text
