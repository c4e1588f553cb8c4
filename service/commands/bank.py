"""``qshower bank draw`` and ``qshower bank info``."""

from __future__ import annotations

import itertools
import secrets
from collections import Counter
from dataclasses import replace
from pathlib import Path

from qshower.model.bundle import Bundle
from qshower.sampler.errors import SamplerError
from qshower.sampler.files import replaceable
from qshower.sampler.protocol import Sampler
from qshower.sampler.replay import bank_info, draw_bank
from qshower.sampler.request import SamplerOptions
from qshower.service.catalogue import FAMILIES, Catalogue, load_catalogue
from qshower.service.commands.draw_request import Request, incident_energies, rows_per_chunk
from qshower.service.commands.terminal import console, progress, say, two_columns
from qshower.service.generation.availability import first_available, require
from qshower.service.generation.selection import Selection
from qshower.service.logs import configure_logs
from qshower.service.sampler_table import build_registry, default_options
from qshower.service.settings import load_settings


def draw(request: Request, *, overwrite: bool) -> None:
    """Draw a latent for each incident energy into a bank.

    What a QPU has drawn when a later draw fails is paid for, and is kept in a file beside it. Without ``model`` a QPU
    draws from the default one for its topology.
    """
    settings = load_settings(log_level="warning")
    configure_logs(settings)
    seed = secrets.randbits(64) if request.seed is None else request.seed
    energies = incident_energies(replace(request, seed=seed))
    replaceable(request.output)
    catalogue = load_catalogue(settings)
    options = request.sampler_options
    partial, done = None, 0
    try:
        with build_registry(settings) as registry, progress("showers") as bar:
            sampler = Selection(catalogue, registry).sampler(request.sampler)
            partial = _unused(request.output) if sampler.capabilities.billed else None
            bundle = _bundle(catalogue, sampler, request)
            options = {**default_options(sampler, bundle).given(), **options}
            task = bar.add_task("drawing", total=energies.shape[0])

            def advance(rows: int, _: int) -> None:
                nonlocal done
                done = rows
                bar.update(task, completed=rows)

            draw_bank(
                request.output,
                sampler,
                bundle.machine,
                bundle.conditions(energies),
                seed=seed,
                options=SamplerOptions(**options),
                rows_per_call=rows_per_chunk(sampler),
                overwrite=overwrite,
                partial=partial,
                progress=advance,
            )
    except (SamplerError, KeyboardInterrupt, SystemExit):
        if partial is not None and partial.exists():
            drawn = f"{done} of {energies.shape[0]} latents of {bundle.name}"
            say(f"only {drawn} by {request.sampler}, seed {seed}, in {partial}")
        raise
    say(f"{done} latents of {bundle.name} by {request.sampler}, seed {seed}, in {request.output}")


def _bundle(catalogue: Catalogue, sampler: Sampler, request: Request) -> Bundle:
    if request.model is not None or "solver" not in sampler.capabilities.options:
        return catalogue.get(request.model)
    candidates = catalogue.defaults((request.solver,) if request.solver in FAMILIES else FAMILIES)
    bundle, state = first_available(sampler, candidates or (catalogue.get(None),), request.solver)
    require(sampler.name, state)
    return bundle


def _unused(path: Path) -> Path:
    """A name beside ``path`` for what is drawn of a bank: no draw that failed earlier loses what it left."""
    numbered = (f"-{number}" for number in itertools.count(2))
    names = (path.with_name(f"{path.stem}.partial{end}{path.suffix}") for end in itertools.chain([""], numbered))
    return next(name for name in names if not name.exists())


def info(path: Path) -> None:
    """Print what a bank holds."""
    known = bank_info(path)
    table = two_columns()
    table.add_row("file", str(known.path))
    table.add_row("bytes", str(known.size_bytes))
    table.add_row("latents", str(known.rows))
    table.add_row("spins", str(known.nodes))
    table.add_row("machine (SHA-256)", known.machine_sha256)
    table.add_row("created", known.created_at)
    table.add_row("seed", ", ".join(map(str, known.seeds)))
    for (sampler, sweeps, solver), count in Counter(
        (draw.sampler, draw.sweeps, draw.solver) for draw in known.draws
    ).items():
        details = [f"{count} draws"]
        details += [f"{sweeps} sweeps"] if sweeps is not None else []
        details += [f"on {solver}"] if solver is not None else []
        table.add_row(sampler, ", ".join(details))
    console().print(table)
