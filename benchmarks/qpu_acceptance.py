"""Calibration and showers of the pretrained models through the QPU path, against what they should be.

*Calibration*: the sampler's own, at its default settings, beside the beta that best fits: the hidden one if the
emulator has no control errors, and otherwise the scale of largest pseudolikelihood (worked out here, by another
minimiser) of other reads, at the strength of a draw, on the same qubits, in as many gauges as it takes to know it to a
given error.

*Showers*: FPD and KPD between showers of QPU latents, as read and with the default refinement, and of Gibbs latents of
the same energies, beside the floor: Gibbs against Gibbs with another seed.

*Strong*: the pretrained machines forget where they start within a few sweeps, and their decoders add much chance of
their own. So the same with a strongly coupled machine in place of the model's, after more and more refinement sweeps,
for showers of one energy, and with the same random numbers in both sets' decoders, row by row: what differs is latents
alone. Beside the floor there are coin flips in place of latents.

    python -m benchmarks.qpu_acceptance --output benchmarks/qpu_acceptance_results.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import asdict, dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from qshower.evaluation.distances import fpd, kpd
from qshower.evaluation.features import compute_features
from qshower.model.bundle import Bundle, find_bundles, load_bundle
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.gibbs.chains import refine
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.protocol import Sampler
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.access import QpuAccess
from qshower.sampler.qpu.drawing.draw import draw
from qshower.sampler.qpu.drawing.part_reads import PartReads
from qshower.sampler.qpu.embedding.gauges import GAUGES_OF_A_SET
from qshower.sampler.qpu.planning.gauge_shares import gauge_of_reads
from qshower.sampler.qpu.planning.packing import Part, Programming
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings
from qshower.sampler.qpu.usage import Usage
from qshower.sampler.request import LatentRequest, SamplerOptions, streams_of

BUNDLES = {"zephyr:12": "electron-zephyr", "pegasus:16": "electron-pegasus"}
CONDITIONS = 4
EMULATOR_SWEEPS = 128
"""The pretrained machines forget their start within eight sweeps, but with control errors of 3 % at a beta of 7 their
couplings are those of a spin glass near its transition: 32 sweeps leave it almost a percent too hot."""
GAUGES_AT_ONCE = 32
BINS = 4096
MOST_GAUGES = 1600
DEFAULT_SEED = 7
STRONG_COUPLING = 0.25
"""Standard deviation of a strong machine's couplings (kT), about a hundred times those of the pretrained ones."""
STRONG_ENERGY_MEV = 65536.0
STRONG_SWEEPS = (0, 1, 4, 16, 64)
STRONG_REFERENCE_SWEEPS = 512


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """One calibration; errors are one standard error, ``deviation`` is beta / best − 1."""

    topology: str
    seed: int
    hidden_beta: float
    control_error: float
    beta: float
    beta_error: float
    by_pseudolikelihood: float
    by_energies: float | None
    best_fit: float
    best_fit_error: float
    best_fit_gauges: int
    deviation: float
    reads: int
    gauges: int
    access_time_ms: float
    amplification: float


@dataclass(frozen=True, slots=True)
class ShowerRow:
    """Distances of a set of showers of the same energies to one set of Gibbs showers.

    ``shift`` is the root mean square, over the features, of their mean differences in standard errors; None if rows of
    the two sets have nothing in common.
    """

    topology: str
    sample: str
    showers: int
    hidden_beta: float | None
    control_error: float | None
    beta: float | None
    missing_qubits: int | None
    refine_sweeps: int | None
    fpd: float
    fpd_error: float
    kpd: float
    kpd_error: float
    shift: float | None = None


def emulator_of(topology: str, hidden: float, error: float, seed: int = DEFAULT_SEED) -> EmulatorConfig:
    """The emulated solver of one cell: chip ``seed``."""
    return EmulatorConfig(
        topology=topology,
        defects=0.03,
        beta=hidden,
        control_error_h=error,
        control_error_j=error,
        seed=seed,
        sweeps=EMULATOR_SWEEPS,
    )


def settings_for(emulator: EmulatorServer, folder: str) -> QpuSettings:
    """Default settings, with time for a busy machine."""
    return QpuSettings(
        endpoint=emulator.endpoint,
        token="emulator",  # noqa: S106 - the emulator takes any
        state_dir=Path(folder),
        deadline_s=1800.0,
    )


