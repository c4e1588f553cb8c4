"""Gibbs chains on a CUDA device: a fused sparse Triton kernel, or dense torch under a CUDA graph without Triton.

Both draw from the law of ``kernels.reference`` with its fixed-point fields, each row from its own stream. The
fused kernel gives the CPU's spins to the bit. The dense path has numbers of its own (a hash of key and update number,
as xoshiro cannot be run for all nodes of a class at once): its spins depend on stream, condition, sweeps and machine
alone, as everywhere, and differ from the fused kernel's.

torch is imported here and nowhere else in ``sampler``; import this module only where a device is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from threading import Lock
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.gibbs.program import Program
from qshower.sampler.gibbs.streams import GOLDEN, generator_states
from qshower.sampler.machine import PARTITION_COUNT

Kernel = Literal["fused", "dense"]

FUSED_BLOCK = 32
"""Chains in a program of the fused kernel: one warp, so that no barrier is met."""

FUSED_ROWS = 2**17
"""Most chains in one launch of the fused kernel (their fields take 4 bytes for each update)."""

DENSE_ROWS = 2**15
"""Most chains the dense path runs at a time."""

CHUNK = 256
"""Sweeps between two looks at the clock."""

_SIGNED = 2**63
_CAPTURING = Lock()


def missing() -> str | None:
    """Why no CUDA device can be used, None if one can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None


def best_kernel() -> Kernel:
    """``fused`` where Triton is installed (torch's CUDA builds for Linux bring it), else ``dense``."""
    return "dense" if find_spec("triton") is None else "fused"


def run_on_device(
    program: Program,
    spins: NDArray[np.int8],
    betas: NDArray[np.float64],
    keys: NDArray[np.uint64],
    *,
    device: str = "cuda",
    kernel: Kernel | None = None,
    on_time: Callable[[], None] = lambda: None,
) -> None:
    """Sweep ``spins`` (rows, nodes) in place, one sweep for each entry of ``betas``, rows seeded by ``keys``.

    ``on_time`` is called every ``CHUNK`` sweeps; it raises to stop. SamplerUnavailableError if the device fails: it
    has no memory left, or cannot run the kernel.
    """
    chosen = kernel or best_kernel()
    run, most = (_run_fused, FUSED_ROWS) if chosen == "fused" else (_run_dense, DENSE_ROWS)
    for start in range(0, spins.shape[0], most):
        rows = slice(start, start + most)
        try:
            run(program, spins[rows], betas, keys[rows], torch.device(device), on_time=on_time)
        except _failures() as error:
            reason = str(error).partition("\n")[0]
            raise SamplerUnavailableError(f"gibbs: the {device} device failed: {reason}") from error


def _failures() -> tuple[type[Exception], ...]:
    """What torch raises for all that goes wrong on a device, memory included, and Triton for a kernel it cannot run."""
    if find_spec("triton") is None:
        return (RuntimeError,)
    from triton.errors import TritonError

    return RuntimeError, TritonError


@dataclass(frozen=True, slots=True, eq=False)
class _Chains:
    """Chains on a device, side by side: ``up`` and ``fields`` are (updates, chains)."""

    up: torch.Tensor
    fields: torch.Tensor

    @classmethod
    def load(
        cls, program: Program, spins: NDArray[np.int8], chains: int, device: torch.device, fields: torch.dtype
    ) -> _Chains:
        """Copies of the rows, padded to ``chains``, with the condition folded into the fields."""
        graph = program.graph
        rows = np.resize(spins, (chains, spins.shape[1])) if chains != spins.shape[0] else spins
        states = torch.from_numpy(np.ascontiguousarray(rows)).to(device)
        up = (states[:, torch.from_numpy(graph.order.astype(np.int64)).to(device)] > 0).to(torch.int8).T.contiguous()
        held = states[:, torch.from_numpy(graph.held.astype(np.int64)).to(device)] > 0
        coupling = np.zeros((graph.updates, graph.held.shape[0]))
        owners = np.repeat(np.arange(graph.updates), np.diff(graph.held_indptr))
        coupling[owners, graph.held_columns] = program.held_step
        # Whole numbers below 2**53: exact in float64, in whatever order they are added.
        folded = torch.from_numpy(coupling).to(device) @ held.to(torch.float64).T
        folded += torch.from_numpy(program.base.astype(np.float64)).to(device)[:, None]
        return cls(up, folded.to(torch.int64).to(torch.int32).to(fields).contiguous())

    def store(self, program: Program, spins: NDArray[np.int8]) -> None:
        """Write the states back to the rows they came from."""
        found = (2 * self.up - 1)[:, : spins.shape[0]].T.contiguous().cpu().numpy()
        spins[:, program.graph.order] = found


