"""KServe v2 over HTTP and gRPC, called by NVIDIA's own clients as they are."""

import ast
import hashlib
import json
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import typer
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from qshower.service.cli import app as command_line
from qshower.service.kserve import health_pb2, inference_pb2
from tests.polling import until
from tests.protos import FOLDER, PROTOCOLS, written

ENERGIES = np.array([[1000.0], [65536.0], [500000.0]])
BODY = {"incident_energies_mev": ENERGIES.ravel().tolist(), "sampler": "gibbs", "seed": 1, "options": {"sweeps": 4}}
PARAMETERS: dict[str, Any] = {"sampler": "gibbs", "seed": 1, "sweeps": 4}
MODEL = "test-zephyr"
PAGE = (Path(__file__).parents[2] / "docs" / "kserve.md").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a service answers."""

    http: str
    grpc: str


@pytest.fixture(scope="module")
def ports(serving_on: Callable[..., AbstractContextManager[tuple[str, int]]]) -> Iterator[Ports]:
    with serving_on(grpc_port=0) as (url, grpc_port):
        yield Ports(url.removeprefix("http://"), f"127.0.0.1:{grpc_port}")


@pytest.fixture(scope="module")
def over_http(ports: Ports) -> Iterator[tritonclient.http.InferenceServerClient]:
    with tritonclient.http.InferenceServerClient(ports.http, network_timeout=120.0) as client:
        yield client


@pytest.fixture(scope="module")
def over_grpc(ports: Ports) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    with tritonclient.grpc.InferenceServerClient(ports.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def expected(ports: Ports) -> NDArray[np.float32]:
    """What POST /generate answers."""
    answer = httpx2.post(f"http://{ports.http}/generate", json=BODY, timeout=120)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["showers_mev"], dtype=np.float32)


def tensor(module: Any, values: NDArray[Any], kind: str, name: str = "incident_energies_mev", **how: Any) -> Any:
    made = module.InferInput(name, list(values.shape), kind)
    made.set_data_from_numpy(values, **how)
    return made


def test_grpc_answers_what_generate_answers(
    over_grpc: tritonclient.grpc.InferenceServerClient, expected: NDArray[np.float32]
) -> None:
    module = tritonclient.grpc
    result = over_grpc.infer(MODEL, [tensor(module, ENERGIES, "FP64")], request_id="7", parameters=PARAMETERS)
    np.testing.assert_array_equal(result.as_numpy("showers_mev"), expected)
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == (MODEL, "1", "7")
    provenance = json.loads(response.parameters["provenance"].string_param)
    assert (provenance["sampler"], provenance["seed"], provenance["sweeps"]) == ("gibbs", 1, 4)
    # As experiments' frameworks call it: single precision, the seed as an input, a version, an output by name.
    seed = tensor(module, np.ones((3, 1), np.int64), "INT64", "seed")
    inputs = [tensor(module, ENERGIES.astype(np.float32), "FP32"), seed]
    outputs = [module.InferRequestedOutput("showers_mev")]
    options = {"sampler": "gibbs", "sweeps": 4}
    again = over_grpc.infer(MODEL, inputs, model_version="1", outputs=outputs, parameters=options)
    np.testing.assert_array_equal(again.as_numpy("showers_mev"), expected)


@pytest.mark.parametrize("binary", [True, False])
def test_http_answers_what_generate_answers(
    over_http: tritonclient.http.InferenceServerClient, expected: NDArray[np.float32], *, binary: bool
) -> None:
    module = tritonclient.http
    inputs = [tensor(module, ENERGIES, "FP64", binary_data=binary)]
    outputs = None if binary else [module.InferRequestedOutput("showers_mev", binary_data=False)]
    result = over_http.infer(MODEL, inputs, outputs=outputs, request_id="7", parameters=PARAMETERS)
    np.testing.assert_array_equal(result.as_numpy("showers_mev"), expected)
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == (MODEL, "1", "7")
    assert json.loads(response["parameters"]["provenance"])["seed"] == 1
    packed = over_http.infer(
        MODEL,
        [tensor(module, ENERGIES, "FP64")],
        model_version="1",
        parameters=PARAMETERS,
        request_compression_algorithm="gzip",
    )
    np.testing.assert_array_equal(packed.as_numpy("showers_mev"), expected)


def test_both_tell_the_same_of_server_and_models(
    over_http: tritonclient.http.InferenceServerClient, over_grpc: tritonclient.grpc.InferenceServerClient
) -> None:
    for client in (over_http, over_grpc):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.is_model_ready(MODEL, "1")
    told = over_grpc.get_server_metadata(as_json=True)
    assert told == over_http.get_server_metadata()
    assert told["name"] == "qshower"
    index = over_http.get_model_repository_index()
    assert {(model["name"], model["version"], model["state"]) for model in index} >= {(MODEL, "1", "READY")}
    models = over_grpc.get_model_repository_index(as_json=True)["models"]
    assert [model["name"] for model in models] == [model["name"] for model in index]
    metadata = over_http.get_model_metadata(MODEL)
    assert metadata["inputs"][0] == {"name": "incident_energies_mev", "datatype": "FP64", "shape": [-1, 1]}
    assert metadata["outputs"] == [{"name": "showers_mev", "datatype": "FP32", "shape": [-1, 6480]}]
    same = over_grpc.get_model_metadata(MODEL)
    assert [list(output.shape) for output in same.outputs] == [[-1, 6480]]
    assert list(same.versions) == metadata["versions"] == ["1"]
    config = over_grpc.get_model_config(MODEL).config
    assert config.max_batch_size == over_http.get_model_config(MODEL)["max_batch_size"] == 100_000
    assert [(given.name, list(given.dims), given.optional) for given in config.input] == [
        ("incident_energies_mev", [1], False),
        ("seed", [1], True),
    ]
    statistics = over_grpc.get_inference_statistics(MODEL).model_stats[0]
    over_http.infer(MODEL, [tensor(tritonclient.http, ENERGIES, "FP64")], parameters=PARAMETERS)
    after = over_http.get_inference_statistics(MODEL)["model_stats"][0]
    assert after["inference_count"] == statistics.inference_count + 3
    assert after["inference_stats"]["success"]["count"] == statistics.inference_stats.success.count + 1
    assert after["execution_count"] == statistics.execution_count + 1
    assert len(over_http.get_inference_statistics()["model_stats"]) == len(index)


@pytest.mark.parametrize(
    ("change", "said", "status"),
    [
        ({"model": "no-such"}, "no model is named 'no-such'", "NOT_FOUND"),
        ({"version": "9"}, "no model is named 'test-zephyr@9'", "NOT_FOUND"),
        ({"energies": np.array([[5.0]])}, "incident_energies_mev", "INVALID_ARGUMENT"),
        ({"energies": np.array([[np.nan]])}, "incident_energies_mev", "INVALID_ARGUMENT"),
        ({"energies": np.array([[1e4, 1e5]])}, "shape", "INVALID_ARGUMENT"),
        ({"energies": np.empty((0, 1))}, "incident_energies_mev", "INVALID_ARGUMENT"),
        ({"name": "energies"}, "incident_energies_mev", "INVALID_ARGUMENT"),
        ({"kind": "INT64", "energies": np.array([[1000]])}, "FP64 or FP32", "INVALID_ARGUMENT"),
        ({"parameters": {"swepes": 3}}, "parameters.swepes", "INVALID_ARGUMENT"),
        ({"parameters": {"sweeps": "3"}}, "sweeps", "INVALID_ARGUMENT"),
        ({"parameters": {"model": "/etc/passwd"}}, "parameters.model", "INVALID_ARGUMENT"),
        ({"parameters": {"sampler": "qpu"}}, "DWAVE_API_TOKEN", "UNAVAILABLE"),
        ({"outputs": "hits"}, "showers_mev", "INVALID_ARGUMENT"),
    ],
)
def test_what_is_wrong_is_named_in_both(
    over_http: tritonclient.http.InferenceServerClient,
    over_grpc: tritonclient.grpc.InferenceServerClient,
    change: dict[str, Any],
    said: str,
    status: str,
) -> None:
    errors = []
    for module, client in ((tritonclient.http, over_http), (tritonclient.grpc, over_grpc)):
        name = change.get("name", "incident_energies_mev")
        inputs = [tensor(module, change.get("energies", ENERGIES), change.get("kind", "FP64"), name)]
        outputs = [module.InferRequestedOutput(change["outputs"])] if "outputs" in change else None
        with pytest.raises(InferenceServerException) as refused:
            client.infer(
                change.get("model", MODEL),
                inputs,
                model_version=change.get("version", ""),
                outputs=outputs,
                parameters=change.get("parameters"),
            )
        errors.append(refused.value)
    assert said in errors[0].message()
    assert said in errors[1].message()
    assert errors[1].status() == f"StatusCode.{status}"


def test_deadlines_are_kept_and_a_caller_that_leaves_ends_its_draw(
    ports: Ports,
    over_http: tritonclient.http.InferenceServerClient,
    over_grpc: tritonclient.grpc.InferenceServerClient,
) -> None:
    long = {"sampler": "annealing", "sweeps": 20_000}
    many = np.full((64, 1), 65536.0)
    with pytest.raises(InferenceServerException, match=r"(?i)deadline|not done"):
        over_grpc.infer(MODEL, [tensor(tritonclient.grpc, many, "FP64")], parameters=long, client_timeout=0.2)
    with pytest.raises(InferenceServerException, match=r"(?i)not done"):
        over_http.infer(MODEL, [tensor(tritonclient.http, many, "FP64")], parameters=long, timeout=200_000)
    gone = threading.Event()
    call = over_grpc.async_infer(
        MODEL, [tensor(tritonclient.grpc, many, "FP64")], lambda result, error: gone.set(), parameters=long
    )
    metrics = f"http://{ports.http}/metrics"
    until(lambda: "qshower_queue_requests 0.0" not in httpx2.get(metrics).text)
    call.cancel()
    assert gone.wait(60)
    until(lambda: "qshower_queue_requests 0.0" in httpx2.get(metrics).text)
    page = httpx2.get(metrics).text
    assert 'qshower_requests_total{route="grpc ModelInfer",status="CANCELLED"}' in page
    assert 'qshower_generate_total{outcome="client_gone"}' in page


def test_the_health_protocol_of_grpc(ports: Ports) -> None:
    with grpc.insecure_channel(ports.grpc) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        assert check(health_pb2.HealthCheckRequest(), timeout=60).status == 1
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            check(health_pb2.HealthCheckRequest(service="other"), timeout=60)


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (b"{", {}, "not JSON"),
        (b"[]", {}, "must be a JSON object"),
        (b'{"inputs": {}}', {}, "inputs must be a list"),
        (b'{"inputs": [{"name": "incident_energies_mev", "datatype": "FP64", "shape": "x"}]}', {}, "shape"),
        (b'{"inputs": [], "more": 1}', {}, "unknown field more"),
        (b'{"inputs": []}tail', {"inference-header-content-length": "14"}, "4 bytes of binary data"),
        (b'{"inputs": []}', {"inference-header-content-length": "99"}, "inference-header-content-length"),
        (b'{"inputs": []}', {"inference-header-content-length": "-1"}, "inference-header-content-length"),
    ],
)
def test_a_body_that_is_none_of_the_protocol_is_refused(
    ports: Ports, body: bytes, headers: dict[str, str], said: str
) -> None:
    answer = httpx2.post(f"http://{ports.http}/v2/models/{MODEL}/infer", content=body, headers=headers)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def examples(language: str) -> list[str]:
    """Blocks of docs/kserve.md."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_page_is_true(ports: Ports, over_grpc: tritonclient.grpc.InferenceServerClient) -> None:
    in_python, in_cmssw = examples("python")
    names: dict[str, Any] = {}
    exec(compile(in_python.replace("127.0.0.1:8001", ports.grpc), "page", "exec"), names)  # noqa: S102 - our own page
    assert names["showers_mev"].shape == (2, 6480)
    start, ask = examples("sh")
    words = shlex.split(start)
    serve = typer.main.get_group(command_line).commands[words[1]]
    assert serve.make_context("serve", words[2:]).params["grpc_port"] == 8001
    done = subprocess.run(ask.replace("localhost:8000", ports.http), shell=True, capture_output=True, check=True)  # noqa: S602
    assert json.loads(done.stdout)["outputs"][0]["shape"] == [1, 6480]
    ast.parse(in_cmssw)
    assert "uint32(8001)" in in_cmssw
    assert 'modelName=cms.string("electron-zephyr")' in in_cmssw
    (config,) = examples("protobuf")
    told = over_grpc.get_model_config("electron-zephyr").config
    assert text_format.Parse(config, type(told)()) == told
    for call in inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        assert f"`{call.name}`" in PAGE


