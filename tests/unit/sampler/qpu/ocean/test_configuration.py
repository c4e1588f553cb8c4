"""A user's mistake in Ocean's variables or file is named, and is not taken for an outage."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from dwave.cloud.client.qpu import Client
from dwave.cloud.config.loaders import ENV_OPTION_MAP

from qshower.sampler.errors import (
    SamplerUnavailableError,
    SolverAuthenticationFailedError,
    SolverConfigurationError,
)
from qshower.sampler.lattice import compact_lattice
from qshower.sampler.qpu import operations
from qshower.sampler.qpu.ocean.configuration import NOT_USED, VARIABLES, ocean_configuration
from qshower.sampler.qpu.qpu_sampler import QpuSampler
from qshower.sampler.qpu.qpu_settings import QpuSettings

TOKEN = "TEST-0123456789abcdef"
NOBODY = "http://127.0.0.1:9/sapi/v2"
"""Nobody listens there: whoever gets so far says that the API cannot be reached."""

GOOD = {
    "DWAVE_CONFIG_FILE": "/dev/null",
    "DWAVE_PROFILE": "mine",
    "DWAVE_API_CLIENT": "qpu",
    "DWAVE_API_REGION": "eu-central-1",
    "DWAVE_API_ENDPOINT": "http://127.0.0.1:9/sapi/v2",
    "DWAVE_API_TOKEN": "TEST-0123456789abcdef",
    "DWAVE_API_SOLVER": '{"num_active_qubits__gte": 1000}',
    "DWAVE_API_PROXY": "http://user:password@127.0.0.1:9",
    "DWAVE_API_HEADERS": "X-One: 1\nX-Two: http://two:2",
    "DWAVE_CACHE_ENABLED": "true",
    "DWAVE_CACHE_HOME": "/nowhere",
    "DWAVE_LEAP_API_ENDPOINT": "https://127.0.0.1:9/leap/api",
    "DWAVE_LEAP_CLIENT_ID": "1234",
    "DWAVE_METADATA_API_ENDPOINT": "https://127.0.0.1:9/metadata/v1",
}
"""A value of each variable that is allowed."""
BAD = {
    "DWAVE_CONFIG_FILE": "/no/such/dwave.conf",
    "DWAVE_PROFILE": "nobody",
    "DWAVE_API_REGION": "eu central",
    "DWAVE_API_ENDPOINT": "cloud.dwavesys.com",
    "DWAVE_API_TOKEN": "TEST 0123456789abcdef",
    "DWAVE_API_SOLVER": '{"num_active_qubits__gte": ',
    "DWAVE_API_PROXY": "ftp://user:password@127.0.0.1:9",
    "DWAVE_API_HEADERS": "X-One 1",
    "DWAVE_LEAP_API_ENDPOINT": "leap",
    "DWAVE_METADATA_API_ENDPOINT": "https://",
}
"""A value of each variable in use that is not allowed."""
SECRET = ("0123456789abcdef", "password")


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own."""
    for name in list(os.environ):
        if name.startswith("DWAVE_") or name.lower().endswith("_proxy") or name.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DWAVE_CONFIG_FILE", os.devnull)


def refusal(settings: QpuSettings | None = None) -> str:
    """What is said of the configuration, on one line, without anything secret."""
    with pytest.raises(SolverConfigurationError) as caught:
        ocean_configuration(settings or QpuSettings())
    text = str(caught.value)
    assert "\n" not in text
    assert not any(secret in text for secret in SECRET)
    assert caught.value.retry_after_s is None
    return text


def test_every_variable_of_ocean_s_is_tried_here() -> None:
    """If this fails Ocean has a new variable: enter what it may be and, if it is used, what it may not be."""
    assert set(GOOD) == set(VARIABLES) == {"DWAVE_CONFIG_FILE", "DWAVE_PROFILE", *ENV_OPTION_MAP}
    assert set(BAD) == {name for name, option in VARIABLES.items() if option not in NOT_USED}


@pytest.mark.parametrize("variable", sorted(VARIABLES))
@pytest.mark.parametrize("ends", [("", "\n"), (" \t", " \r\n"), ("\u200b", "\ufeff"), ("", "\u00a0")])
def test_blanks_at_the_ends_of_a_variable_do_no_harm(
    variable: str, ends: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "dwave.conf"
    file.write_text("[mine]\n[other]\n")
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(file))
    monkeypatch.setenv(variable, GOOD[variable])
    wanted = ocean_configuration(QpuSettings())
    monkeypatch.setenv(variable, ends[0] + GOOD[variable] + ends[1])
    assert ocean_configuration(QpuSettings()) == wanted


