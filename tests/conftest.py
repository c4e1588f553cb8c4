"""Fixtures every test may use: seeds, small and full-size machines, requests, and exact laws by enumeration.

``QSHOWER_TEST_SEED`` changes the base seed of every statistical test.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.model.geometry import Geometry
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

pytest_plugins = ["tests.judge"]

DEFAULT_BASE_SEED = 20_260_701


def pytest_configure() -> None:
    """Programs that tests interrupt can be interrupted, though a shell's background job or nohup ignores signals."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def base_seed() -> int:
    """Seed that all statistical tests derive theirs from."""
    return int(os.environ.get("QSHOWER_TEST_SEED", DEFAULT_BASE_SEED))


@pytest.fixture
def rng(base_seed: int, request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this test alone, from the base seed and the test's name."""
    return np.random.default_rng([base_seed, zlib.crc32(request.node.name.encode())])


def random_spins(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Fair coin flips of −1 and +1."""
    return rng.integers(0, 2, size=shape, dtype=np.int8) * np.int8(2) - np.int8(1)


def random_machine(
    rng: np.random.Generator,
    *,
    free: int = 12,
    condition: int = 3,
    coupling: float = 0.5,
    field: float = 0.3,
    density: float = 0.5,
) -> BoltzmannMachine:
    """A machine of no chip: random proper colouring, nodes in random order, Gaussian biases and couplings."""
    nodes = free + condition
    partitions = np.concatenate([np.zeros(condition, np.int8), 1 + (np.arange(free) % 3).astype(np.int8)])
    partitions = rng.permutation(partitions)
    first, second = np.triu_indices(nodes, 1)
    kept = (partitions[first] != partitions[second]) & (rng.random(first.shape[0]) < density)
    edges = np.stack([first[kept], second[kept]], axis=1).astype(np.int32)
    return BoltzmannMachine(
        h=rng.normal(0.0, field, nodes).astype(np.float32),
        j=rng.normal(0.0, coupling, (edges.shape[0],)).astype(np.float32),
        edges=edges,
        partitions=partitions,
        qubits=rng.permutation(10 * nodes)[:nodes].astype(np.int64),
        topology="none",
    )


def lattice_machine(
    rng: np.random.Generator,
    family: str,
    *,
    nodes_per_partition: int = 302,
    coupling: float = 0.3,
    field: float = 0.3,
) -> BoltzmannMachine:
    """A machine on a compact block of ``family``; 4 nodes per partition make 12 free spins that can be enumerated."""
    lattice = compact_lattice(family, nodes_per_partition)
    h = rng.normal(0.0, field, lattice.node_count)
    return lattice.with_parameters(h, rng.normal(0.0, coupling, lattice.j.shape))


def latent_request(
    machine: BoltzmannMachine,
    conditions: NDArray[np.int8],
    *,
    seed: int = 0,
    first_index: int = 0,
    options: SamplerOptions | None = None,
    deadline_s: float | None = None,
) -> LatentRequest:
    """A request whose row i has stream (seed, first_index + i)."""
    rows = conditions.shape[0]
    streams = streams_of(seed, rows, first_index)
    return LatentRequest(machine, conditions, streams, options or SamplerOptions(), deadline_s)


@dataclass(frozen=True, slots=True, eq=False)
class ExactLaw:
    """P(s_free | s_0 = c) of a small machine, state by state.

    Attributes:
        free: node index of each free spin.
        spins: (states, nodes) int8, every state, condition included; state k holds +1 where bit i of k is set.
        energies: (states,) float64, summed edge by edge.
        probabilities: (states,) float64.
    """

    free: NDArray[np.int64]
    spins: NDArray[np.int8]
    energies: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    def index_of(self, spins: NDArray[np.int8]) -> NDArray[np.int64]:
        """Which state each row of ``spins`` (rows, nodes) is."""
        weights = np.int64(1) << np.arange(self.free.shape[0], dtype=np.int64)
        return (spins[:, self.free] > 0) @ weights

    def mean(self, values: NDArray[np.floating] | NDArray[np.signedinteger] | NDArray[np.bool_]) -> NDArray[np.float64]:
        """Expectation of ``values`` (states, ...)."""
        return np.tensordot(self.probabilities, values.astype(np.float64), axes=1)

    def draw(self, rng: np.random.Generator, rows: int) -> NDArray[np.int8]:
        """Independent exact draws, (rows, nodes)."""
        return self.spins[rng.choice(self.probabilities.shape[0], size=rows, p=self.probabilities)]


def enumerate_law(machine: BoltzmannMachine, condition: NDArray[np.int8]) -> ExactLaw:
    """The exact conditional law, with none of the code under test: every state, every edge, in float64."""
    free = np.flatnonzero(machine.partitions != 0)
    clamped = np.flatnonzero(machine.partitions == 0)
    assert free.shape[0] <= 20, "too many states to enumerate"
    states = np.arange(1 << free.shape[0])
    spins = np.empty((states.shape[0], machine.h.shape[0]), dtype=np.int8)
    spins[:, clamped] = condition
    for bit, node in enumerate(free.tolist()):
        spins[:, node] = ((states >> bit) & 1) * 2 - 1
    energies = np.zeros(states.shape[0])
    for node, bias in enumerate(machine.h.tolist()):
        energies += bias * spins[:, node]
    for (one, other), weight in zip(machine.edges.tolist(), machine.j.tolist(), strict=True):
        energies += weight * (spins[:, one] * spins[:, other])
    weights = np.exp(energies.min() - energies)
    return ExactLaw(free, spins, energies, weights / weights.sum())


SpinMaker = Callable[..., NDArray[np.int8]]
MachineMaker = Callable[..., BoltzmannMachine]
RequestMaker = Callable[..., LatentRequest]
LawMaker = Callable[[BoltzmannMachine, NDArray[np.int8]], ExactLaw]
LargestFile = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(scope="session", name="random_spins")
def _random_spins() -> SpinMaker:
    return random_spins


@pytest.fixture(scope="session", name="random_machine")
def _random_machine() -> MachineMaker:
    return random_machine


@pytest.fixture(scope="session", name="lattice_machine")
def _lattice_machine() -> MachineMaker:
    return lattice_machine


@pytest.fixture(scope="session", name="latent_request")
def _latent_request() -> RequestMaker:
    return latent_request


@pytest.fixture(scope="session", name="enumerate_law")
def _enumerate_law() -> LawMaker:
    return enumerate_law


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond that: the system call fails that fails when a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="session", name="largest_file")
def _largest_file() -> LargestFile:
    return largest_file


@pytest.fixture(scope="session")
def documented_sampler() -> types.ModuleType:
    """The module that docs/write-a-sampler.md shows, under the name that it has there."""
    page = Path(__file__).parents[1] / "docs" / "write-a-sampler.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    module = types.ModuleType("qshower.sampler.heat_bath")
    sys.modules[module.__name__] = module
    exec(compile(blocks[0], str(page), "exec"), module.__dict__)  # noqa: S102 - our own page
    module.row = blocks[1]  # type: ignore[attr-defined]
    return module


@pytest.fixture(scope="session")
def untrained_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two small, untrained bundles of dataset 2, ``test-zephyr`` and ``test-pegasus``."""
    import torch  # slow to load, and most tests do without

    from qshower.model.bundle import save_bundle
    from qshower.model.decoder_shape import DecoderShape
    from qshower.model.geometry import named_geometry
    from qshower.model.grid import Grid
    from qshower.model.manifest import EnergyCodeSpec, Manifest, lattice_of
    from qshower.model.trained_networks import arrays_of, build_decoder

    folder = tmp_path_factory.mktemp("bundles")
    geometry, domain = named_geometry("2"), (1000.0, 1e6)
    grid = Grid.of(geometry)
    for seed, family in enumerate(("zephyr", "pegasus")):
        torch.manual_seed(seed)
        machine = lattice_machine(np.random.default_rng(seed), family, nodes_per_partition=24, coupling=0.15)
        shape = DecoderShape(
            latent_bits=len(machine.free_nodes),
            angular_bins=grid.angular_bins,
            radial_bins=grid.radial_bins,
            domain_low_mev=domain[0],
            domain_high_mev=domain[1],
            trunk=24,
            layer_code=4,
            layer_hidden=8,
            angular_channels=2,
            voxel_channels=4,
            profile_hidden=8,
        )
        manifest = Manifest(
            name=f"test-{family}",
            description="untrained, for tests",
            default=family == "zephyr",
            geometry=geometry.as_dict(),
            domain_mev=domain,
            energy_code=EnergyCodeSpec(kind="thermometer", levels=16),
            scaling="logit",
            symmetry="dihedral",
            likelihood="sampled",
            decoder=asdict(shape),
            lattice=lattice_of(machine),
            sweeps=32,
        )
        state = arrays_of(build_decoder("sampled", shape, "logit").state_dict())
        save_bundle(folder / manifest.name, manifest, machine, state)
    return folder


ToyShowers = Callable[..., tuple[NDArray[np.float64], NDArray[np.float32]]]


@pytest.fixture(scope="session")
def toy_showers() -> ToyShowers:
    """Maker of shower-like deposits in any geometry: ``toy_showers(geometry, count, seed)``, energies in MeV.

    Energies are log-uniform; depth, response, direction and every voxel fluctuate; the law has no preferred angle.
    """

    def make(
        geometry: Geometry, count: int, seed: int, low_mev: float = 1e3, high_mev: float = 1e5
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        rng = np.random.default_rng(seed)
        energies = np.exp(rng.uniform(np.log(low_mev), np.log(high_mev), count)).astype(np.float32).astype(float)
        depth = np.concatenate([np.full(layer.voxel_count, row) for row, layer in enumerate(geometry.layers)]) / max(
            geometry.layer_count - 1, 1
        )
        radius = np.concatenate([layer.r_centres_mm() / layer.r_edges_mm[-1] for layer in geometry.layers])
        angle = np.arctan2(geometry.y_mm(), geometry.x_mm())
        peak = 0.3 + 0.05 * np.log(energies / 1e3) + rng.normal(0, 0.04, count)
        side = rng.uniform(-np.pi, np.pi, count)
        shape = np.exp(-0.5 * ((depth - peak[:, None]) / 0.15) ** 2 - radius / 0.15)
        shape *= 1 + 0.3 * np.cos(angle - side[:, None])
        response = 0.9 + 0.1 * rng.normal(size=count) * np.sqrt(1e3 / energies)
        expected = shape / shape.sum(axis=1, keepdims=True) * (response * energies)[:, None]
        showers = expected * rng.gamma(4.0, 0.25, expected.shape)
        showers[showers < max(geometry.threshold_mev, 1e-3)] = 0
        return energies, showers.astype(np.float32)

    return make
