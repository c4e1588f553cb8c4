"""The kernel for CUDA without a device, in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Never

import numpy as np
import pytest
import torch

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.gibbs.gibbs_sampler import SMALL_BATCH, GibbsSampler
from qshower.sampler.gibbs.kernels import cuda, cuda_device
from qshower.sampler.gibbs.program import program_of
from qshower.sampler.gibbs.schedule import ramp_and_hold
from tests.conftest import MachineMaker, RequestMaker, SpinMaker

INTERPRETED = """
import sys
import numpy as np
from qshower.sampler.gibbs.kernels import cuda, cuda_device
from qshower.sampler.gibbs.kernels.run_block import run_block_reference
from qshower.sampler.gibbs.program import program_of
from qshower.sampler.gibbs.schedule import ramp_and_hold
from qshower.sampler.gibbs.streams import DRAW, stream_keys
from qshower.sampler.machine import BoltzmannMachine
cuda.BLOCK, cuda.MOST_ROWS, cuda.CHUNK = 4096, 4096, 2
random = np.random.default_rng(int(sys.argv[1]))
partitions = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3], dtype=np.int8)
first, second = np.triu_indices(9, 1)
apart = (partitions[first] != partitions[second]) & (random.random(36) < 0.6)
edges = np.stack([first[apart], second[apart]], axis=1).astype(np.int32)
for size in (0.7, 70.0):
    machine = BoltzmannMachine(
        h=random.normal(0, size, 9).astype(np.float32), j=random.normal(0, size, len(edges)).astype(np.float32),
        edges=edges, partitions=partitions, qubits=np.arange(9), topology="none",
    )
    program = program_of(machine)
    assert program.wide == (size > 1)
    start = (2 * random.integers(0, 2, (5000, 9)) - 1).astype(np.int8)
    streams = np.stack([np.full(5000, 3), np.arange(5000)], axis=1).astype(np.uint64)
    keys = stream_keys(streams, DRAW)
    fused, plain, looks = start.copy(), start.copy(), []
    cuda.run_on_device(program, fused, ramp_and_hold(3), keys, device="cpu", on_time=lambda: looks.append(len(looks)))
    assert len(looks) == 4, "two launches of two chunks of sweeps each"
    run_block_reference(program, plain, ramp_and_hold(3), keys)
    assert (plain != start).any()
    assert np.array_equal(fused, plain), (fused != plain).sum()
"""

COMPILED = """
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile, make_backend
from triton.runtime.jit import create_function_from_signature
from qshower.sampler.gibbs.kernels.triton_sweep import sweep_kernel
kinds = {"up": "*i8", "fields": "*i32", "neighbours": "*i32", "steps": "*i32", "twice_betas": "*fp64", "keys": "*i64",
         "states": "*i32", "begun": "*i64", "stride": "i32", "updates": "i32", "sweeps": "i32",
         "DEGREE": "constexpr", "BLOCK": "constexpr"}
backend = make_backend(GPUTarget("cuda", 90, 32))
bind = create_function_from_signature(sweep_kernel.signature, sweep_kernel.params, backend)
pointers = [torch.zeros(16, dtype=getattr(torch, kind)) for kind in
            ("int8", "int32", "int32", "int32", "float64", "int64", "int32", "int64")]
of = {(rows, sweeps): str(bind(*pointers, rows, 906, sweeps, DEGREE=16, BLOCK=32)[1])
      for rows in (32, 96, 4096) for sweeps in (1, 2, 16, 23, 256)}
assert len(set(of.values())) == 1, of
source = ASTSource(fn=sweep_kernel, signature=kinds, constexprs={"DEGREE": 16, "BLOCK": 32})
built = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1, "enable_fp_fusion": True})
assert built.asm["cubin"]
"""


def run_python(program: str, *arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_fused_kernel_gives_the_plain_rules_spins_in_the_interpreter(tmp_path: Path) -> None:
    """5000 chains in two launches, narrow and wide fields: enough that some blocks take the float64 branch."""
    pytest.importorskip("triton", reason="Triton is not installed, so its interpreter cannot run the fused kernel")
    run_python(INTERPRETED, "5", TRITON_INTERPRET="1", TRITON_CACHE_DIR=str(tmp_path))


def test_one_fused_kernel_for_all_requests_compiles_for_hopper(tmp_path: Path) -> None:
    """Compiled for a machine once, whatever the rows and sweeps."""
    pytest.importorskip("triton", reason="Triton is not installed, so the fused kernel cannot be compiled")
    run_python(COMPILED, TRITON_CACHE_DIR=str(tmp_path))


FAILURES = {
    r"cpu device failed: .*2\.00 GiB$": ("torch", "OutOfMemoryError", ("Tried to allocate 2.00 GiB\nand more of it",)),
    "cpu device failed: out of resource: shared": ("triton.runtime.errors", "OutOfResources", (2, 1, "shared")),
    "cpu device failed: $": ("builtins", "RuntimeError", ()),
}


@pytest.mark.parametrize("said", FAILURES)
def test_a_device_that_fails_is_unavailable(
    rng: np.random.Generator,
    random_machine: MachineMaker,
    random_spins: SpinMaker,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
) -> None:
    """So that a request's fallback is tried."""
    module, name, arguments = FAILURES[said]
    kind = getattr(pytest.importorskip(module), name)

    def fails(*_: object, **__: object) -> Never:
        raise kind(*arguments)

    monkeypatch.setattr(cuda, "_run", fails)
    machine = random_machine(rng)
    spins, keys = random_spins(rng, (2, machine.node_count)), np.zeros(2, np.uint64)
    with pytest.raises(SamplerUnavailableError, match=said) as caught:
        cuda.run_on_device(program_of(machine), spins, ramp_and_hold(5), keys, device="cpu")
    assert isinstance(caught.value.__cause__, kind)


def test_few_rows_stay_on_the_cpu_where_spins_are_the_same(
    rng: np.random.Generator,
    random_machine: MachineMaker,
    latent_request: RequestMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_device = []
    monkeypatch.setattr(cuda_device, "missing", lambda: None)
    monkeypatch.setattr(cuda, "run_on_device", lambda _, spins, *__, **___: on_device.append(len(spins)))
    machine = random_machine(rng)
    for rows in (SMALL_BATCH, SMALL_BATCH + 1):
        request = latent_request(machine, np.ones((rows, 3), np.int8))
        batch = GibbsSampler(device="cuda").sample(request)
        if not on_device:
            assert np.array_equal(batch.spins, GibbsSampler().sample(request).spins)
    assert on_device == [65]


def test_without_triton_a_device_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "find_spec", lambda _: None)
    reason = cuda.missing()
    assert reason is not None
    assert "Triton" in reason


def test_a_sampler_for_cuda_without_a_device_is_unavailable(
    rng: np.random.Generator,
    random_machine: MachineMaker,
    latent_request: RequestMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machine = random_machine(rng)
    sampler = GibbsSampler(device="cuda")
    state = sampler.availability(machine)
    assert not state.available
    assert state.reason is not None
    assert "CUDA" in state.reason
    with pytest.raises(SamplerUnavailableError, match="CUDA"):
        sampler.sample(latent_request(machine, np.ones((1, 3), np.int8)))


def test_the_cpu_sampler_does_not_import_torch_or_triton() -> None:
    program = (
        "import sys; from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler, warm_up; GibbsSampler(); warm_up(); "
        "assert not {'torch', 'triton'} & set(sys.modules)"
    )
    run_python(program)