@pytest.mark.parametrize("variable", sorted(BAD))
@pytest.mark.parametrize("character", ["\u200b", "\u2028", "\x1b"])
def test_a_character_that_nobody_sees_is_named_with_its_variable(
    variable: str, character: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = GOOD[variable]
    monkeypatch.setenv(variable, good[:2] + character + good[2:])
    text = refusal()
    assert text.startswith(f"{variable}: its character 3 of {len(good) + 1} is U+{ord(character):04X}"), text


@pytest.mark.parametrize("variable", sorted(BAD))
def test_a_value_that_is_not_allowed_is_named_with_its_variable(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWAVE_API_TOKEN", TOKEN)
    monkeypatch.setenv(variable, BAD[variable])
    assert refusal().startswith(f"{variable}: ")


@pytest.mark.parametrize("variable", sorted(BAD))
def test_a_user_of_the_sampler_is_told_which_variable_it_is(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DWAVE_API_TOKEN", TOKEN)
    monkeypatch.setenv("DWAVE_API_ENDPOINT", NOBODY)
    monkeypatch.setenv(variable, "a\u200bb")
    lattice = compact_lattice("zephyr", 4, chip_size=2)
    machine = lattice.with_parameters(np.zeros(16), np.zeros(len(lattice.edges)))
    with QpuSampler(QpuSettings(state_dir=tmp_path, request_timeout_s=5.0)) as sampler:
        answer = sampler.availability(machine)
        for _ in range(5):
            # However often it is tried: the circuit breaker is for faults of the QPU.
            with pytest.raises(SolverConfigurationError, match=f"^{variable}: "):
                operations.calibrate(sampler.access, machine, np.ones((1, 4), dtype=np.int8))
    assert not answer.available
    assert (answer.reason or "").startswith(f"{variable}: ")
    assert answer.detail["retry_after_s"] is None
    assert TOKEN not in repr(answer)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("DWAVE_API_SOLVER", '{"num_qubits__gte": 1000', "is not JSON"),
        ("DWAVE_API_SOLVER", "[1, 2]", "a JSON object of features"),
        ("DWAVE_API_SOLVER", '{"__import__": 1}', "a JSON object of features"),
        ("DWAVE_API_SOLVER", "Advantage2_system1;graph_id", "NAME;graph_id="),
        ("DWAVE_API_ENDPOINT", "http://[::1/sapi", "is no URL"),
        ("DWAVE_API_ENDPOINT", "http://host:99999/sapi", "is no URL"),
        ("DWAVE_API_ENDPOINT", "https://cloud..dwavesys.com/sapi", "no host's name"),
        ("DWAVE_API_TOKEN", "TÉST-0123456789abcdef", "its character 2 of 21 is none that a token has"),
        ("DWAVE_API_PROXY", "socks5://127.0.0.1:1080", "pip install 'requests\\[socks\\]'"),
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "pip install 'requests\\[socks\\]'"),
        ("https_proxy", "htp://user:password@127.0.0.1:1080", "is no URL that begins with"),
        ("HTTPS_PROXY", "http://", "it names no host"),
        ("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem", "there is no file or folder"),
        ("CURL_CA_BUNDLE", "/no/such/bundle.pem", "there is no file or folder"),
    ],
)
def test_what_is_wrong_with_a_value_is_said(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qshower.sampler.qpu.ocean.proxies.find_spec", lambda _: None)
    monkeypatch.setenv(variable, value)
    text = refusal()
    assert text.startswith(f"{variable}: ")
    assert re.search(said, text), text


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("token = 0123456789abcdef\n", "is no configuration file: see its line 1"),
        ("[mine]\ntoken = 0123456789abcdef\ntoken = 0123456789abcdef\n", "is no configuration file: see its line 3"),
        ("[mine]\ntoken = 0123456789abcdef%x\n", r"\[mine\] token: cannot be read; a % is written as %%"),
        ("[mine]\n# \udcff\n", "is not UTF-8 text"),
        (
            "[defaults]\nprofile = nobody\n[mine]\n",
            "`profile` in .*: names a profile that is not there .*: mine",
        ),
        ("[mine]\ntoken = 0123456789 abcdef\n", "`token` in .*dwave.conf: its character 11 of 17"),
        ("[mine]\nsolver = {1}\n", r"`solver` in .*dwave.conf: '\{1\}' is not JSON"),
        ("[mine]\nclient_cert = /no/such.pem\n", "`client_cert` in .*dwave.conf: there is no file '/no/such.pem'"),
    ],
)
def test_what_is_wrong_with_a_configuration_file_is_said_with_its_name(
    written: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "dwave.conf"
    file.write_bytes(written.encode("utf-8", "surrogateescape"))
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(file))
    text = refusal()
    assert re.search(said, text), text
    assert str(file) in text


