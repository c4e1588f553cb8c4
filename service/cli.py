"""The command line: flags and help. What a command does is in service.commands, loaded when it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from qshower.service.commands.export import export
from qshower.service.commands.flags import GeometryChoice
from qshower.service.sampler_table import SAMPLERS

# Typer reads these annotations at run time.
# ruff: noqa: UP045, FBT002

app = typer.Typer(
    name="qshower",
    help="Calorimeter showers from a Boltzmann machine on the qubits of a quantum annealer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
bank_app = typer.Typer(no_args_is_help=True, help="Store latents in a file, and look into it.", rich_markup_mode=None)
app.add_typer(bank_app, name="bank")
app.command(epilog="Example: qshower export showers.hdf5 --to showerdata -o clouds.h5")(export)

SAMPLER_NAMES = ", ".join(SAMPLERS)
EnergiesMev = Annotated[Optional[str], typer.Option(help="Incident energies, with commas between.")]
LogUniformMev = Annotated[Optional[str], typer.Option(help="LOW:HIGH, energies uniform in the logarithm.")]
Solver = Annotated[Optional[str], typer.Option(help="QPU solver by name, or pegasus / zephyr.")]
Model = Annotated[Optional[str], typer.Option(help="Name of a bundle.")]
NumReads = Annotated[Optional[int], typer.Option(help="qpu: reads of each problem.")]
AnnealingTimeUs = Annotated[Optional[float], typer.Option(help="qpu: anneal time.")]
Gauges = Annotated[Optional[int], typer.Option(help="qpu: gauges averaged over.")]
RefineSweeps = Annotated[Optional[int], typer.Option(help="qpu: Gibbs sweeps after the draw.")]
ConditionMode = Annotated[Optional[str], typer.Option(help="qpu: fold or flux_bias.")]
ConnectWaitS = Annotated[float, typer.Option(help="Seconds to wait for --url where nobody listens yet.")]
MaxQpuAccessTimeUs = Annotated[Optional[float], typer.Option(help="qpu: refuse if the estimate is above.")]


def main() -> None:
    """Run the command line. Errors are one line on standard error; exit code 2 for what was given, 1 for the rest."""
    from qshower.sampler.errors import InvalidInputError, QShowerError
    from qshower.sampler.files import stopping

    try:
        with stopping():
            app()
    except InvalidInputError as error:
        _end(error, 2)
    except BrokenPipeError:
        # The reader of the output has gone; nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (QShowerError, OSError) as error:
        _end(error, 1)
    except ModuleNotFoundError as error:
        if error.name in ("sklearn", "scipy", "threadpoolctl"):
            _end(ModuleNotFoundError(f"{error.name} is not installed: pip install 'qshower[evaluate]'"), 1)
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        _end_of_client(error)
        raise


def _end_of_client(error: Exception) -> None:
    """End with the line of an error of the client, if it is one. The client's own packages are loaded where it is."""
    if "qshower.client.client_errors" in sys.modules:
        from qshower.client.client_errors import ClientConfigurationError, InvalidRequestError, ShowerServiceError

        if isinstance(error, ShowerServiceError):
            _end(error, 2 if isinstance(error, InvalidRequestError | ClientConfigurationError) else 1)


