"""Gibbs chains on a CUDA device, by a fused sparse Triton kernel that gives the CPU's spins to the bit.

torch is imported here and nowhere else in ``sampler``; import this module only where a device is used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.gibbs.program import Program
from qshower.sampler.gibbs.streams import generator_states

BLOCK = 32
"""Chains in a program of the kernel: one warp, so that no barrier is met."""

MOST_ROWS = 2**17
"""Most chains in one launch (their fields take 4 bytes for each update)."""

CHUNK = 256
"""Sweeps of a launch, and between two checks of the deadline."""

AHEAD = 2
"""Launches that may wait for the device: one that runs and one that follows without a gap."""


def missing() -> str | None:
    """Why no CUDA device can be used, None if one can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if find_spec("triton") is None:
        return "Triton is not installed, which torch's CUDA builds for Linux bring"
    return None


def run_on_device(
    program: Program,
    spins: NDArray[np.int8],
    betas: NDArray[np.float64],
    keys: NDArray[np.uint64],
    *,
    device: str = "cuda",
    on_time: Callable[[], None] = lambda: None,
) -> None:
    """Sweep ``spins`` (rows, nodes) in place, one sweep for each entry of ``betas``, rows seeded by ``keys``.

    ``on_time`` is called every ``CHUNK`` sweeps; it raises to stop. SamplerUnavailableError if the device fails: it
    has no memory left, or cannot run the kernel.
    """
    from triton.errors import TritonError

    for start in range(0, spins.shape[0], MOST_ROWS):
        rows = slice(start, start + MOST_ROWS)
        try:
            _run(program, spins[rows], betas, keys[rows], torch.device(device), on_time=on_time)
        except (RuntimeError, TritonError) as error:  # torch's for all that goes wrong on a device, memory included
            reason = str(error).partition("\n")[0]
            raise SamplerUnavailableError(f"gibbs: the {device} device failed: {reason}") from error


def _run(
    program: Program,
    spins: NDArray[np.int8],
    betas: NDArray[np.float64],
    keys: NDArray[np.uint64],
    device: torch.device,
    *,
    on_time: Callable[[], None] = lambda: None,
) -> None:
    from qshower.sampler.gibbs.kernels.triton_sweep import sweep_kernel

    def upload(values: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    graph = program.graph
    chains = -(-spins.shape[0] // BLOCK) * BLOCK
    states = upload(np.resize(spins, (chains, spins.shape[1])))
    padded_keys = np.resize(keys, chains)
    up = (states[:, upload(graph.order.astype(np.int64))] > 0).to(torch.int8).T.contiguous()
    fields = _folded(program, states[:, upload(graph.held.astype(np.int64))] > 0)
    degrees = np.diff(graph.indptr)
    degree = max(1, int(degrees.max(initial=0)))
    neighbours, steps = np.zeros((2, graph.updates, degree), dtype=np.int32)
    inside = np.arange(degree) < degrees[:, None]
    neighbours[inside], steps[inside] = graph.neighbours, program.step
    generators = upload(generator_states(padded_keys).view(np.int32))
    tables, streams = (upload(neighbours), upload(steps)), upload(padded_keys.view(np.int64))
    twice_betas = 2.0 * betas / program.scale
    counted = graph.updates + graph.updates % 2
    launched: list[torch.Event] = []
    for start in range(0, betas.shape[0], CHUNK):
        if len(launched) == AHEAD:
            # Launches only queue up: without this all of them would be, before the first look at the clock.
            launched.pop(0).synchronize()
        on_time()
        part = upload(twice_betas[start : start + CHUNK])
        sweep_kernel[(chains // BLOCK,)](
            up,
            fields,
            *tables,
            part,
            streams,
            generators,
            torch.tensor([start * counted], dtype=torch.int64, device=device),
            chains,
            graph.updates,
            part.shape[0],
            DEGREE=degree,
            BLOCK=BLOCK,
            num_warps=1,
            enable_fp_fusion=True,
        )
        if device.type == "cuda":
            launched.append(torch.cuda.current_stream(device).record_event())
    spins[:, graph.order] = (2 * up - 1)[:, : spins.shape[0]].T.contiguous().cpu().numpy()


def _folded(program: Program, held: torch.Tensor) -> torch.Tensor:
    """(updates, chains) int32 fields with the condition, ``held`` (chains, held nodes) bool, folded in."""
    graph = program.graph
    coupling = np.zeros((graph.updates, graph.held.shape[0]))
    owners = np.repeat(np.arange(graph.updates), np.diff(graph.held_indptr))
    coupling[owners, graph.held_columns] = program.held_step
    # Whole numbers below 2**53: exact in float64, in whatever order they are added.
    fields = torch.from_numpy(coupling).to(held.device) @ held.to(torch.float64).T
    fields += torch.from_numpy(program.base.astype(np.float64)).to(held.device)[:, None]
    return fields.to(torch.int64).to(torch.int32).contiguous()