def refined(
    request: LatentRequest, states: NDArray[np.int8], sweeps: Iterable[int]
) -> Iterator[tuple[int, NDArray[np.int8]]]:
    """Numbers of sweeps, ascending, and ``states`` (rows, nodes), drawn for ``request``, after so many."""
    done = 0
    for count in sweeps:
        # Streams of their own for each stretch: a stream must not be used twice.
        streams = request.streams + np.array([[1 + count, 0]], dtype=np.uint64)
        states, done = refine(request.machine, states, count - done, streams), count
        yield count, states


def request_of(bundle: Bundle, energies: NDArray[np.float64], seed: int, options: SamplerOptions) -> LatentRequest:
    """A request for showers of these energies."""
    streams = streams_of(seed, energies.size)
    return LatentRequest(bundle.machine, bundle.conditions(energies), streams, options, deadline_s=1200.0)


def best_fit(
    bundle: Bundle,
    conditions: NDArray[np.int8],
    settings: QpuSettings,
    beta: float,
    reads: int,
    error: float,
    rng: np.random.Generator,
) -> tuple[float, float, int]:
    """The beta of largest pseudolikelihood, its standard error, and the gauges behind it.

    ``reads`` reads in each gauge, gauges of ``rng``, until the relative error is ``error``.
    """
    access = QpuAccess(settings)
    try:
        streams = np.zeros((len(conditions), 2), dtype=np.uint64)
        request = LatentRequest(bundle.machine, conditions, streams, deadline_s=1200.0)
        info = access.find(request, access.terms(request).limit.deadline)
        plan = access.planner.calibration(request, info).measurement
        (measured,) = plan.programmings
        total = GAUGES_AT_ONCE * reads
        parts = tuple(Part(part.condition, part.copy, np.arange(total)) for part in measured.parts)
        plan = replace(plan, programmings=(Programming(parts, total, GAUGES_AT_ONCE),))
        sets: list[PullCounts] = []
        with access.session(info, access.terms(request), Usage()) as session:
            while True:
                drawn = draw(replace(session, terms=access.terms(request), rng=rng), plan, beta).whole()
                pulls = [pulls_of(part) for part in drawn]
                belongs_to = gauge_of_reads(total, GAUGES_AT_ONCE) // GAUGES_OF_A_SET
                sets += [
                    PullCounts.of([one[belongs_to == number] for one in pulls]) for number in np.unique(belongs_to)
                ]
                scale, spread = fitted_scale(sets)
                if spread <= error * scale or len(sets) * GAUGES_OF_A_SET >= MOST_GAUGES:
                    return beta * scale, beta * spread, len(sets) * GAUGES_OF_A_SET
    finally:
        access.close()


@dataclass(frozen=True, slots=True, eq=False)
class PullCounts:
    """How often each pull −2 s_i f_i occurs in the reads of one set of gauges, in narrow bins."""

    pulls: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, pulls: list[NDArray[np.float32]]) -> PullCounts:
        """Counted over all of ``pulls``."""
        most = max(float(np.abs(one).max()) for one in pulls)
        counts, edges = np.histogram(np.concatenate([one.ravel() for one in pulls]), BINS, (-most, most))
        return cls((edges[1:] + edges[:-1]) / 2.0, counts.astype(np.float64))

    def loss(self, r: float) -> float:
        """Σ log(1 + exp(−r a))."""
        return float(self.counts @ np.logaddexp(0.0, -r * self.pulls))

    def slope_and_curve(self, r: float) -> tuple[float, float]:
        """Minus the first, and the second derivative of the loss."""
        up = 1.0 / (1.0 + np.exp(r * self.pulls))
        return float(self.counts @ (self.pulls * up)), float(self.counts @ (self.pulls**2 * up * (1.0 - up)))


def pulls_of(part: PartReads) -> NDArray[np.float32]:
    """(reads, n) −2 s_i f_i of one part."""
    felt = part.embedding.layout.local_fields(part.fields, part.spins)
    return (-2.0 * part.factor * part.spins * felt).astype(np.float32)


