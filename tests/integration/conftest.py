"""Commands run in this process, and a server for them to ask."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp

from qshower.model.bundle import find_bundles, load_bundle
from qshower.sampler.registry import SamplerRegistry
from qshower.service.app import create_app
from qshower.service.catalogue import Catalogue, load_catalogue
from qshower.service.cli import main
from qshower.service.sampler_table import build_registry
from qshower.service.server import listening, server_config, url_of
from qshower.service.settings import Settings, load_settings
from tests.polling import START_PATIENCE_S, until


@pytest.fixture
def environment(untrained_bundles: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in os.environ:
        if name.startswith(("QSHOWER_", "DWAVE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("QSHOWER_MODEL_FOLDER", str(untrained_bundles))
    monkeypatch.setenv("QSHOWER_DEFAULT_MODEL", "test-zephyr")
    monkeypatch.setenv("QSHOWER_QPU_STATE_FOLDER", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    return monkeypatch


@pytest.fixture
def qshower(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        environment.setattr(sys, "argv", ["qshower", *map(str, arguments)])
        code: str | int = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        assert isinstance(code, int)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def fails(qshower: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Runs a command that cannot work: its one line."""

    def run(code: int, *arguments: object) -> str:
        found, out, err = qshower(*arguments)
        assert found == code, err
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("qshower: ")
        return err

    return run


@pytest.fixture
def server_url(untrained_bundles: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    """A running server."""
    bundles = {name: load_bundle(path) for name, path in find_bundles(untrained_bundles).items()}
    with serving(lambda _: Catalogue(bundles, "test-zephyr")) as url:
        capsys.readouterr()
        yield url


@contextmanager
def serving(
    load_models: Callable[[Settings], Catalogue] = load_catalogue,
    make_samplers: Callable[[Settings], SamplerRegistry] = build_registry,
    **settings: Any,
) -> Iterator[str]:
    """A server in a thread of its own; its address."""
    chosen = load_settings(**{"qpu": "off", "port": 0, **settings})
    app = create_app(chosen, load_models=load_models, make_samplers=make_samplers)
    with serving_app(app, chosen) as url:
        yield url


@contextmanager
def serving_app(app: ASGIApp, settings: Settings) -> Iterator[str]:
    """A server of ``app`` in a thread of its own, with connections as the command has them; its address."""
    with listening(settings) as listener:
        server = uvicorn.Server(server_config(app, settings))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive(), patience_s=START_PATIENCE_S)
            assert server.started
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[str]]:
    """``with serve() as url``: a server of the bundles that the settings name."""
    return serving


@pytest.fixture(scope="session")
def serving_on(untrained_bundles: Path) -> Callable[..., AbstractContextManager[tuple[str, int]]]:
    """``with serving_on(**settings) as (url, grpc_port)``: a server of the untrained bundles, with those settings."""

    @contextmanager
    def on(**settings: Any) -> Iterator[tuple[str, int]]:
        with pytest.MonkeyPatch.context() as patch:
            for name in os.environ:
                if name.startswith(("QSHOWER_", "DWAVE_")):
                    patch.delenv(name)
            folder, default = untrained_bundles, "test-zephyr"
            chosen = load_settings(qpu="off", port=0, model_folder=folder, default_model=default, **settings)
        app = create_app(chosen)
        with serving_app(app, chosen) as url:
            yield url, app.state.grpc_port

    return on
