"""``qshower generate``: showers into a CaloChallenge HDF5 file, drawn in this process or by a server."""

from __future__ import annotations

import time

import numpy as np
import orjson
from numpy.typing import NDArray

from qshower.model.showers_file import open_showers
from qshower.sampler.errors import DefectError
from qshower.sampler.files import replaceable
from qshower.service.commands.draw_request import Request, incident_energies
from qshower.service.commands.terminal import progress, say, show_warnings

LONGEST_WAIT_S = 10.0


def run(request: Request) -> None:
    """Write the file, whole or not at all."""
    if not request.output.parent.is_dir():
        raise DefectError(str(request.output), "its folder does not exist", "a path in an existing folder")
    replaceable(request.output)
    energies = incident_energies(request)
    if request.url is None:
        from qshower.service.commands.generate_in_process import draw_showers  # loads torch and numba

        sampler = draw_showers(request, energies)
    else:
        sampler = _from_server(request, request.url, energies)
    say(f"{energies.shape[0]} showers by {sampler} in {request.output}")


def _from_server(request: Request, url: str, energies: NDArray[np.float64]) -> str:
    from qshower.client import Client

    show_warnings()
    client = Client(
        url, request.api_key, longest_wait_s=LONGEST_WAIT_S, connect_wait_s=request.connect_wait_s, sleep=time.sleep
    )
    with client, progress("bytes") as bar:
        task = bar.add_task("receiving", total=None)

        def received(seen: int, total: int | None) -> None:
            bar.update(task, completed=seen, total=total)

        client.save(
            request.output,
            energies,
            sampler=request.sampler,
            fallback=request.fallback,
            solver=request.solver,
            model=request.model,
            seed=request.seed,
            options=request.options,
            threshold_mev=request.threshold_mev,
            progress=received,
        )
    with open_showers(request.output) as file:
        name: str = orjson.loads(file.attributes["provenance"])["sampler"]
    return name
