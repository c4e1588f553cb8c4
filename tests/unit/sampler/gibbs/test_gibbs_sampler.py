"""The Gibbs sampler's promises: rows that depend on nothing but themselves, held conditions, refused input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qshower.sampler.errors import InvalidInputError, SamplerTimeoutError
from qshower.sampler.gibbs.chains import draw, refine
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler, warm_up
from qshower.sampler.gibbs.program import program_of
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import DEFAULT_SWEEPS, SamplerOptions, streams_of
from qshower.sampler.tempering import temper
from tests.conftest import MachineMaker, RequestMaker, SpinMaker

Kernel = Callable[[], int]

PINNED = ["596707e0", "547848f0", "9785a070"]
PINNED_REFINED = ["a52d861c00", "a8ae329000", "3dd6b9e000"]


@pytest.fixture(scope="module")
def machine(lattice_machine: MachineMaker) -> BoltzmannMachine:
    return lattice_machine(np.random.default_rng(4), "zephyr", nodes_per_partition=13, coupling=0.4)


@pytest.fixture(scope="module")
def conditions(random_spins: SpinMaker, machine: BoltzmannMachine) -> NDArray[np.int8]:
    return random_spins(np.random.default_rng(5), (150, machine.condition_nodes.shape[0]))


@pytest.fixture(scope="module")
def whole(machine: BoltzmannMachine, conditions: NDArray[np.int8], latent_request: RequestMaker) -> NDArray[np.int8]:
    """150 rows drawn in one batch on one thread."""
    with GibbsSampler(threads=1) as sampler:
        return sampler.sample(latent_request(machine, conditions, seed=8, options=SamplerOptions(sweeps=23))).spins


@st.composite
def splits(draw_: st.DrawFn, most: int = 150) -> list[NDArray[np.int64]]:
    """Rows in any order, some perhaps twice, and where they are cut into batches."""
    rows = draw_(st.lists(st.integers(0, most - 1), min_size=1, max_size=most))
    cuts = sorted(draw_(st.sets(st.integers(1, len(rows)), max_size=4)))
    return [batch for batch in np.split(np.array(rows), cuts) if batch.size]


WORDS = st.integers(0, 2**64 - 1)
WIDE = 400.0
"""Factor of the couplings that takes the machine's fields out of 16 bits."""


@given(
    seed=WORDS,
    first=WORDS,
    strength=st.sampled_from([0.0, 1.0, 5.0, WIDE]),
    sweeps=st.integers(1, 40),
    beta=st.floats(0.05, 4.0),
    batches=splits(),
    threads=st.integers(1, 5),
)
@settings(max_examples=100, deadline=None)
def test_row_is_the_same_alone_in_any_batch_and_on_any_threads(
    machine: BoltzmannMachine,
    conditions: NDArray[np.int8],
    seed: int,
    first: int,
    strength: float,
    sweeps: int,
    beta: float,
    batches: list[NDArray[np.int64]],
    threads: int,
) -> None:
    scaled = machine.with_parameters(machine.h, machine.j * np.float32(strength))
    assert program_of(scaled).wide == (strength == WIDE)
    streams = streams_of(seed, 150, first)
    together = draw(scaled, conditions, streams, sweeps, beta=beta, threads=1)
    for rows in batches:
        apart = draw(scaled, conditions[rows], streams[rows], sweeps, beta=beta, threads=threads)
        assert np.array_equal(apart, together[rows])