def _run_fused(
    program: Program,
    spins: NDArray[np.int8],
    betas: NDArray[np.float64],
    keys: NDArray[np.uint64],
    device: torch.device,
    *,
    on_time: Callable[[], None] = lambda: None,
) -> None:
    from qshower.sampler.gibbs.kernels.triton_sweep import sweep_kernel

    graph = program.graph
    chains = -(-spins.shape[0] // FUSED_BLOCK) * FUSED_BLOCK
    state = _Chains.load(program, spins, chains, device, torch.int32)
    padded_keys = np.resize(keys, chains)
    degrees = np.diff(graph.indptr)
    degree = max(1, int(degrees.max(initial=0)))
    neighbours, steps = np.zeros((2, graph.updates, degree), dtype=np.int32)
    inside = np.arange(degree) < degrees[:, None]
    neighbours[inside], steps[inside] = graph.neighbours, program.step

    def upload(values: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    generators = upload(generator_states(padded_keys).view(np.int32))
    tables, streams = (upload(neighbours), upload(steps)), upload(padded_keys.view(np.int64))
    twice_betas = 2.0 * betas / program.scale
    counted = graph.updates + graph.updates % 2
    for start in range(0, betas.shape[0], CHUNK):
        on_time()
        part = upload(twice_betas[start : start + CHUNK])
        sweep_kernel[(chains // FUSED_BLOCK,)](
            state.up,
            state.fields,
            *tables,
            part,
            streams,
            generators,
            torch.tensor([start * counted], dtype=torch.int64, device=device),
            chains,
            graph.updates,
            part.shape[0],
            DEGREE=degree,
            BLOCK=FUSED_BLOCK,
            num_warps=1,
            enable_fp_fusion=True,
        )
    state.store(program, spins)


class _DenseSweep:
    """One sweep of dense torch operations on fixed tensors, so that a CUDA graph can hold it."""

    def __init__(
        self, program: Program, spins: NDArray[np.int8], keys: NDArray[np.uint64], device: torch.device
    ) -> None:
        graph = program.graph
        # Fields of 16 bits are whole numbers below 2**24 on the way, exact in float32; wide ones need float64.
        self.number = torch.float64 if program.wide else torch.float32
        self.chains = _Chains.load(program, spins, spins.shape[0], device, self.number)
        self.up = self.chains.up.to(self.number)
        coupling = np.zeros((graph.updates, graph.updates))
        coupling[np.repeat(np.arange(graph.updates), np.diff(graph.indptr)), graph.neighbours] = program.step
        self.coupling = torch.from_numpy(coupling).to(device, self.number)
        starts = np.searchsorted(graph.colours, np.arange(PARTITION_COUNT + 1))
        self.classes = [slice(int(a), int(b)) for a, b in pairwise(starts) if b > a]
        self.keys = torch.from_numpy(keys.view(np.int64).copy()).to(device)
        self.twice_beta = torch.zeros((), dtype=torch.float64, device=device)
        self.hashes = torch.zeros(graph.updates, dtype=torch.int64, device=device)

    def prepare(self, twice_beta: float, sweep: int) -> None:
        """Set what differs from sweep to sweep."""
        self.twice_beta.fill_(twice_beta)
        updates = self.hashes.shape[0]
        numbers = np.arange(sweep * updates, (sweep + 1) * updates, dtype=np.uint64) * GOLDEN
        self.hashes.copy_(torch.from_numpy(numbers.view(np.int64)))

    def __call__(self) -> None:
        """Update every class in turn."""
        for rows in self.classes:
            fields = self.chains.fields[rows] + self.coupling[rows] @ self.up
            chances = torch.sigmoid(fields.to(torch.float64) * -self.twice_beta)
            uniform = _uniform(self.keys[None, :] ^ _mix(self.hashes[rows])[:, None])
            self.up[rows] = (uniform < chances).to(self.number)


def _run_dense(
    program: Program,
    spins: NDArray[np.int8],
    betas: NDArray[np.float64],
    keys: NDArray[np.uint64],
    device: torch.device,
    *,
    on_time: Callable[[], None] = lambda: None,
) -> None:
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False  # TF32 has too few bits for whole fields.
    try:
        with torch.inference_mode():
            sweep = _DenseSweep(program, spins, keys, device)
            step: Callable[[], None] = sweep
            if device.type == "cuda":
                step = _captured(sweep)
            for number, beta in enumerate(betas.tolist()):
                if number % CHUNK == 0:
                    on_time()
                sweep.prepare(2.0 * beta / program.scale, number)
                step()
            sweep.chains.up.copy_(sweep.up)
            sweep.chains.store(program, spins)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _captured(sweep: _DenseSweep) -> Callable[[], None]:
    """The sweep as a CUDA graph: one launch in place of dozens. The state is as it was before."""
    kept = sweep.up.clone()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        sweep()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # One capture at a time, which what other threads do on the device meanwhile does not spoil.
    with _CAPTURING, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        sweep()
    sweep.up.copy_(kept)
    return graph.replay


def _mix(value: torch.Tensor) -> torch.Tensor:
    """splitmix64's finaliser on the bits of int64 tensors."""
    value = (value ^ _shifted(value, 30)) * _signed(0xBF58476D1CE4E5B9)
    value = (value ^ _shifted(value, 27)) * _signed(0x94D049BB133111EB)
    return value ^ _shifted(value, 31)


def _uniform(value: torch.Tensor) -> torch.Tensor:
    """Hashed to 53 bits in [0, 1)."""
    uniform: torch.Tensor = _shifted(_mix(value), 11).to(torch.float64) * 2.0**-53
    return uniform


def _shifted(value: torch.Tensor, count: int) -> torch.Tensor:
    shifted: torch.Tensor = (value >> count) & (2 ** (64 - count) - 1)
    return shifted


def _signed(value: int) -> int:
    return value - 2 * _SIGNED if value >= _SIGNED else value