def fitted_scale(sets: list[PullCounts]) -> tuple[float, float]:
    """The r of least loss over all sets, and its standard error from how the sets differ."""

    def loss(r: float) -> float:
        return sum(one.loss(r) for one in sets)

    r = float(minimize_scalar(loss, bounds=(0.1, 3.0), method="bounded", options={"xatol": 1e-5}).x)
    slopes, curves = np.array([one.slope_and_curve(r) for one in sets]).T
    # At the minimum the slopes add up to nought; each set alone would have moved it by slope over the whole curve.
    return r, float(np.sqrt(len(sets) / (len(sets) - 1) * (slopes**2).sum()) / curves.sum())


def calibrate(
    topology: str,
    bundle: Bundle,
    seed: int,
    hidden: float,
    error: float,
    reads: int,
    fit_error: float,
    fit: tuple[float, float, int] | None = None,
) -> CalibrationRow:
    """One emulator, calibrated; ``fit`` is what ``best_fit`` found before on an emulator of the same settings."""
    conditions = bundle.conditions(np.geomspace(*bundle.domain_mev, CONDITIONS + 2)[1:-1])
    config = emulator_of(topology, hidden, error, seed)
    with tempfile.TemporaryDirectory() as folder, EmulatorServer(config) as emulator:
        settings = settings_for(emulator, folder)
        with QpuSampler(settings) as sampler:
            found = operations.calibrate(sampler.access, bundle.machine, conditions, deadline_s=1200.0)
            used_us = sampler.availability(bundle.machine).detail["budget"]["used_today_us"]
        target = (hidden, 0.0, 0) if fit is None else fit
        if error and fit is None:
            # Gauges of its own for each cell: with the same ones, what they happen to be off by is the same in all.
            rng = np.random.default_rng([99, seed, round(1000 * hidden), round(1e4 * error)])
            target = best_fit(bundle, conditions, settings, found.beta, reads, fit_error, rng)
    return CalibrationRow(
        topology=topology,
        seed=seed,
        hidden_beta=hidden,
        control_error=error,
        beta=found.beta,
        beta_error=found.beta_error,
        by_pseudolikelihood=found.beta_pseudolikelihood,
        by_energies=found.beta_energies,
        best_fit=target[0],
        best_fit_error=target[1],
        best_fit_gauges=target[2],
        deviation=found.beta / target[0] - 1.0,
        reads=found.reads,
        gauges=found.gauges,
        access_time_ms=used_us / 1000.0,
        amplification=found.amplification,
    )


def compare(
    topology: str, bundle: Bundle, showers: int, cells: list[tuple[float, float]], floors: int
) -> Iterator[ShowerRow]:
    """``floors`` other sets of Gibbs showers, and QPU showers of each (hidden beta, control error) of ``cells``.

    All are compared with the same Gibbs showers. Nothing without ``cells``.
    """
    if not cells:
        return
    low, high = np.log(bundle.domain_mev)
    energies = np.exp(np.random.default_rng(5).uniform(low, high, showers))

    def features(sampler: Sampler, seed: int, options: SamplerOptions) -> tuple[NDArray[np.float64], dict[str, object]]:
        request = request_of(bundle, energies, seed, options)
        batch = sampler.sample(request)
        drawn = bundle.decode(batch.spins, energies, request.streams, bundle.geometry.threshold_mev)
        made = {name: getattr(batch.provenance, name) for name in ("beta", "missing_qubits", "refine_sweeps")}
        return compute_features(bundle.geometry, energies, drawn).matrix(), made

    def row(
        sample: str,
        drawn: NDArray[np.float64],
        made: dict[str, object],
        hidden: float | None = None,
        error: float | None = None,
    ) -> ShowerRow:
        far, kernel = fpd(reference, drawn), kpd(reference, drawn)
        return ShowerRow(
            topology=topology,
            sample=sample,
            showers=showers,
            hidden_beta=hidden,
            control_error=error,
            fpd=far.value,
            fpd_error=far.error,
            kpd=kernel.value,
            kpd_error=kernel.error,
            **made,  # type: ignore[arg-type]
        )

    gibbs = GibbsSampler(threads=1)
    sweeps = SamplerOptions(sweeps=64)
    reference, _ = features(gibbs, 1, sweeps)
    for seed in range(10, 10 + floors):
        yield row("gibbs", *features(gibbs, seed, sweeps))
    for hidden, error in cells:
        with (
            tempfile.TemporaryDirectory() as folder,
            EmulatorServer(emulator_of(topology, hidden, error)) as emulator,
            QpuSampler(settings_for(emulator, folder)) as sampler,
        ):
            for options in (SamplerOptions(refine_sweeps=0), SamplerOptions()):
                yield row("qpu", *features(sampler, 3, options), hidden, error)