@given(
    seed=WORDS,
    first=WORDS,
    strength=st.sampled_from([1.0, WIDE]),
    sweeps=st.integers(0, 12),
    beta=st.floats(0.05, 4.0),
    batches=splits(),
    threads=st.integers(1, 5),
    free=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_refined_row_is_the_same_alone_in_any_batch_and_on_any_threads(
    machine: BoltzmannMachine,
    whole: NDArray[np.int8],
    seed: int,
    first: int,
    strength: float,
    sweeps: int,
    beta: float,
    batches: list[NDArray[np.int64]],
    threads: int,
    free: bool,
) -> None:
    scaled = machine.with_parameters(machine.h, machine.j * np.float32(strength))
    streams = streams_of(seed, 150, first)
    together = refine(scaled, whole, sweeps, streams, beta=beta, free_condition=free, threads=1)
    for rows in batches:
        apart = refine(scaled, whole[rows], sweeps, streams[rows], beta=beta, free_condition=free, threads=threads)
        assert np.array_equal(apart, together[rows])


@given(
    seed=WORDS,
    first=WORDS,
    strength=st.sampled_from([1.0, WIDE]),
    sweeps=st.integers(1, 9),
    betas=st.lists(st.floats(0.05, 1.0), min_size=2, max_size=5, unique=True),
    batches=splits(40),
    threads=st.integers(1, 5),
)
@settings(max_examples=30, deadline=None)
def test_tempered_row_is_the_same_alone_in_any_batch_and_on_any_threads(
    machine: BoltzmannMachine,
    conditions: NDArray[np.int8],
    seed: int,
    first: int,
    strength: float,
    sweeps: int,
    betas: list[float],
    batches: list[NDArray[np.int64]],
    threads: int,
) -> None:
    scaled = machine.with_parameters(machine.h, machine.j * np.float32(strength))
    streams, ladder = streams_of(seed, 40, first), np.sort(betas)
    together, _ = temper(scaled, conditions[:40], streams, sweeps, ladder, threads=1)
    for rows in batches:
        apart, _ = temper(scaled, conditions[rows], streams[rows], sweeps, ladder, threads=threads)
        assert np.array_equal(apart, together[rows])


@given(seed=WORDS, first=WORDS, rows=st.integers(1, 150), condition=st.integers(0, 149))
@settings(max_examples=30, deadline=None)
def test_no_two_streams_share_their_spins(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], seed: int, first: int, rows: int, condition: int
) -> None:
    """Neighbours in index and in seed; 39 nearly free spins are the same by chance in fewer than 1e-6 of examples."""
    loose = machine.with_parameters(machine.h * np.float32(0), machine.j * np.float32(0.1))
    streams = np.concatenate([streams_of(seed, rows, first), streams_of(seed ^ 1, rows, first)])
    spins = draw(loose, np.repeat(conditions[[condition]], 2 * rows, axis=0), streams, 3)
    assert len(np.unique(spins, axis=0)) == 2 * rows


def test_spins_of_a_stream_are_pinned(latent_request: RequestMaker) -> None:
    """Showers of a seed must outlive releases: a change of these spins is a change of every seeded answer."""
    ring = BoltzmannMachine(
        h=np.linspace(-1, 1, 40, dtype=np.float32),
        j=np.linspace(1, -1, 39, dtype=np.float32),
        edges=np.stack([np.arange(39), np.arange(1, 40)], axis=1).astype(np.int32),
        partitions=(np.arange(40) % 4).astype(np.int8),
        qubits=np.arange(40),
        topology="none",
    )
    request = latent_request(ring, np.ones((3, 10), np.int8), seed=1, options=SamplerOptions(sweeps=3))
    drawn = GibbsSampler().sample(request).spins
    assert [np.packbits(row[ring.free_nodes] > 0).tobytes().hex() for row in drawn] == PINNED
    refined = refine(ring, drawn, 2, request.streams, free_condition=True)
    assert [np.packbits(row > 0).tobytes().hex() for row in refined] == PINNED_REFINED


def test_other_seeds_and_indices_give_other_spins(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], whole: NDArray[np.int8], latent_request: RequestMaker
) -> None:
    request = latent_request(machine, conditions, seed=9, options=SamplerOptions(sweeps=23))
    other = GibbsSampler().sample(request).spins
    free = machine.free_nodes
    assert (other[:, free] != whole[:, free]).any(axis=1).all()
    loose = machine.with_parameters(machine.h, machine.j / 10)
    same = latent_request(loose, np.repeat(conditions[:1], 150, axis=0), seed=8, options=SamplerOptions(sweeps=23))
    assert np.unique(GibbsSampler().sample(same).spins, axis=0).shape[0] == 150


