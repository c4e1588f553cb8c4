"""What the sections of the page are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from qshower.evaluation.svg import COLOURS

STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1240px;padding:1.5rem;color:#1c2430;background:#fff}
h1{font-size:1.6rem;margin:.2rem 0}h2{margin:2.2rem 0 .4rem;border-bottom:1px solid #d5dae1;padding-bottom:.2rem}
h3{margin:1.2rem 0 .3rem}p{max-width:75ch}nav a{margin-right:1rem}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{border:1px solid #d5dae1;padding:.25rem .55rem;text-align:right}
th{background:#f3f5f8;text-align:center}td:first-child,th:first-child{text-align:left}
.wide{overflow-x:auto}.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:.8rem}
figure{margin:0}figcaption{font-size:.78rem;color:#465264}svg{width:100%;height:auto}
details{margin:.5rem 0;border:1px solid #d5dae1;border-radius:6px;padding:.4rem .8rem}
summary{cursor:pointer;font-weight:600}.warning{background:#fff4e0;border-left:4px solid #e07b00;padding:.4rem .8rem}
.note{background:#eef3fa;border-left:4px solid #0b62c4;padding:.4rem .8rem}
.key{display:inline-block;width:1.1em;height:.6em;margin:0 .3em 0 .9em}
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways where it is too wide."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def legend(names: Sequence[str]) -> str:
    """The colours of the samples."""
    keys = ['<span class="key" style="background:#c9ced6"></span>reference']
    keys += [
        f'<span class="key" style="background:{COLOURS[index % len(COLOURS)]}"></span>{escape(name)}'
        for index, name in enumerate(names)
    ]
    return f"<p>{''.join(keys)}</p>"


def number(value: float | None, digits: int = 4) -> str:
    """A value, or a dash for none."""
    return "–" if value is None else f"{value:.{digits}g}"


def with_error(value: float, error: float, scale: float = 1.0) -> str:
    """A value ± its error, both times ``scale``."""
    return f"{scale * value:.4g} ± {scale * error:.2g}"
