"""Flags that several commands have."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

# Typer reads these annotations at run time.
# ruff: noqa: UP045

GeometryChoice = Annotated[
    Optional[str],
    typer.Option(help="1-photons, 1-pions, 2, 3, FILE.xml[:PARTICLE] or a bundle's folder; default: by the file."),
]