PROCESS = """
import sys, numpy as np
from numba.core.dispatcher import Dispatcher
from qshower.sampler import energy, tempering
from qshower.sampler.gibbs import chains, streams
from qshower.sampler.gibbs.kernels import run_block, many_chains, reference, replicas, one_chain
from qshower.sampler.gibbs import gibbs_sampler
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of
modules = (run_block, chains, energy, many_chains, reference, replicas, one_chain, streams)
kernels = {k for m in modules for k in vars(m).values() if isinstance(k, Dispatcher)}
gibbs_sampler.warm_up()
compiled = {k: len(k.signatures) for k in kernels}
folder = sys.argv[1]
a = np.load(folder + "/machine.npz")
machine = BoltzmannMachine(h=a["h"], j=a["j"], edges=a["e"], partitions=a["p"], qubits=a["q"], topology="zephyr:12")
for rows in (200, 40, 1, 6, 9):
    streams = streams_of(8, rows)
    streams.flags.writeable = False
    conditions = np.resize(a["conditions"], (rows, a["conditions"].shape[1]))
    request = LatentRequest(machine, conditions, streams, SamplerOptions(sweeps=23))
    spins = gibbs_sampler.GibbsSampler().sample(request).spins
    chains.refine(machine, spins, 1, streams, free_condition=True)
    tempering.temper(machine, conditions, streams, 2, np.array([0.5, 1.0]))
np.save(folder + "/spins.npy", spins)
assert compiled == {k: len(k.signatures) for k in kernels}, "a request compiled"
print(sum(sum(k.stats.cache_misses.values()) for k in kernels))
"""


def test_processes_agree_and_only_the_first_one_compiles(
    machine: BoltzmannMachine, whole: NDArray[np.int8], tmp_path: Path
) -> None:
    """A cold process gives the same spins; once warmed up, requests compile nothing, nor does the next process."""
    arrays: dict[str, Any] = {
        "h": machine.h,
        "j": machine.j,
        "e": machine.edges,
        "p": machine.partitions,
        "q": machine.qubits,
    }
    np.savez(tmp_path / "machine.npz", **arrays, conditions=whole[:9, machine.condition_nodes])
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    misses = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROCESS, str(tmp_path)], check=True, env=environment, capture_output=True
        )
        misses.append(int(done.stdout))
        assert np.array_equal(np.load(tmp_path / "spins.npy"), whole[:9])
        (tmp_path / "spins.npy").unlink()
    assert misses[0] > 0
    assert misses[1] == 0


def test_without_a_place_for_the_cache_kernels_are_compiled_and_it_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qshower.sampler.jit import kernel as jit_kernel

    def refuse(cache: bool = False, nogil: bool = False) -> Callable[[Kernel], Kernel]:
        def compile_(function: Kernel) -> Kernel:
            if cache:
                raise RuntimeError("cannot cache function: no locator available")
            return function

        return compile_

    monkeypatch.setattr(jit_kernel, "njit", refuse)

    def some_kernel() -> int:
        return 3

    assert jit_kernel.kernel()(some_kernel)() == 3
    assert "NUMBA_CACHE_DIR" in caplog.text


@pytest.mark.parametrize("rows", [0, 1, 65])
def test_refine_holds_the_condition_and_leaves_its_input(
    machine: BoltzmannMachine, random_spins: SpinMaker, rows: int
) -> None:
    start = random_spins(np.random.default_rng(1), (rows, machine.node_count))
    kept = start.copy()
    streams = streams_of(2, rows)
    refined = refine(machine, start, 3, streams)
    assert np.array_equal(start, kept)
    assert np.array_equal(refined[:, machine.condition_nodes], start[:, machine.condition_nodes])
    assert np.array_equal(refine(machine, start, 0, streams), start)
    freed = refine(machine, start, 3, streams, free_condition=True)
    if rows:
        assert (refined != start).any()
        assert (freed[:, machine.condition_nodes] != start[:, machine.condition_nodes]).any()
    assert np.isin(freed, (-1, 1)).all()


def test_refine_does_not_repeat_the_draw_of_the_same_stream(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], latent_request: RequestMaker
) -> None:
    request = latent_request(machine, conditions, seed=8, options=SamplerOptions(sweeps=1))
    drawn = GibbsSampler().sample(request).spins
    refined = refine(machine, drawn, 1, request.streams)
    assert (drawn != refined)[:, machine.free_nodes].mean() > 0.1


def test_strided_and_read_only_input(
    machine: BoltzmannMachine, whole: NDArray[np.int8], random_spins: SpinMaker
) -> None:
    streams = streams_of(2, 150)
    frozen = whole.copy()
    frozen.flags.writeable = False
    expected = refine(machine, whole, 2, streams)
    assert np.array_equal(refine(machine, frozen, 2, streams), expected)
    assert np.array_equal(refine(machine, np.asfortranarray(whole), 2, streams), expected)
    assert np.array_equal(refine(machine, whole[::2], 2, streams[::2]), expected[::2])


