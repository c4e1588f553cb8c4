"""The samplers that the contract suite runs over. To add one, write a builder and enter it in ``BUILDERS``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.protocol import Sampler
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.replay import ReplaySampler, draw_bank
from qshower.sampler.request import SamplerOptions
from qshower.sampler.tempering import TemperingSampler

SEED = 417


@dataclass(frozen=True, slots=True, eq=False)
class ContractCase:
    """A sampler and what the suite may ask of it.

    Attributes:
        build: makes another sampler of the kind (the suite closes it), of a number of ``threads`` if reproducible.
        sampler: one that the suite shares and does not close.
        machine: 16 nodes on a Zephyr block, 4 of them the condition's.
        levels: (4, condition nodes) int8, conditions it can draw for.
        options: those the suite draws with.
        option_values: a good value for each option it takes.
        bad_values: values of these options that it must refuse.
    """

    name: str
    build: Callable[..., Sampler]
    sampler: Sampler
    machine: BoltzmannMachine
    levels: NDArray[np.int8]
    options: SamplerOptions = field(default_factory=SamplerOptions)
    option_values: dict[str, Any] = field(default_factory=dict)
    bad_values: dict[str, tuple[Any, ...]] = field(default_factory=dict)


Builder = Callable[[BoltzmannMachine, NDArray[np.int8], Path], Any]


@contextmanager
def _classical(
    kind: Callable[..., Sampler], machine: BoltzmannMachine, levels: NDArray[np.int8], folder: Path
) -> Iterator[ContractCase]:
    with kind(threads=2) as sampler:
        yield ContractCase(
            name=sampler.name,
            build=kind,
            sampler=sampler,
            machine=machine,
            levels=levels,
            options=SamplerOptions(sweeps=16),
            option_values={"sweeps": 3},
            bad_values={"sweeps": (0, -1, 10**9, 2.5, True)},
        )


@contextmanager
def _replay(machine: BoltzmannMachine, levels: NDArray[np.int8], folder: Path) -> Iterator[ContractCase]:
    path = folder / "latents.hdf5"
    with AnnealingSampler() as source:
        draw_bank(path, source, machine, np.repeat(levels, 500, axis=0), seed=SEED, options=SamplerOptions(sweeps=16))
    with ReplaySampler(path) as sampler:
        yield ContractCase(
            name="replay", build=lambda: ReplaySampler(path), sampler=sampler, machine=machine, levels=levels
        )


@contextmanager
def _qpu(machine: BoltzmannMachine, levels: NDArray[np.int8], folder: Path) -> Iterator[ContractCase]:
    """Ocean's own client, against the emulator on a chip with 3 % defects."""
    with EmulatorServer(EmulatorConfig(topology="zephyr:12", defects=0.03, sweeps=32, seed=SEED)) as server:

        def build() -> QpuSampler:
            return QpuSampler(
                QpuSettings(endpoint=server.endpoint, token="any", state_dir=folder, calibration_reads=50)
            )

        with build() as sampler:
            yield ContractCase(
                name="qpu",
                build=build,
                sampler=sampler,
                machine=machine,
                levels=levels,
                option_values={
                    "num_reads": 8,
                    "annealing_time_us": 30.0,
                    "gauges": 2,
                    "refine_sweeps": 2,
                    "condition_mode": "flux_bias",
                    "max_qpu_access_time_us": 1e6,
                    "solver": "zephyr",
                },
                bad_values={
                    "num_reads": (0, -1, 2.5, True),
                    "annealing_time_us": (0.0, -1.0, 1e9),
                    "gauges": (0, 1.5),
                    "refine_sweeps": (-1, 1.5),
                    "condition_mode": ("magic",),
                    "max_qpu_access_time_us": (-5.0, float("nan")),
                },
            )


BUILDERS: dict[str, Builder] = {
    "gibbs": partial(_classical, GibbsSampler),
    "annealing": partial(_classical, AnnealingSampler),
    "tempering": partial(_classical, TemperingSampler),
    "replay": _replay,
    "qpu": _qpu,
}
DOCUMENTED = "heat-bath"
"""The sampler that docs/write-a-sampler.md adds."""


@pytest.fixture(scope="session", params=[*BUILDERS, DOCUMENTED])
def case(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    lattice_machine: Callable[..., BoltzmannMachine],
    random_spins: Callable[..., NDArray[np.int8]],
    documented_sampler: ModuleType,
) -> Iterator[ContractCase]:
    """Each sampler in turn, on one machine."""
    rng = np.random.default_rng(SEED)
    machine = lattice_machine(rng, "zephyr", nodes_per_partition=4)
    levels = np.unique(random_spins(rng, (32, 4)), axis=0)[:4]
    builders: dict[str, Builder] = {**BUILDERS, DOCUMENTED: partial(_classical, documented_sampler.HeatBathSampler)}
    with builders[request.param](machine, levels, tmp_path_factory.mktemp(request.param)) as built:
        yield built