def with_strong_machine(bundle: Bundle) -> Bundle:
    """The same model with random fields and strong random couplings for the law of its latents."""
    rng, strong, lattice = np.random.default_rng(1), copy(bundle), bundle.machine
    strong.machine = lattice.with_parameters(
        rng.normal(0, 0.2, lattice.node_count).astype(np.float32),
        rng.normal(0, STRONG_COUPLING, len(lattice.edges)).astype(np.float32),
    )
    return strong


def compare_strong(
    topology: str, bundle: Bundle, showers: int, cells: list[tuple[float, float]], floors: int
) -> Iterator[ShowerRow]:
    """As ``compare``, of showers of one energy with the same random numbers in the decoder, by a strong machine."""
    if not cells:
        return
    bundle = with_strong_machine(bundle)
    machine, energies = bundle.machine, np.full(showers, STRONG_ENERGY_MEV)
    streams = request_of(bundle, energies, 1, SamplerOptions()).streams

    def features(spins: NDArray[np.int8]) -> NDArray[np.float64]:
        drawn = bundle.decode(spins, energies, streams, bundle.geometry.threshold_mev)
        return compute_features(bundle.geometry, energies, drawn).matrix()

    def latents(seed: int) -> NDArray[np.int8]:
        request = request_of(bundle, energies, seed, SamplerOptions(sweeps=STRONG_REFERENCE_SWEEPS))
        return GibbsSampler(threads=1).sample(request).spins

    def row(sample: str, spins: NDArray[np.int8], **made: Any) -> ShowerRow:
        drawn = features(spins)
        far, kernel = fpd(reference, drawn), kpd(reference, drawn)
        differences = drawn - reference
        errors = differences.std(axis=0, ddof=1) / np.sqrt(showers)
        pulls = differences.mean(axis=0)[errors > 0] / errors[errors > 0]
        nothing = {
            "hidden_beta": None,
            "control_error": None,
            "beta": None,
            "missing_qubits": None,
            "refine_sweeps": None,
        }
        return ShowerRow(
            topology=topology,
            sample=sample,
            showers=showers,
            fpd=far.value,
            fpd_error=far.error,
            kpd=kernel.value,
            kpd_error=kernel.error,
            shift=float(np.sqrt((pulls**2).mean())),
            **(nothing | made),
        )

    first = latents(1)
    reference = features(first)
    for seed in range(10, 10 + floors):
        yield row("strong gibbs", latents(seed))
    coins = np.random.default_rng(2).choice(np.array([-1, 1], dtype=np.int8), size=first.shape)
    coins[:, machine.condition_nodes] = first[:, machine.condition_nodes]
    yield row("strong coins", coins)
    for hidden, error in cells:
        with (
            tempfile.TemporaryDirectory() as folder,
            EmulatorServer(replace(emulator_of(topology, hidden, error), sweeps=2 * EMULATOR_SWEEPS)) as emulator,
            QpuSampler(settings_for(emulator, folder)) as sampler,
        ):
            request = request_of(bundle, energies, 3, SamplerOptions(refine_sweeps=0))
            batch = sampler.sample(request)
        made = batch.provenance
        for sweeps, states in refined(request, batch.spins, STRONG_SWEEPS):
            yield row(
                "strong qpu",
                states,
                hidden_beta=hidden,
                control_error=error,
                beta=made.beta,
                missing_qubits=made.missing_qubits,
                refine_sweeps=sweeps,
            )


def cell_of(text: str) -> tuple[float, float]:
    """``BETA:ERROR`` as numbers."""
    hidden, error = text.split(":")
    return float(hidden), float(error)


