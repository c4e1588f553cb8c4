"""What mkdocs adds to the pages of this folder: the top of the repository, and a page of the API for each package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = ("sampler", "model", "evaluation", "service", "client")
TOP = {"README.md": "start.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


class DocstringCode(Preprocessor):
    """Markdown for the two ways in which docstrings show code: ``>>>`` examples, and blocks after a double colon."""

    def run(self, lines: list[str]) -> list[str]:
        """The lines with examples in fences, and a single colon before an indented block."""
        return list(self._rewritten(lines))

    def _rewritten(self, lines: list[str]) -> Iterator[str]:
        indent: int | None = None  # of the example that is being read
        for line in lines:
            if indent is None and line.lstrip().startswith(">>> "):
                indent = len(line) - len(line.lstrip())
                yield from ("", "```pycon")
            if indent is not None and not line.strip():
                indent = None
                yield "```"
            yield re.sub(r"^::$", "", re.sub(r"(?<=\S)::$", ":", line)) if indent is None else line[indent:]
        if indent is not None:
            yield "```"


class DocstringCodeExtension(Extension):
    """Applies DocstringCode before blocks are told apart."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - the name that Markdown calls
        """Called by Markdown."""
        md.preprocessors.register(DocstringCode(md), "docstring_code", 40)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the extension, for the docstrings as for the pages."""
    config.markdown_extensions.append(DocstringCodeExtension())
    return config


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
