"""Bodies that nobody should send, sent to the service: what it answers, and how long its event loop was held up.

::

    python -m benchmarks.malformed_bodies            # 10,000 bodies and four of the largest size
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2

from qshower.service.app import create_app
from qshower.service.settings import load_settings

LEGAL: dict[str, Any] = {
    "incident_energies_mev": [1000.0, 65536.0],
    "showers_per_energy": 1,
    "sampler": "gibbs",
    "fallback": ["annealing"],
    "model": None,
    "solver": None,
    "seed": 1,
    "options": {"sweeps": 2},
    "threshold_mev": 0.1,
    "deadline_s": 30.0,
    "dry_run": False,
}
_ODD: tuple[Any, ...] = (
    None, True, "", "x", "\ud800", "\udfff\ud800", "\x00", "\u202e", "9" * 400, 0, -1, 0.5, 2**63, 2**64, 2**65,
    -(2**65), 10**300, 1e308, 5e-324, -0.0, float("nan"), float("inf"), [], {},
    [[]], [2**65], {"\ud800": "\ud800"}, {"a": 2**65},
)  # fmt: skip


def bodies(seed: int, count: int) -> Iterator[bytes]:
    """``count`` bodies from one seed: values, fields, nesting and bytes of a legal request changed."""
    rng = random.Random(seed)
    for _ in range(count):
        document = {**LEGAL, "options": dict(LEGAL["options"])}
        for _ in range(rng.randint(1, 3)):
            _change(document, rng)
        text = json.dumps(document, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
        yield _damaged(text, rng) if rng.random() < 0.2 else text


def largest(limit: int) -> dict[str, bytes]:
    """Bodies of up to ``limit`` bytes, each costly in another way."""
    fields = {f"f{number}": number for number in range(limit // 24)}
    return {
        "unknown fields": json.dumps(fields).encode()[:limit],
        "energies": json.dumps({"incident_energies_mev": [1e3] * (limit // 8 - 9)}).encode(),
        "nesting": b"[" * limit,
        "one text": json.dumps({"model": "x" * (limit - 20)}).encode(),
    }


def _change(document: dict[str, Any], rng: random.Random) -> None:
    value = _value(rng, 0)
    kind, name = rng.random(), rng.choice(list(LEGAL))
    if kind < 0.6:
        document[name] = value
    elif kind < 0.7:
        document.pop(name, None)
    elif kind < 0.8:
        document[rng.choice(["energies", "\ud800", "", "x" * 500, "incident_energies_mev "])] = value
    elif kind < 0.9 and isinstance(document.get("options"), dict):
        document["options"][rng.choice(["sweeps", "num_reads", "\ud800", "condition_mode"])] = value
    else:
        document["incident_energies_mev"] = [1000.0, value]


def _value(rng: random.Random, depth: int) -> Any:
    kind = rng.random()
    if kind < 0.8 or depth > 3:
        return rng.choice(_ODD)
    if kind < 0.9:
        return [_value(rng, depth + 1) for _ in range(rng.randint(0, 30))]
    return {str(rng.choice(_ODD)): _value(rng, depth + 1) for _ in range(rng.randint(0, 30))}


def _damaged(text: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(text))
    return rng.choice(
        [text[:place], text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :], text + text, b"[" * 3000 + text]
    )


class LoopProbe:
    """Asks for its turn in the event loop again and again: the longest that it waited, in s."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.turns = 0

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            asked = time.perf_counter()
            await asyncio.sleep(0)
            self.longest_s = max(self.longest_s, time.perf_counter() - asked)
            self.turns += 1


async def _main(count: int, seed: int) -> None:
    settings = load_settings(qpu="off")
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://service", timeout=None) as client:
            headers = {"content-type": "application/json"}
            for name, body in largest(settings.limits.most_body_bytes).items():
                probe = LoopProbe()
                watching = asyncio.create_task(probe.watch())
                answer = await client.post("/generate", content=body, headers=headers)
                watching.cancel()
                print(f"{name}: {len(body)} bytes, {answer.status_code}, loop held for {1e3 * probe.longest_s:.1f} ms")
            statuses: Counter[int] = Counter()
            probe = LoopProbe()
            watching = asyncio.create_task(probe.watch())
            for body in bodies(seed, count):
                answer = await client.post("/generate", content=body, headers=headers)
                statuses[answer.status_code] += 1
                if answer.status_code >= 500 and answer.status_code != 503:
                    print(answer.status_code, body[:300])
            watching.cancel()
            print(f"{count} bodies: {dict(sorted(statuses.items()))}, loop held for {1e3 * probe.longest_s:.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.count, arguments.seed))
