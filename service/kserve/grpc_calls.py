"""The calls of ``inference.GRPCInferenceService``: from its messages to what HTTP does too, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from numpy.typing import NDArray

from qshower.sampler.errors import DefectError, InvalidInputError
from qshower.service.generation.shower_request import ShowerAnswer
from qshower.service.kserve import inference_pb2 as pb
from qshower.service.kserve.descriptions import (
    model_config,
    model_is_ready,
    model_metadata,
    model_statistics,
    repository_index,
    server_metadata,
)
from qshower.service.kserve.inference import Inference, infer, provenance_text
from qshower.service.kserve.named_tensors import SHOWERS, TensorHead
from qshower.service.running import Service
from qshower.service.service_errors import MalformedError

MOST_ANSWER_BYTES = (1 << 31) - (1 << 20)
"""Protocol buffers end at 2 GiB; the rest of a message has its place beside the showers."""
CONTENTS = {"FP64": "fp64_contents", "FP32": "fp32_contents", "INT64": "int64_contents", "UINT64": "uint64_contents"}

Description = Callable[[Service, Any], Message]
"""Answers a request about the server or its models."""

DESCRIPTIONS: dict[str, tuple[type[Message], Description]] = {
    "ServerMetadata": (
        pb.ServerMetadataRequest,
        lambda _service, _request: ParseDict(server_metadata(), pb.ServerMetadataResponse()),
    ),
    "RepositoryIndex": (
        pb.RepositoryIndexRequest,
        lambda service, request: ParseDict(
            {"models": repository_index(service, only_ready=request.ready)}, pb.RepositoryIndexResponse()
        ),
    ),
    "ModelReady": (
        pb.ModelReadyRequest,
        lambda service, request: pb.ModelReadyResponse(ready=model_is_ready(service, request.name, request.version)),
    ),
    "ModelMetadata": (
        pb.ModelMetadataRequest,
        lambda service, request: ParseDict(
            model_metadata(service, request.name, request.version), pb.ModelMetadataResponse()
        ),
    ),
    "ModelConfig": (
        pb.ModelConfigRequest,
        lambda service, request: ParseDict(
            {"config": model_config(service, request.name, request.version)}, pb.ModelConfigResponse()
        ),
    ),
    "ModelStatistics": (
        pb.ModelStatisticsRequest,
        lambda service, request: ParseDict(
            {"model_stats": model_statistics(service, request.name, request.version)}, pb.ModelStatisticsResponse()
        ),
    ),
}
"""By the names of the calls, with the types of their requests."""


async def model_infer(
    service: Service, request: pb.ModelInferRequest, account: str, limit_s: float | None
) -> pb.ModelInferResponse:
    """Draw one shower for each incident energy, for an API key whose caller waits ``limit_s`` seconds at most."""
    answer = await infer(service, _inference(request, limit_s), account, most_bytes=MOST_ANSWER_BYTES)
    return _answered(answer, request)


def _inference(request: pb.ModelInferRequest, limit_s: float | None) -> Inference:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise MalformedError(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    inputs = {}
    for index, item in enumerate(request.inputs):
        head = TensorHead(item.name[:64], item.datatype, tuple(item.shape))
        if item.parameters:
            name = min(item.parameters)
            raise InvalidInputError(
                f"inputs[{head.name}].parameters.{name[:64]}", None, "none: shared memory is not read"
            )
        inputs[head.name] = head.of_bytes(raw[index]) if raw else _typed(head, item.contents)
    outputs = tuple(output.name for output in request.outputs)
    parameters = {name: getattr(value, value.WhichOneof("parameter_choice") or "") for name, value in _set(request)}
    return Inference(request.model_name, request.model_version, request.id, inputs, outputs, parameters, limit_s)


def _set(request: pb.ModelInferRequest) -> Iterable[tuple[str, pb.InferParameter]]:
    """The request's parameters that have a value."""
    for name, value in request.parameters.items():
        if value.WhichOneof("parameter_choice") is None:
            raise InvalidInputError(f"parameters.{name[:64]}", None, "a value")
        yield name, value


def _typed(head: TensorHead, contents: pb.InferTensorContents) -> NDArray[Any]:
    dtype = head.dtype()
    values = np.array(getattr(contents, CONTENTS[head.datatype]), dtype=dtype)
    if len(values) != head.shape[0]:
        wanted = f"{head.shape[0]} in {CONTENTS[head.datatype]}, as the shape {list(head.shape)} says"
        raise DefectError(f"inputs[{head.name}].contents", f"{len(values)} values", wanted)
    return values


def _answered(answer: ShowerAnswer, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    showers = np.ascontiguousarray(answer.showers_mev, dtype="<f4")
    response = pb.ModelInferResponse(
        model_name=answer.origin.model, model_version=str(answer.origin.model_version), id=request.id
    )
    response.parameters["provenance"].string_param = provenance_text(answer)
    response.outputs.add(name=SHOWERS, datatype="FP32", shape=showers.shape)
    response.raw_output_contents.append(showers.tobytes())
    return response