def test_a_file_or_profile_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DWAVE_CONFIG_FILE", "~/no/such.conf")
    assert refusal() == "DWAVE_CONFIG_FILE: ~/no/such.conf: no such file or directory"
    assert refusal(QpuSettings(config_file=str(tmp_path))).endswith(f"{tmp_path}: is a directory")
    file = tmp_path / "dwave.conf"
    file.write_text("[one]\n[two]\n")
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(file))
    monkeypatch.setenv("DWAVE_PROFILE", "three")
    assert refusal() == f"DWAVE_PROFILE: there is no profile 'three' in {file}; there are: one, two"
    assert refusal(QpuSettings(profile="four")).startswith("QpuSettings.profile: there is no profile 'four'")


@pytest.mark.parametrize("option", ["permissive_ssl", "connection_close", "compress_qpu_problem_data"])
def test_an_option_that_ocean_refuses_is_named(option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "dwave.conf"
    file.write_text(f"[mine]\ntoken = {TOKEN}\n{option} = perhaps\n")
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(file))
    with pytest.raises(SolverConfigurationError, match=rf"^`{option}` in {file}: is not allowed") as caught:
        ocean_configuration(QpuSettings()).connect(Client)
    assert TOKEN not in str(caught.value)


def test_what_is_set_in_the_program_comes_before_variables_and_these_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "dwave.conf"
    file.write_text("[mine]\ntoken = of-file\nregion = eu-central-1\nsolver = of-file\n")
    settings = QpuSettings(config_file=str(file), token="of-settings")
    monkeypatch.setenv("DWAVE_API_TOKEN", "of-variable")
    monkeypatch.setenv("DWAVE_API_ENDPOINT", NOBODY)
    monkeypatch.setenv("DWAVE_API_SOLVER", "  ")
    found = ocean_configuration(settings)
    # An endpoint makes the region of the file void, as in Ocean itself.
    assert found.options == {"token": "of-settings", "endpoint": NOBODY, "solver": "of-file"}
    assert found.sources["endpoint"] == "DWAVE_API_ENDPOINT"
    assert found.sources["solver"] == f"`solver` in {file}"
    assert "of-settings" not in repr(found)


@pytest.mark.parametrize("token", ["", " ", "\u200b\n"])
def test_a_token_of_blanks_is_none(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWAVE_API_TOKEN", token)
    with pytest.raises(SolverAuthenticationFailedError, match="set DWAVE_API_TOKEN"):
        ocean_configuration(QpuSettings()).connect(Client)


class Regions(BaseHTTPRequestHandler):
    """A metadata API that knows one region."""

    def do_GET(self) -> None:
        region = {"code": "eu-central-1", "name": "Europe", "endpoint": "http://127.0.0.1:9/sapi/v2/"}
        body = json.dumps([region]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.dwave.metadata.regions+json; version=1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Regions) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("DWAVE_METADATA_API_ENDPOINT", f"http://127.0.0.1:{server.server_port}/metadata/v1")
        yield "eu-central-1"
        server.shutdown()
        thread.join()


def test_a_region_that_is_not_there_is_named(metadata_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWAVE_API_TOKEN", TOKEN)
    monkeypatch.setenv("DWAVE_API_REGION", metadata_api + "\n")
    client = ocean_configuration(QpuSettings()).connect(Client, cache_enabled=False)
    client.close(wait=False)
    assert client.config.endpoint.rstrip("/") == NOBODY
    monkeypatch.setenv("DWAVE_API_REGION", "mars")
    with pytest.raises(SolverConfigurationError, match=r"^DWAVE_API_REGION: 'mars' unknown. Try one of .*eu-central-1"):
        ocean_configuration(QpuSettings()).connect(Client, cache_enabled=False)


def test_a_region_that_cannot_be_looked_up_is_not_replaced_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWAVE_API_TOKEN", TOKEN)
    monkeypatch.setenv("DWAVE_API_REGION", "eu-central-1")
    monkeypatch.setenv("DWAVE_METADATA_API_ENDPOINT", "http://127.0.0.1:9/metadata/v1")
    with pytest.raises(SamplerUnavailableError, match=r"^DWAVE_API_REGION: the endpoint of the region 'eu") as caught:
        ocean_configuration(QpuSettings()).connect(Client, cache_enabled=False, http_retry_total=0)
    assert caught.value.retry_after_s
