"""The service under more load than it can bear: a server of its own on the loopback, bounded in time and in showers.

1. Capacity: showers per second of clients that ask as soon as they are answered, with mixed sizes.
2. Twice the capacity, with and without deadlines: goodput as a share of the capacity, latency of those requests for one
   shower that were taken in, and refusals.
3. Retry-After: a refused request is sent again and again until it is taken in; its wait over what it was told.
4. A large answer in Arrow and in HDF5: memory above idle, and seconds to the first byte.
5. Readers that stall: memory above idle, and the latency of others meanwhile.

    python -m benchmarks.service_load --seconds 300 --showers 100000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from benchmarks.service import server, settled

ARROW, HDF5, NPZ = "application/vnd.apache.arrow.stream", "application/x-hdf5", "application/x-npz"
SIZES, WEIGHTS = (1, 10, 100, 400), (0.7, 0.2, 0.08, 0.02)
DEADLINE_S = 8.0
MOST_AT_ONCE = 400
STALLED, STALLED_SHOWERS = 20, 5000
PATIENCE_S = 600.0


@dataclass(slots=True)
class Seen:
    """What became of requests: seconds by size, showers in time, waits that were told, statuses."""

    latencies_s: dict[int, list[float]] = field(default_factory=dict)
    showers: int = 0
    told_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)


async def ask(http: httpx2.AsyncClient, rows: int, seen: Seen, deadline_s: float | None = None) -> httpx2.Response:
    """One request for ``rows`` showers, noted in ``seen``."""
    body = {"incident_energies_mev": [65536.0], "showers_per_energy": rows, "sampler": "gibbs", "seed": rows}
    begun = time.monotonic()
    response = await http.post("/generate", json={**body, "deadline_s": deadline_s}, headers={"accept": NPZ})
    seen.statuses[response.status_code] = seen.statuses.get(response.status_code, 0) + 1
    if response.status_code == 200:
        seen.latencies_s.setdefault(rows, []).append(time.monotonic() - begun)
        seen.showers += rows
    elif response.status_code == 429:
        seen.told_s.append(float(response.headers["retry-after"]))
    return response


async def capacity(http: httpx2.AsyncClient, seconds: float) -> float:
    """Showers per second of eight clients that always ask."""
    seen, begun = Seen(), time.monotonic()

    async def client(number: int) -> None:
        chosen = random.Random(number)
        while time.monotonic() < begun + seconds:
            await ask(http, chosen.choices(SIZES, WEIGHTS)[0], seen)

    await asyncio.gather(*(client(number) for number in range(8)))
    return seen.showers / (time.monotonic() - begun)


async def overload(http: httpx2.AsyncClient, rate: float, seconds: float, deadline_s: float | None) -> dict[str, Any]:
    """Requests at ``rate`` showers per second, whatever becomes of them; those under way at the end are waited for."""
    seen, chosen, tasks = Seen(), random.Random(1), set[asyncio.Task[Any]]()
    mean = float(np.dot(SIZES, WEIGHTS))
    begun = at = time.monotonic()
    skipped = 0
    while at < begun + seconds:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        if len(tasks) < MOST_AT_ONCE:
            tasks.add(asyncio.create_task(ask(http, chosen.choices(SIZES, WEIGHTS)[0], seen, deadline_s)))
            tasks = {task for task in tasks if not task.done()}
        else:
            skipped += 1
        at += chosen.expovariate(rate / mean)
    await asyncio.gather(*tasks)
    elapsed_s = time.monotonic() - begun
    single = sorted(seen.latencies_s.get(1, [float("nan")]))
    return {
        "deadline_s": deadline_s,
        "statuses": seen.statuses,
        "not_sent": skipped,
        "goodput_per_s": seen.showers / elapsed_s,
        "one_shower_p50_s": single[len(single) // 2],
        "one_shower_p99_s": single[int(0.99 * (len(single) - 1))],
        "retry_after_s": sorted(seen.told_s)[len(seen.told_s) // 2] if seen.told_s else None,
    }


async def told_and_waited(http: httpx2.AsyncClient, rate: float) -> dict[str, float | None]:
    """A burst of twice what a deadline allows; what the first who is refused is told, and when it would be taken in."""
    seen, rows = Seen(), 100
    crowd = [
        asyncio.create_task(ask(http, rows, seen, DEADLINE_S)) for _ in range(max(4, int(2 * DEADLINE_S * rate / rows)))
    ]
    while not seen.told_s and not all(task.done() for task in crowd):
        await asyncio.sleep(0.01)
    if not seen.told_s:
        return {"told_s": None, "waited_s": None}
    told_s, begun = seen.told_s[0], time.monotonic()
    # A second request tries, and is given up as soon as it is known that it was not refused at once.
    while True:
        trial = asyncio.create_task(ask(http, rows, Seen(), DEADLINE_S))
        done, _ = await asyncio.wait({trial}, timeout=0.5)
        if not done or trial.result().status_code == 200:
            waited_s = time.monotonic() - begun - (0.0 if done else 0.5)
            break
        await asyncio.sleep(0.1)
    trial.cancel()
    await asyncio.gather(*crowd, trial, return_exceptions=True)
    return {"told_s": told_s, "waited_s": waited_s}


def resident_mb(process: int) -> float:
    """Resident memory of a process (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@asynccontextmanager
async def highest(process: int) -> AsyncIterator[Callable[[], float]]:
    """The highest resident memory of a process, in MB, while the block runs."""
    top = resident_mb(process)

    async def look() -> None:
        nonlocal top
        while True:
            top = max(top, resident_mb(process))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(look())
    try:
        yield lambda: top
    finally:
        task.cancel()


async def large(http: httpx2.AsyncClient, process: int, showers: int, accept: str) -> dict[str, float | str]:
    """One answer of ``showers`` showers, read as fast as it comes."""
    body = {"incident_energies_mev": [65536.0], "showers_per_energy": showers, "sampler": "gibbs", "seed": 1}
    idle_mb, begun, first_s, size = resident_mb(process), time.monotonic(), 0.0, 0
    async with (
        highest(process) as top,
        http.stream("POST", "/generate", json=body, headers={"accept": accept}) as answer,
    ):
        answer.raise_for_status()
        async for block in answer.aiter_raw():
            first_s = first_s or time.monotonic() - begun
            size += len(block)
        return {
            "accept": accept,
            "showers": showers,
            "mb": size / 1e6,
            "first_byte_s": first_s,
            "whole_s": time.monotonic() - begun,
            "mb_above_idle": top() - idle_mb,
        }


async def stalled(http: httpx2.AsyncClient, url: str, process: int, seconds: float) -> dict[str, float]:
    """Readers that ask for much and read 200 bytes, and what others see meanwhile."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(
        {"incident_energies_mev": [65536.0], "showers_per_energy": STALLED_SHOWERS, "sampler": "gibbs", "seed": 1}
    )
    head = (
        f"POST /generate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAccept: {ARROW};compression=none"
    )
    request = f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    idle_mb, seen = resident_mb(process), Seen()
    async with AsyncExitStack() as opened, highest(process) as top:
        for _ in range(STALLED):
            reader, writer = await asyncio.open_connection(host, int(port), limit=256)
            opened.callback(writer.close)
            writer.write(request)
            await writer.drain()
            await asyncio.wait_for(reader.readexactly(200), PATIENCE_S)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await ask(http, 1, seen)
        page = (await http.get("/metrics")).text
        pending = next(float(line.split()[1]) for line in page.splitlines() if line.startswith("qshower_pending_bytes"))
    singles = sorted(seen.latencies_s.get(1, [float("nan")]))
    return {
        "readers": STALLED,
        "mb_above_idle": top() - idle_mb,
        "pending_mb": pending / 1e6,
        "others_p50_s": singles[len(singles) // 2],
        "others_refused": sum(count for status, count in seen.statuses.items() if status != 200),
    }


def told(name: str, figures: Any) -> None:
    """Print one JSON object."""
    print(json.dumps({name: figures}), flush=True)


async def measured(url: str, process: int, seconds: float, showers: int) -> None:
    """All of it, told as it comes."""
    limits = httpx2.Limits(max_connections=MOST_AT_ONCE + 8)
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits) as http:
        await capacity(http, min(seconds, 2.0))
        rate = await capacity(http, seconds)
        told("capacity_per_s", rate)
        for deadline_s in (None, DEADLINE_S):
            result = await overload(http, 2.0 * rate, seconds, deadline_s)
            told("twice_the_capacity", {**result, "goodput_share": result["goodput_per_s"] / rate})
        told("retry_after", await told_and_waited(http, rate))
        for accept in (ARROW, HDF5):
            told("large", await large(http, process, showers, accept))
        told("stalled", await stalled(http, url, process, min(seconds, 10.0)))


def main() -> None:
    """Measure and print one JSON object on each line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the first three loads (60)")
    parser.add_argument("--showers", type=int, default=100_000, help="of the large answers (100000)")
    chosen = parser.parse_args()
    with server() as (process, url):
        settled(process)
        told("settled_mb", resident_mb(process))
        asyncio.run(measured(url, process, chosen.seconds, chosen.showers))


if __name__ == "__main__":
    main()
