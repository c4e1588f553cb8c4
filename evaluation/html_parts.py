"""What the sections of the page are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from qshower.evaluation.svg import COLOURS

STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1240px;padding:1.5rem;color:#1c2430;background:#fff}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0;overflow-wrap:anywhere}
h2{margin:2.2rem 0 .4rem;border-bottom:1px solid #d5dae1;padding-bottom:.2rem;line-height:1.3}
h3{margin:1.2rem 0 .3rem}p{max-width:75ch;overflow-wrap:anywhere}nav a{display:inline-block;margin:0 1rem .3rem 0}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{border:1px solid #d5dae1;padding:.25rem .55rem;text-align:right}
th{background:#f3f5f8;text-align:center}td:first-child,th:first-child{text-align:left}
.wide{overflow-x:auto}
.figures{display:grid;grid-template-columns:repeat(var(--columns),minmax(0,25rem));gap:.8rem}
figure{margin:0;min-width:0}figcaption{font-size:.78rem;color:#465264;overflow-wrap:anywhere}svg{width:100%;height:auto}
details{margin:.5rem 0;border:1px solid #d5dae1;border-radius:6px;padding:.4rem .8rem}
summary{cursor:pointer;font-weight:600}.warning{background:#fff4e0;border-left:4px solid #e07b00;padding:.4rem .8rem}
.note{background:#eef3fa;border-left:4px solid #0b62c4;padding:.4rem .8rem}
.key{display:inline-block;width:1.1em;height:.6em;margin:0 .3em 0 .9em}
@media(max-width:60rem){.figures{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media(max-width:40rem){
body{padding:.9rem}.figures{grid-template-columns:minmax(0,1fr)}details{padding:.4rem}
table,tbody,tr,td{display:block}thead{display:none}
tr{border:1px solid #d5dae1;border-radius:6px;margin:0 0 .7rem;padding:.3rem .6rem}
td{border:0;padding:.1rem 0;display:flex;justify-content:space-between;gap:1rem;text-align:right}
td:first-child{font-weight:600}td[data-label]::before{content:attr(data-label);color:#465264;text-align:left}
}
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; on a narrow screen each row is a card, whose lines have the header's names."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join(f"<tr>{''.join(map(_cell, header, row))}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(name: str, text: str) -> str:
    label = f' data-label="{escape(name, quote=True)}"' if name else ""
    return f"<td{label}>{escape(text)}</td>"


def figures(drawings: Sequence[str]) -> str:
    """Drawings side by side, in as many columns (four at most) as leave the fewest gaps in the last row."""
    if not drawings:
        return ""
    count = len(drawings)
    columns = count if count <= 4 else min((4, 3), key=lambda number: (-count % number, -number))
    grid = "".join(f"<figure>{drawing}</figure>" for drawing in drawings)
    return f'<div class="figures" style="--columns:{columns}">{grid}</div>'


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
