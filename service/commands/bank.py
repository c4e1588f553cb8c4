"""``qshower bank draw`` and ``qshower bank info``."""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import replace
from pathlib import Path

from sampler.bank import bank_info, draw_bank
from sampler.errors import SamplerError
from sampler.request import SamplerOptions
from service.catalogue import load_catalogue
from service.commands.generate import CHUNK_ROWS, QPU_CHUNK_ROWS, Request, incident_energies
from service.commands.terminal import console, progress, say, two_columns
from service.logs import configure_logs
from service.samplers import build_registry
from service.settings import load_settings


def draw(request: Request, *, overwrite: bool) -> None:
    """Draw a latent for each incident energy into a bank.

    What a QPU has drawn when a later draw fails is paid for, and is kept.
    """
    settings = load_settings(log_level="warning")
    configure_logs(settings)
    seed = secrets.randbits(64) if request.seed is None else request.seed
    energies = incident_energies(replace(request, seed=seed))
    bundle = load_catalogue(settings).get(request.model)
    options = request.sampler_options
    done = 0
    try:
        with build_registry(settings) as registry, progress("showers") as bar:
            sampler = registry.get(request.sampler)
            if sampler.name == "gibbs":
                options.setdefault("sweeps", bundle.default_sweeps)
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
                rows_per_call=QPU_CHUNK_ROWS if sampler.name == "qpu" else CHUNK_ROWS,
                overwrite=overwrite,
                keep_partial=sampler.name == "qpu",
                progress=advance,
            )
    except (SamplerError, KeyboardInterrupt):
        if done and request.sampler == "qpu":
            say(f"only {done} of {energies.shape[0]} latents of {bundle.name} by qpu, seed {seed}, in {request.output}")
        raise
    say(f"{done} latents of {bundle.name} by {request.sampler}, seed {seed}, in {request.output}")


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
