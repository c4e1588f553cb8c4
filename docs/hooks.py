"""What mkdocs adds to the pages of this folder: the top of the repository, and a page of the API for each package."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = ("sampler", "model", "evaluation", "service", "client")
TOP = {"README.md": "start.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from other files."""
    for source, page in TOP.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_links_from_top(text)))
    pages = []
    for folder in _package_folders():
        name = ".".join(("qshower", *folder.relative_to(ROOT).parts))
        page = f"reference/{name}.md"
        files.append(File.generated(config, page, content=_api_page(name, folder)))
        pages.append({name.removeprefix("qshower."): page})
    (section,) = (entry for entry in config.nav or [] if "Python API" in entry)
    section["Python API"] = pages
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links of this folder's pages to the top of the repository lead to the pages made from there."""
    for source, page in TOP.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return markdown


def _links_from_top(text: str) -> str:
    """Links of a page at the top of the repository, as they are from ``docs/``."""
    for source, page in TOP.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text.replace("](docs/", "](").replace("](LICENSE)", "](https://www.apache.org/licenses/LICENSE-2.0)")


def _package_folders() -> list[Path]:
    """Every folder of the packages that holds modules, parents first."""
    found = (folder.parent for package in PACKAGES for folder in sorted((ROOT / package).rglob("__init__.py")))
    return sorted(found, key=lambda folder: (PACKAGES.index(folder.relative_to(ROOT).parts[0]), folder))


def _api_page(name: str, folder: Path) -> str:
    """The docstrings of a package's own modules."""
    modules = sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))
    parts = [f"# {name}", f"::: {name}\n    options:\n      show_root_heading: false\n      members: false"]
    parts += [f"::: {name}.{module}" for module in modules]
    return "\n\n".join(parts) + "\n"