def _end(error: Exception, code: int) -> None:
    print(f"qshower: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:  # noqa: FBT001 - the signature of a Typer callback
    if wanted:
        from qshower.service.version import program_version

        print(f"qshower {program_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@app.command(epilog="Example: qshower serve --port 8080")
def serve(
    host: Annotated[Optional[str], typer.Option(help="Address to listen on [QSHOWER_HOST, 127.0.0.1].")] = None,
    port: Annotated[Optional[int], typer.Option(help="Port; 0 takes a free one [QSHOWER_PORT, 8000].")] = None,
    grpc_port: Annotated[
        Optional[int], typer.Option(help="Port of KServe v2 over gRPC [QSHOWER_GRPC_PORT, none].")
    ] = None,
    allow_open: Annotated[
        Optional[bool], typer.Option("--allow-open", help="Listen beyond loopback without API keys.")
    ] = None,
) -> None:
    """Answer requests for showers over HTTP until SIGTERM or Ctrl-C."""
    from qshower.service.server import serve as run
    from qshower.service.settings import load_settings

    run(load_settings(host=host, port=port, grpc_port=grpc_port, allow_open=allow_open))


@app.command(
    epilog="Examples: qshower generate --energies-mev 1000,65536 -n 10 --seed 1 -o out.hdf5 | "
    "qshower generate --log-uniform-mev 1000:1000000 -n 1000 -o out.hdf5 | qshower generate --like g4.hdf5 -o out.hdf5"
)
def generate(
    output: Annotated[Path, typer.Option("--output", "-o", help="HDF5 file to write, in the CaloChallenge's layout.")],
    energies_mev: EnergiesMev = None,
    log_uniform_mev: LogUniformMev = None,
    like: Annotated[Optional[Path], typer.Option(help="One shower for each incident energy of this file.")] = None,
    count: Annotated[
        Optional[int], typer.Option("-n", help="Showers: of each energy, in all, or the first of --like's file.")
    ] = None,
    sampler: Annotated[str, typer.Option(help=f"auto, {SAMPLER_NAMES}.")] = "auto",
    fallback: Annotated[
        Optional[str], typer.Option(help="Samplers to try if that is unavailable, with commas.")
    ] = None,
    solver: Solver = None,
    model: Model = None,
    seed: Annotated[Optional[int], typer.Option(help="Shower i uses stream (seed, i).")] = None,
    sweeps: Annotated[
        Optional[int], typer.Option(help="gibbs, annealing, tempering: updates of every free spin.")
    ] = None,
    num_reads: NumReads = None,
    annealing_time_us: AnnealingTimeUs = None,
    gauges: Gauges = None,
    refine_sweeps: RefineSweeps = None,
    condition_mode: ConditionMode = None,
    max_qpu_access_time_us: MaxQpuAccessTimeUs = None,
    threshold_mev: Annotated[
        Optional[float], typer.Option(help="Voxels below become 0; default: the geometry's.")
    ] = None,
    url: Annotated[Optional[str], typer.Option(help="Ask this server instead of drawing in process.")] = None,
    api_key: Annotated[Optional[str], typer.Option(envvar="QSHOWER_API_KEY", help="Key for --url.")] = None,
    connect_wait_s: ConnectWaitS = 0.0,
) -> None:
    """Write showers to a file."""
    from qshower.service.commands.draw_request import Request
    from qshower.service.commands.generate import run
    from qshower.service.commands.options import check_choice, sampler_options

    options = sampler_options(
        sweeps=sweeps,
        num_reads=num_reads,
        annealing_time_us=annealing_time_us,
        gauges=gauges,
        refine_sweeps=refine_sweeps,
        condition_mode=condition_mode,
        max_qpu_access_time_us=max_qpu_access_time_us,
    )
    checked = check_choice(
        sampler,
        fallback,
        seed=seed,
        threshold_mev=threshold_mev,
        count=count,
        solver=solver,
        model=model,
        connect_wait_s=connect_wait_s,
    )
    run(
        Request(
            output=output,
            energies_mev=energies_mev,
            log_uniform_mev=log_uniform_mev,
            like=like,
            count=count,
            sampler=sampler,
            fallback=checked,
            solver=solver,
            model=model,
            seed=seed,
            options=options,
            threshold_mev=threshold_mev,
            url=url,
            api_key=api_key,
            connect_wait_s=connect_wait_s,
        )
    )


@app.command(epilog="Example: qshower train model/training/zephyr.yaml")
def train(
    config: Annotated[Path, typer.Argument(help="Configuration of the training, YAML.")],
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint, if there is one.")] = True,
    check_data: Annotated[bool, typer.Option(help="Refuse showers in another unit than MeV, or mostly empty.")] = True,
) -> None:
    """Train a model and write its bundle; started again after a stop, it goes on where it was."""
    from qshower.service.commands.train import run

    run(config, resume=resume, check_data=check_data)


@app.command(
    epilog="Example: qshower evaluate geant4.hdf5 out.hdf5 -o report/; "
    "or: qshower evaluate geant4.hdf5 --bundle electron-zephyr --no-classifiers -o report/"
)
def evaluate(
    reference: Annotated[Path, typer.Argument(help="Geant4 showers.")],
    samples: Annotated[Optional[list[Path]], typer.Argument(help="Showers to judge, one file a generator.")] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for index.html and report.json.")],
    quick: Annotated[bool, typer.Option("--quick", help="Smaller networks, fewer rows: a run of minutes.")] = False,
    classifiers: Annotated[bool, typer.Option(help="Train the neural classifiers.")] = True,
    floor_reference: Annotated[Optional[Path], typer.Option(help="A second Geant4 file, for the floors.")] = None,
    geometry: GeometryChoice = None,
    bundle: Annotated[Optional[str], typer.Option(help="Folder or name of a bundle to judge, prior by prior.")] = None,
    prior_showers: Annotated[int, typer.Option(help="Showers of each prior of --bundle; 0: none.")] = 1400,
    name: Annotated[Optional[list[str]], typer.Option(help="Name of a sample in figures; once for each.")] = None,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
) -> None:
    """Judge showers against a reference, the CaloChallenge's way."""
    from qshower.service.commands.options import check_files, check_flags

    check_flags(prior_showers=prior_showers, evaluation_seed=seed)
    check_files(reference, *(samples or []), *([] if floor_reference is None else [floor_reference]))
    from qshower.evaluation.report import Choices  # loads torch and scikit-learn
    from qshower.service.commands.evaluate import bundle_folder, run

    choices = Choices(
        geometry=geometry,
        quick=quick,
        classifiers=classifiers,
        floor_reference=floor_reference,
        bundle=None if bundle is None else bundle_folder(bundle),
        prior_showers=prior_showers,
        names=name or None,
        seed=seed,
    )
    run(reference, samples or [], output, choices)


@app.command(epilog="Example: qshower samplers --url http://127.0.0.1:8000")
def samplers(
    url: Annotated[Optional[str], typer.Option(help="Ask this server instead of this machine.")] = None,
    api_key: Annotated[Optional[str], typer.Option(envvar="QSHOWER_API_KEY", help="Key for --url.")] = None,
    connect_wait_s: ConnectWaitS = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")] = False,
) -> None:
    """Show which samplers can be used now, and why not."""
    from qshower.service.commands.options import check_flags
    from qshower.service.commands.samplers import run

    check_flags(connect_wait_s=connect_wait_s)
    run(url, api_key, connect_wait_s=connect_wait_s, as_json=as_json)


@app.command(epilog="Example: qshower inspect out.hdf5 -o pictures/")
def inspect(
    path: Annotated[Path, typer.Argument(help="A shower file, or the folder of a bundle (or the name of one).")],
    output: Annotated[Optional[Path], typer.Option("--output", "-o", help="Folder for pictures.")] = None,
    geometry: GeometryChoice = None,
) -> None:
    """Show what a bundle or a shower file holds."""
    from qshower.service.commands.inspect import run

    run(path, output, geometry)


@app.command(epilog="Example: qshower emulator --topology zephyr:12 --port 8100 --defects 0.03")
def emulator(
    topology: Annotated[str, typer.Option(help="zephyr:12, zephyr:6, pegasus:16 or another size.")] = "zephyr:12",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    defects: Annotated[float, typer.Option(help="Fraction of qubits missing.")] = 0.03,
    beta: Annotated[float, typer.Option(help="Hidden effective inverse temperature.")] = 4.0,
    seed: Annotated[int, typer.Option(help="Fixes defects, errors and draws.")] = 0,
    token: Annotated[Optional[str], typer.Option(help="The only token accepted; default: any.")] = None,
    noise: Annotated[
        Optional[str], typer.Option(help="none, low, typical or high: errors of control and readout.")
    ] = None,
    queue_s: Annotated[float, typer.Option(help="Seconds each problem waits.")] = 0.0,
    fault: Annotated[Optional[list[str]], typer.Option(help="NAME or NAME:COUNT; may be repeated.")] = None,
) -> None:
    """Serve the solver API of a quantum annealer on this machine, until SIGTERM or Ctrl-C."""
    from qshower.service.commands.emulator import run

    values: dict[str, Any] = {
        "topology": topology,
        "port": port,
        "defects": defects,
        "beta": beta,
        "seed": seed,
        "token": token,
        "queue_s": queue_s,
        "faults": tuple(fault or ()),
    }
    run(values, noise)


@bank_app.command(
    "draw", epilog="Example: qshower bank draw --log-uniform-mev 1000:1000000 -n 10000 --seed 1 -o bank.hdf5"
)
def bank_draw(
    output: Annotated[Path, typer.Option("--output", "-o", help="Bank to write.")],
    energies_mev: EnergiesMev = None,
    log_uniform_mev: LogUniformMev = None,
    like: Annotated[Optional[Path], typer.Option(help="One latent for each incident energy of this file.")] = None,
    count: Annotated[Optional[int], typer.Option("-n", help="As of generate.")] = None,
    sampler: Annotated[str, typer.Option(help=f"One of {SAMPLER_NAMES}.")] = "gibbs",
    solver: Solver = None,
    model: Model = None,
    seed: Annotated[
        Optional[int], typer.Option(help="Latent i uses stream (seed, i); default: a random one, which is kept.")
    ] = None,
    sweeps: Annotated[Optional[int], typer.Option(help="Default: the bundle's.")] = None,
    num_reads: NumReads = None,
    annealing_time_us: AnnealingTimeUs = None,
    gauges: Gauges = None,
    refine_sweeps: RefineSweeps = None,
    condition_mode: ConditionMode = None,
    max_qpu_access_time_us: MaxQpuAccessTimeUs = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Draw latents into a bank, for the replay sampler."""
    from qshower.service.commands.bank import draw
    from qshower.service.commands.draw_request import Request
    from qshower.service.commands.options import check_choice, sampler_options

    check_choice(sampler, None, seed=seed, count=count, solver=solver, model=model)
    options = sampler_options(
        sweeps=sweeps,
        num_reads=num_reads,
        annealing_time_us=annealing_time_us,
        gauges=gauges,
        refine_sweeps=refine_sweeps,
        condition_mode=condition_mode,
        max_qpu_access_time_us=max_qpu_access_time_us,
    )
    request = Request(
        output=output,
        energies_mev=energies_mev,
        log_uniform_mev=log_uniform_mev,
        like=like,
        count=count,
        sampler=sampler,
        solver=solver,
        model=model,
        seed=seed,
        options=options,
    )
    draw(request, overwrite=overwrite)


@bank_app.command("info", epilog="Example: qshower bank info bank.hdf5")
def bank_info(path: Annotated[Path, typer.Argument(help="A bank.")]) -> None:
    """Show what a bank holds."""
    from qshower.service.commands.bank import info

    info(path)


@app.command(epilog="Example: qshower calibrate --sampler gibbs --model NAME")
def calibrate(
    sampler: Annotated[str, typer.Option(help="gibbs (sweeps needed) or qpu (effective temperature).")] = "gibbs",
    model: Model = None,
    solver: Annotated[Optional[str], typer.Option(help="qpu: solver by name, or pegasus / zephyr.")] = None,
    annealing_time_us: AnnealingTimeUs = None,
    tolerance: Annotated[float, typer.Option(help="gibbs: agreement wanted, in standard deviations.")] = 0.1,
    save: Annotated[bool, typer.Option(help="gibbs: write the sweeps into the bundle's manifest.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="qpu: only say what it would take.")] = False,
    shim: Annotated[
        bool,
        typer.Option("--shim", help="qpu: first measure, and make up for, offsets of qubits and couplers."),
    ] = False,
) -> None:
    """Measure what a sampler needs to draw well from a model, and keep it for the draws to come."""
    from qshower.service.commands.calibrate import run
    from qshower.service.commands.options import check_flags

    check_flags(tolerance=tolerance, annealing_time_us=annealing_time_us, model=model, solver=solver)
    run(
        sampler,
        model,
        solver,
        annealing_time_us=annealing_time_us,
        tolerance=tolerance,
        save=save,
        dry_run=dry_run,
        shim=shim,
    )


if __name__ == "__main__":
    main()
