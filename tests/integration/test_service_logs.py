"""What the service's log says of errors, and what it never says."""

import hashlib
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog

from qshower.model.bundle import find_bundles, load_bundle
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.emulator_server import EmulatorServer
from qshower.sampler.gibbs.gibbs_sampler import GibbsSampler
from qshower.sampler.registry import SamplerRegistry
from qshower.sampler.request import LatentBatch, LatentRequest
from qshower.service.catalogue import Catalogue
from qshower.service.logs import LONGEST_TRACEBACK, configure_logs
from qshower.service.sampler_table import build_registry
from qshower.service.settings import Settings, load_settings
from tests.integration.conftest import serving

KEY, TOKEN, PROXY_PASSWORD = "key-4f1d-nobody-sees", "TOKEN-77ab-nobody-sees", "proxy-31c0-nobody-sees"
WRONG_KEY, KEY_WITHOUT_BUDGET = "key-of-another-service-nobody-sees", "key-9e02-nobody-sees"
LOCAL = "a value that only a variable holds"
BODY: dict[str, Any] = {"incident_energies_mev": [1000.0], "sampler": "gibbs"}
FAILS: dict[str, Any] = {"options": {"sweeps": 13}}


class FailingGibbs(GibbsSampler):
    """Fails in a way that nobody expects, if it is asked for 13 sweeps."""

    def sample(self, request: LatentRequest) -> LatentBatch:
        if request.options.sweeps == 13:
            held = LOCAL.replace("only", "only")
            raise RuntimeError(f"a defect after {len(held)} characters")
        return super().sample(request)


def samplers(settings: Settings) -> SamplerRegistry:
    others = [sampler for sampler in build_registry(settings) if sampler.name != "gibbs"]
    return SamplerRegistry([FailingGibbs("cpu", 1), *others])


@pytest.fixture
def catalogue(untrained_bundles: Path) -> Catalogue:
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    return Catalogue(bundles, "test-zephyr")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., io.StringIO]]:
    """Begins to log in some formats, at the level that tells most; the log."""
    root, levels = logging.getLogger(), dict.fromkeys(("dwave", "httpcore2", "httpx2", "numba"), logging.NOTSET)
    handlers, level = root.handlers[:], root.level

    def begin(*forms: str) -> io.StringIO:
        text, begun = io.StringIO(), []
        monkeypatch.setattr(sys, "stderr", text)
        for form in forms:
            configure_logs(load_settings(log_level="debug", log_format=form))
            begun += root.handlers
        root.handlers[:] = begun
        return text

    yield begin
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


def every_error(url: str, arm: Callable[[str], None]) -> set[int]:
    """Ask in every way that is answered with an error; the statuses."""
    both = {"x-api-key": KEY, "authorization": f"Bearer {KEY}"}
    statuses = set()

    def ask(headers: dict[str, str] = both, *, content: bytes | None = None, **change: Any) -> None:
        body = json.dumps({**BODY, **change}).encode() if content is None else content
        sent = {"content-type": "application/json", **headers}
        statuses.add(httpx2.post(f"{url}/generate", content=body, headers=sent, timeout=60).status_code)

    ask(content=b"{")
    ask({"x-api-key": WRONG_KEY})
    ask({"authorization": f"Bearer {WRONG_KEY}"})
    ask({**both, "accept": "text/csv"})
    ask({**both, "content-encoding": "br"})
    ask(incident_energies_mev=[1000.0] * 1000)
    ask(model="\ud800")
    ask(model="nothing")
    ask(deadline_s=1e-6)
    ask(sampler="replay")
    ask(**FAILS)
    statuses.add(httpx2.get(f"{url}/generate", headers=both).status_code)
    ask({"x-api-key": KEY_WITHOUT_BUDGET}, sampler="qpu")
    for fault in ("solvers_401", "solvers_503", "solvers_page", "submit_400", "answer_missing"):
        arm(fault)
        ask(sampler="qpu")
    return statuses


def test_no_secret_is_ever_logged(
    catalogue: Catalogue, logged: Callable[..., io.StringIO], environment: pytest.MonkeyPatch
) -> None:
    log = logged("text", "json")
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in (KEY, KEY_WITHOUT_BUDGET)]
    short: dict[str, Any] = {"qpu": "on", "qpu_request_timeout_s": 10.0, "default_deadline_s": 10.0}
    with EmulatorServer(EmulatorConfig(topology="zephyr:6", defects=0.0, sweeps=16)) as emulator:
        environment.setenv("DWAVE_API_ENDPOINT", emulator.endpoint)
        environment.setenv("DWAVE_API_TOKEN", TOKEN)

        def arm(fault: str) -> None:
            emulator.faults.clear()
            emulator.arm(fault)

        keys = f"ada:{digests[0]},beth:{digests[1]}:0"
        with serving(lambda _: catalogue, samplers, api_keys=keys, max_body_bytes=4096, **short) as url:
            statuses = every_error(url, arm)
        # One more with a proxy, whose address holds a password.
        environment.setenv("DWAVE_API_PROXY", f"http://user:{PROXY_PASSWORD}@127.0.0.1:9")
        with serving(lambda _: catalogue, samplers, **short) as url:
            statuses.add(httpx2.post(f"{url}/generate", json={**BODY, "sampler": "qpu"}, timeout=60).status_code)
    text = log.getvalue()
    assert statuses - {200} == {400, 401, 404, 405, 406, 413, 415, 422, 429, 500, 503, 504}
    assert text.count("unexpected error") == 2  # once in each format
    for secret in (KEY, KEY_WITHOUT_BUDGET, WRONG_KEY, TOKEN, PROXY_PASSWORD, *digests, LOCAL):
        assert secret not in text


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_unexpected_error_is_logged_once_without_values(
    form: str, catalogue: Catalogue, logged: Callable[..., io.StringIO], environment: pytest.MonkeyPatch
) -> None:
    log = logged(form)
    with serving(lambda _: catalogue, samplers) as url:
        before = len(log.getvalue())
        answer = httpx2.post(f"{url}/generate", json={**BODY, **FAILS})
        said = log.getvalue()[before:]
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.json()["type"] == "urn:qshower:internal"
    assert said.count("Traceback (most recent call last)") == 1
    assert said.count("RuntimeError: a defect") == 1
    assert LOCAL not in said
    assert len(said) < LONGEST_TRACEBACK
    if form == "json":
        events = [json.loads(line) for line in said.splitlines()]
        assert [(event["path"], event["level"]) for event in events if "exception" in event] == [("/generate", "error")]