def test_a_machine_whose_every_node_is_held_or_none_is(
    random_machine: MachineMaker, rng: np.random.Generator, latent_request: RequestMaker
) -> None:
    base = random_machine(rng, free=3, condition=3)
    for partition in (0, 1):
        edges = np.zeros((0, 2), np.int32)
        machine = type(base)(
            base.h, np.zeros(0, np.float32), edges, np.full(6, partition, np.int8), base.qubits, "none"
        )
        width = machine.condition_nodes.shape[0]
        batch = GibbsSampler().sample(latent_request(machine, np.ones((4, width), np.int8)))
        assert batch.spins.shape == (4, 6)


def test_default_sweeps_are_said(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], latent_request: RequestMaker
) -> None:
    batch = GibbsSampler().sample(latent_request(machine, conditions[:2]))
    assert batch.provenance.sweeps == DEFAULT_SWEEPS
    assert batch.provenance.beta == 1.0
    assert batch.provenance.elapsed_s["sample"] > 0


def test_the_deadline_is_looked_at_within_long_runs(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], latent_request: RequestMaker
) -> None:
    options = SamplerOptions(sweeps=1_000_000)
    with pytest.raises(SamplerTimeoutError):
        GibbsSampler().sample(latent_request(machine, conditions, options=options, deadline_s=0.05))


def test_many_threads_on_one_sampler(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], whole: NDArray[np.int8], latent_request: RequestMaker
) -> None:
    sampler = GibbsSampler()
    request = latent_request(machine, conditions, seed=8, options=SamplerOptions(sweeps=23))
    with ThreadPoolExecutor(6) as pool:
        for batch in pool.map(sampler.sample, [request] * 12):
            assert np.array_equal(batch.spins, whole)


def test_other_parameters_on_the_same_lattice_are_not_mixed_up(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], latent_request: RequestMaker
) -> None:
    """Machines come and go; none may be served with another's kept parameters."""
    seen = {}
    for round_ in range(3):
        for number in range(25):
            bias = np.full(machine.node_count, 60.0 * (-1) ** number, dtype=np.float32)
            other = machine.with_parameters(bias, machine.j)
            spins = GibbsSampler().sample(latent_request(other, conditions[:2], options=SamplerOptions(sweeps=2))).spins
            assert (spins[:, machine.free_nodes] == -((-1) ** number)).all(), (round_, number)
            seen[round_, number] = spins
    assert len(seen) == 75


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("device", lambda m, s, t: GibbsSampler(device="tpu")),  # type: ignore[arg-type]
        ("threads", lambda m, s, t: GibbsSampler(threads=0)),
        ("threads", lambda m, s, t: GibbsSampler(threads=True)),
        ("threads", lambda m, s, t: GibbsSampler(threads=1.5)),  # type: ignore[arg-type]
        ("sweeps", lambda m, s, t: refine(m, s, -1, t)),
        ("sweeps", lambda m, s, t: refine(m, s, 1.5, t)),  # type: ignore[arg-type]
        ("sweeps", lambda m, s, t: refine(m, s, 10**9, t)),
        ("beta", lambda m, s, t: refine(m, s, 1, t, beta=0.0)),
        ("beta", lambda m, s, t: refine(m, s, 1, t, beta=float("nan"))),
        ("spins", lambda m, s, t: refine(m, s[:, :-1], 1, t)),
        ("spins", lambda m, s, t: refine(m, s.astype(np.int16), 1, t)),
        ("spins", lambda m, s, t: refine(m, s * 0, 1, t)),
        ("streams", lambda m, s, t: refine(m, s, 1, t[:-1])),
        ("streams", lambda m, s, t: refine(m, s, 1, t.astype(np.int64))),
    ],
)
def test_bad_input_is_named(
    machine: BoltzmannMachine,
    whole: NDArray[np.int8],
    field: str,
    call: Callable[[BoltzmannMachine, NDArray[np.int8], NDArray[np.uint64]], object],
) -> None:
    streams = np.zeros((4, 2), dtype=np.uint64)
    with pytest.raises(InvalidInputError, match=r"allowed|expected") as caught:
        call(machine, whole[:4], streams)
    assert caught.value.field == field


def test_options_it_lacks_are_named(
    machine: BoltzmannMachine, conditions: NDArray[np.int8], latent_request: RequestMaker
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        GibbsSampler().sample(latent_request(machine, conditions, options=SamplerOptions(num_reads=5)))
    assert caught.value.field == "options.num_reads"


def test_warm_up_can_be_called_again() -> None:
    warm_up()
    warm_up()
