"""``qshower bank draw`` and ``qshower bank info``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from sampler.bank import bank_info, draw_bank
from sampler.request import SamplerOptions
from service.catalogue import load_catalogue
from service.commands.generate import Request, incident_energies
from service.commands.terminal import console, progress, say, two_columns
from service.logs import configure_logs
from service.samplers import build_registry
from service.settings import load_settings


def draw(request: Request, *, overwrite: bool) -> None:
    """Draw a latent for each incident energy into a bank."""
    settings = load_settings(log_level="warning")
    configure_logs(settings)
    energies = incident_energies(request)
    bundle = load_catalogue(settings).get(request.model)
    options = dict(request.options)
    with build_registry(settings) as registry, progress("showers") as bar:
        sampler = registry.get(request.sampler)
        if sampler.name == "gibbs":
            options.setdefault("sweeps", bundle.default_sweeps)
        task = bar.add_task("drawing", total=energies.shape[0])
        known = draw_bank(
            request.output,
            sampler,
            bundle.machine,
            bundle.conditions(energies),
            seed=request.seed or 0,
            options=SamplerOptions(**options),
            overwrite=overwrite,
            progress=lambda done, _: bar.update(task, completed=done),
        )
    say(f"{known.rows} latents of {bundle.name} by {request.sampler} in {request.output}")


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
    for (sampler, sweeps, solver), count in Counter(
        (draw.sampler, draw.sweeps, draw.solver) for draw in known.draws
    ).items():
        details = [f"{count} draws"]
        details += [f"{sweeps} sweeps"] if sweeps is not None else []
        details += [f"on {solver}"] if solver is not None else []
        table.add_row(sampler, ", ".join(details))
    console().print(table)
