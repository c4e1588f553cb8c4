"""``python -m benchmarks.bench``: measure, print one table, write ``latest.json``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import gibbs, gibbs_gpu

LATEST = Path(__file__).parent / "latest.json"
PACKAGES = ("numba", "llvmlite", "numpy", "torch", "dwave-samplers")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=LATEST, help="where the JSON goes (%(default)s)")
    parser.add_argument("--chains", type=int, nargs="+", default=[1, 8, 64, 1024])
    parser.add_argument("--sweeps", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)

    def told(line: str) -> None:
        print(f"measuring {line}", file=sys.stderr, flush=True)

    rows = gibbs.measure(chains=tuple(options.chains), sweeps=options.sweeps, repeats=options.repeats, told=told)
    print(table(rows))
    report: dict[str, object] = {"machine": described_machine(), "repeats": options.repeats, "gibbs": rows}
    if torch.cuda.is_available():
        on_device = gibbs_gpu.measure(repeats=options.repeats, told=told)
        report["gibbs_gpu"] = {"machine": report["machine"], "rows": on_device}
        for row in on_device:
            print("  ".join(f"{name} {value}" for name, value in row.items()))
    else:
        print("no CUDA device: its kernels were not measured", file=sys.stderr)
    if options.output.exists():
        # What other measurements (a GPU's, say) wrote beside ours stays.
        report = json.loads(options.output.read_text()) | report
    replace_text(options.output, json.dumps(report, indent=2) + "\n")
    print(f"written to {options.output}", file=sys.stderr)
    return 0


def table(rows: list[dict[str, object]]) -> str:
    """The rows as text."""
    head = ("topology", "chains", "sweeps", "updates/CPU s", "ms/sample", "x torch dense", "x dwave-samplers")
    lines = [head, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cells(row: dict[str, object]) -> tuple[str, ...]:
    return (
        str(row["topology"]),
        str(row["chains"]),
        str(row["sweeps"]),
        f"{row['updates_per_cpu_s']:.3g}",
        f"{row['ms_per_sample']:.3g}",
        f"{row['ratio_to_torch_dense']:.1f}",
        f"{row['ratio_to_dwave_samplers']:.1f}",
    )


def described_machine() -> dict[str, object]:
    """Processor and versions; nothing that names the host."""
    return {
        "processor": _processor_name(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
    }


def _processor_name() -> str:
    details = Path("/proc/cpuinfo")
    if details.exists():
        for line in details.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit(main())
