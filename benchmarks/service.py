"""Showers per second of the service's processor time, end to end: a server of its own, warm, asked over HTTP.

Each request is for the same number of unseeded showers of log-uniform energies. The processor time is that of the
server's process, threads and system calls included; the client's is not counted. Small requests are sent one after
another until as many showers as ``TOGETHER`` have come, since the clock of processor time ticks in hundredths of a
second; ``wall_s`` is the median of the single requests.

    python -m benchmarks.service
    python -m benchmarks.service --showers 1 --model electron-zephyr-coded
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx2
import numpy as np

from benchmarks.bench import LATEST, described_machine, replace_text

KINDS = {
    "arrow": "application/vnd.apache.arrow.stream",
    "hdf5": "application/x-hdf5",
    "npz": "application/x-npz",
}
TOGETHER = 100
SPANS_S = re.compile(r"^qshower_(sample|decode)_seconds_sum(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@contextmanager
def server() -> Iterator[tuple[int, str]]:
    """A service with default settings on a free port: its process and address."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("QSHOWER_", "DWAVE_"))}
    command = [sys.executable, "-m", "qshower.service.cli", "serve", "--port", "0"]
    process = subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True)
    try:
        url, seen = None, []
        for line in process.stderr or ():
            seen.append(line)
            found = re.search(r"url=(http://\S+)", line)
            url = found[1] if found else url
            if "] ready " in line:
                break
        if url is None or process.poll() is not None:
            raise RuntimeError("the service did not start:\n" + "".join(seen))
        # Somebody has to read on, or the server blocks on a full pipe.
        threading.Thread(target=lambda: process.stderr and process.stderr.read(), daemon=True).start()
        yield process.pid, url
    finally:
        process.terminate()
        process.wait(60)
        if process.stderr:
            process.stderr.close()


def cpu_s(process: int) -> float:
    """Processor time of a process, user and system, in seconds (Linux)."""
    after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def settled(process: int) -> None:
    """Wait until the server has filled its latent caches and is idle."""
    while True:
        before = cpu_s(process)
        time.sleep(0.5)
        if cpu_s(process) - before < 0.02:
            return


def ask(http: httpx2.Client, energies_mev: list[float], kind: str, model: str | None) -> int:
    """One request; the bytes of its answer."""
    body = {"incident_energies_mev": energies_mev, "sampler": "gibbs", "model": model}
    return len(http.post("/generate", json=body, headers={"accept": kind}).raise_for_status().content)


def spans_s(http: httpx2.Client) -> dict[str, float]:
    """Seconds that the batches' draws and decodings have taken so far, by the service's own metrics."""
    sums: dict[str, float] = {"sample": 0.0, "decode": 0.0}
    for name, value in SPANS_S.findall(http.get("/metrics").raise_for_status().text):
        sums[name] += float(value)
    return sums


def measure(rows: int, repeats: int, model: str | None = None) -> list[dict[str, object]]:
    """One row for each format: medians over the repeats."""
    rng = np.random.default_rng(0)
    requests = -(-TOGETHER // rows)
    measured: list[dict[str, object]] = []
    with server() as (process, url), httpx2.Client(base_url=url, timeout=600) as http:
        for name, kind in KINDS.items():
            cpu, wall, size, spans = [], [], 0, {"sample": 0.0, "decode": 0.0}
            for repeat in range(repeats + 2):
                energies = np.exp(rng.uniform(np.log(1e3), np.log(1e6), (requests, rows))).tolist()
                settled(process)
                before_spans, before, elapsed = spans_s(http), cpu_s(process), []
                for some in energies:
                    began = time.perf_counter()
                    size = ask(http, some, kind, model)
                    elapsed.append(time.perf_counter() - began)
                used = cpu_s(process) - before
                if repeat < 2:
                    continue
                cpu.append(used / requests)
                wall += elapsed
                after_spans = spans_s(http)
                spans = {
                    part: spans[part] + (after_spans[part] - before_spans[part]) / (repeats * requests)
                    for part in spans
                }
            measured.append(
                {
                    "format": name,
                    "model": model,
                    "showers": rows,
                    "showers_per_cpu_s": rows / max(median(cpu), 1e-9),
                    "cpu_s": median(cpu),
                    "wall_s": median(wall),
                    "sample_wall_s": spans["sample"],
                    "decode_wall_s": spans["decode"],
                    "answer_bytes": size,
                    "repeats": repeats,
                }
            )
    return measured


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and keep the figures beside those of the samplers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=LATEST, help="JSON to add the figures to (%(default)s)")
    parser.add_argument("--showers", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--model", help="name of a bundle (the default one)")
    options = parser.parse_args(arguments)
    rows = measure(options.showers, options.repeats, options.model)
    print("format  showers  showers/CPU s  CPU ms  wall ms  MB")
    for row in rows:
        cpu_ms, wall_ms = (1e3 * float(str(row[name])) for name in ("cpu_s", "wall_s"))
        print(
            f"{row['format']:>6}  {row['showers']:>7}  {row['showers_per_cpu_s']:>13.0f}  {cpu_ms:>6.1f}  "
            f"{wall_ms:>7.1f}  {int(str(row['answer_bytes'])) / 1e6:.1f}"
        )
    report = json.loads(options.output.read_text()) if options.output.exists() else {}
    measured = {"machine": described_machine(), "rows": rows}
    replace_text(options.output, json.dumps(report | {"service": measured}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