def main() -> None:
    """Print the tables; write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", nargs="+", choices=list(BUNDLES), default=list(BUNDLES))
    parser.add_argument("--seed", type=int, nargs="+", default=[DEFAULT_SEED], help="chips: seeds of the emulator")
    parser.add_argument("--beta", type=float, nargs="*", default=[3.2, 4.4, 7.0])
    parser.add_argument("--control-error", type=float, nargs="+", default=[0.01, 0.02, 0.03])
    parser.add_argument("--showers", type=int, default=2000, help="showers of each set; 0 leaves them out")
    parser.add_argument("--floors", type=int, default=4, help="sets of Gibbs showers that the floor is taken from")
    parser.add_argument(
        "--shower-cells",
        type=cell_of,
        nargs="*",
        default=[(3.2, 0.01), (4.4, 0.02), (7.0, 0.03)],
        metavar="BETA:ERROR",
        help="hidden beta and control error of the QPU showers (default: 3.2:0.01 4.4:0.02 7:0.03)",
    )
    parser.add_argument(
        "--strong-cells",
        type=cell_of,
        nargs="*",
        default=[(4.4, 0.02)],
        metavar="BETA:ERROR",
        help="the same of the QPU showers of a strongly coupled machine (default: 4.4:0.02)",
    )
    parser.add_argument("--reads", type=int, default=48, help="reads in each gauge of the best fit")
    parser.add_argument("--fit-error", type=float, default=0.003, help="relative standard error of the best fit")
    parser.add_argument("--fits", type=Path, help="take best fits from this earlier output, where it has them")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, object]]] = {"calibration": [], "showers": []}

    def keep(kind: str, row: CalibrationRow | ShowerRow) -> None:
        found[kind].append(asdict(row))
        if arguments.output is not None:
            arguments.output.write_text(json.dumps(found, indent=1) + "\n")

    fits: dict[tuple[str, int, float, float], tuple[float, float, int]] = {}
    if arguments.fits is not None:
        for one in json.loads(arguments.fits.read_text())["calibration"]:
            cell = (one["topology"], one["seed"], one["hidden_beta"], one["control_error"])
            fits[cell] = (one["best_fit"], one["best_fit_error"], one["best_fit_gauges"])
    folders = find_bundles()
    bundles = {topology: load_bundle(folders[BUNDLES[topology]]) for topology in arguments.topology}
    if arguments.showers:
        print(
            f"{'topology':12}{'sample':14}{'hidden':>6}{'errors':>8}{'showers':>8}{'lost':>6}{'refine':>7}"
            f"{'beta':>8}{'FPD x 1000':>18}{'KPD x 1000':>18}{'shift':>8}"
        )
        for topology, bundle in bundles.items():
            samples = chain(
                compare(topology, bundle, arguments.showers, arguments.shower_cells, arguments.floors),
                compare_strong(topology, bundle, arguments.showers, arguments.strong_cells, arguments.floors),
            )
            for shower in samples:
                keep("showers", shower)
                shown = f"{shower.hidden_beta or 0:6.1f}{shower.control_error or 0:8.0%}"
                print(
                    f"{topology:12}{shower.sample:14}{shown}{shower.showers:8d}{shower.missing_qubits or 0:6d}"
                    f"{shower.refine_sweeps or 0:7d}"
                    f"{shower.beta or 1.0:8.3f}{1e3 * shower.fpd:10.3f} ± {1e3 * shower.fpd_error:.3f}"
                    f"{1e3 * shower.kpd:10.3f} ± {1e3 * shower.kpd_error:.3f}"
                    f"{'' if shower.shift is None else f'{shower.shift:8.2f}'}",
                    flush=True,
                )
    print(
        f"{'topology':12}{'seed':>5}{'hidden':>7}{'errors':>8}{'beta':>16}{'best fit':>18}{'deviation':>11}"
        f"{'access ms':>11}"
    )
    for seed, error, hidden in product(arguments.seed, arguments.control_error, arguments.beta):
        for topology, bundle in bundles.items():
            fit = fits.get((topology, seed, hidden, error))
            row = calibrate(topology, bundle, seed, hidden, error, arguments.reads, arguments.fit_error, fit)
            keep("calibration", row)
            print(
                f"{topology:12}{seed:5d}{hidden:7.1f}{error:8.0%}{row.beta:9.3f} ± {row.beta_error:.3f}"
                f"{row.best_fit:10.3f} ± {row.best_fit_error:.3f}{row.deviation:+11.2%}{row.access_time_ms:11.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