def test_keys_are_asked_for_on_both_ports(
    serving_on: Callable[..., AbstractContextManager[tuple[str, int]]],
) -> None:
    digest = hashlib.sha256(b"open sesame").hexdigest()
    with serving_on(grpc_port=0, api_keys=f"alice:{digest}") as (url, port):
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert client.is_server_live()
            inputs = [tensor(tritonclient.grpc, ENERGIES, "FP64")]
            for headers in (None, {"authorization": "Bearer other"}, {"x-api-key": "other"}):
                with pytest.raises(InferenceServerException) as refused:
                    client.infer(MODEL, inputs, parameters=PARAMETERS, headers=headers)
                assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
            for known in ({"authorization": "Bearer open sesame"}, {"x-api-key": "open sesame"}):
                assert client.infer(MODEL, inputs, parameters=PARAMETERS, headers=known).as_numpy("showers_mev").any()
            with pytest.raises(InferenceServerException, match="known key"):
                client.get_model_repository_index()
        assert httpx2.get(f"{url}/v2/health/ready").status_code == 200
        refused_page = httpx2.get(f"{url}/v2")
        assert refused_page.status_code == 401
        assert "known key" in refused_page.json()["error"]


def test_the_messages_are_written_from_the_protocol() -> None:
    for protocol in PROTOCOLS:
        for name, text in written(protocol).items():
            assert (FOLDER / name).read_text(encoding="utf-8") == text, "run make protos"


def test_the_messages_are_those_of_the_protocol() -> None:
    """Every field has the name, number and kind that tritonclient's has."""
    theirs = service_pb2.DESCRIPTOR.pool

    def compare(mine: Any) -> None:
        known = theirs.FindMessageTypeByName(mine.full_name)
        for field in mine.fields:
            same = known.fields_by_name[field.name]
            assert (field.number, field.type) == (same.number, same.type), field.full_name
            assert field.is_repeated == same.is_repeated, field.full_name
        for nested in mine.nested_types:
            compare(nested)

    messages = inference_pb2.DESCRIPTOR.message_types_by_name
    assert len(messages) > 20
    for message in messages.values():
        compare(message)
    for value in inference_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values:
        assert theirs.FindEnumTypeByName("inference.DataType").values_by_name[value.name].number == value.number
