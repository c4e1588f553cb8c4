"""``qshower export``: a shower file in the layout of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from qshower.service.commands.flags import GeometryChoice

# Typer reads these annotations at run time.
# ruff: noqa: UP045

LAYOUTS = ("showerdata", "layers", "centres")


def export(
    source: Annotated[Path, typer.Argument(help="A shower file in the CaloChallenge's layout.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    to: Annotated[str, typer.Option(help="showerdata (point clouds), layers (DDML) or centres (voxels, as CSV).")],
    cell_mm: Annotated[Optional[float], typer.Option(help="layers: side of a cell; default: a radial bin.")] = None,
    geometry: GeometryChoice = None,
) -> None:
    """Write showers in the layout of another program."""
    from qshower.model.exports import export_centres, export_layers, export_point_clouds, usual_cell_mm
    from qshower.model.showers_file import open_showers
    from qshower.sampler.errors import InvalidInputError
    from qshower.service.commands.options import check_flags
    from qshower.service.commands.terminal import progress, say

    check_flags(cell_mm=cell_mm)
    if to not in LAYOUTS:
        raise InvalidInputError("--to", to, ", ".join(LAYOUTS))
    if cell_mm is not None and to != "layers":
        raise InvalidInputError("--cell-mm", cell_mm, "no value here: it goes with --to layers")
    with open_showers(source, geometry) as showers:
        if to == "centres":
            export_centres(showers.geometry, output)
            say(f"{showers.geometry.voxel_count} voxels in {output}")
            return
        with progress("showers") as bar:
            task = bar.add_task("writing", total=showers.count)
            if to == "showerdata":
                export_point_clouds(showers, output, lambda rows: bar.advance(task, rows))
                what = "point clouds"
            else:
                size = cell_mm or usual_cell_mm(showers.geometry)
                cells = export_layers(showers, output, size, lambda rows: bar.advance(task, rows))
                what = f"showers of {cells[0]} × {cells[1]} × {cells[2]} cells of {size:g} mm"
        say(f"{showers.count} {what} in {output}")
