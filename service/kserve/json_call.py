"""An inference as HTTP has it: a JSON head, and behind it the tensors that are sent as binary data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from qshower.sampler.errors import InvalidInputError
from qshower.service.generation.shower_request import ShowerAnswer
from qshower.service.kserve.inference import Inference, provenance_text
from qshower.service.kserve.named_tensors import SHOWERS, TensorHead
from qshower.service.service_errors import MalformedError

HEADER_LENGTH = "inference-header-content-length"
BINARY_SIZE, BINARY, BINARY_OUTPUT = "binary_data_size", "binary_data", "binary_data_output"
KEYS = frozenset({"id", "parameters", "inputs", "outputs"})


def parsed(body: bytes, head_length: str | None, model: str, version: str) -> tuple[Inference, bool]:
    """The inference that ``body`` asks for, and whether its showers are wanted as binary data.

    ``head_length`` is the header that says how many bytes of ``body`` are JSON; all of them without it.

    Raises:
        MalformedError: no JSON object of the protocol's form.
        InvalidInputError: a value that is not allowed.
    """
    size = len(body)
    if head_length is not None:
        if not head_length.isdecimal() or int(head_length) > size:
            raise MalformedError(f"{HEADER_LENGTH}: {head_length[:32]}; it counts the JSON's bytes, at most {size}")
        size = int(head_length)
    try:
        head = orjson.loads(body[:size])
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"the body is not JSON: {error}") from None
    head = _object(head, "the body")
    if unknown := sorted(head.keys() - KEYS):
        raise MalformedError(f"unknown field {unknown[0][:64]}; there are: {', '.join(sorted(KEYS))}")
    parameters = dict(_object(head.get("parameters", {}), "parameters"))
    binary = parameters.pop(BINARY_OUTPUT, False) is True
    inputs, rest = {}, memoryview(body)[size:]
    for item in _objects(head.get("inputs"), "inputs"):
        tensor = _head(item)
        own = _object(item.get("parameters", {}), f"inputs[{tensor.name}].parameters")
        if unknown := sorted(own.keys() - {BINARY_SIZE}):
            raise InvalidInputError(f"inputs[{tensor.name}].parameters.{unknown[0][:64]}", own[unknown[0]], BINARY_SIZE)
        if BINARY_SIZE in own:
            length = own[BINARY_SIZE]
            if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= len(rest):
                raise InvalidInputError(
                    f"inputs[{tensor.name}].parameters.{BINARY_SIZE}", length, f"0 to {len(rest)}, the bytes that came"
                )
            inputs[tensor.name], rest = tensor.of_bytes(rest[:length]), rest[length:]
        else:
            data = item.get("data")
            if not isinstance(data, list):
                raise MalformedError(f"inputs[{tensor.name}].data must be a list, or {BINARY_SIZE} be given")
            inputs[tensor.name] = tensor.of_values(data)
    if len(rest):
        raise MalformedError(f"{len(rest)} bytes of binary data belong to no input")
    outputs = []
    for item in _objects(head.get("outputs", []), "outputs"):
        outputs.append(_text(item.get("name"), "outputs.name"))
        own = _object(item.get("parameters", {}), "outputs.parameters")
        binary = own.get(BINARY, binary) is True
    call = Inference(model, version, _text(head.get("id", ""), "id"), inputs, tuple(outputs), parameters)
    return call, binary


def encoded(answer: ShowerAnswer, call_id: str, *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """The answer to a call, and the headers that say how to read it."""
    showers = np.ascontiguousarray(answer.showers_mev, dtype="<f4")
    output: dict[str, Any] = {"name": SHOWERS, "datatype": "FP32", "shape": list(showers.shape)}
    if binary:
        output["parameters"] = {BINARY_SIZE: showers.nbytes}
    else:
        output["data"] = showers.reshape(-1)
    document: dict[str, Any] = {
        "model_name": answer.origin.model,
        "model_version": str(answer.origin.model_version),
        "parameters": {"provenance": provenance_text(answer)},
        "outputs": [output],
    }
    if call_id:
        document["id"] = call_id
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return head, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return head + showers.tobytes(), headers


def _head(item: Mapping[str, Any]) -> TensorHead:
    name = _text(item.get("name"), "inputs.name")
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise MalformedError(f"inputs[{name[:64]}].shape must be a list of integers")
    return TensorHead(name[:64], _text(item.get("datatype"), f"inputs[{name[:64]}].datatype"), tuple(shape))


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{name} must be a JSON object")
    return value


def _objects(value: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise MalformedError(f"{name} must be a list of JSON objects")
    return [_object(item, f"{name}[{index}]") for index, item in enumerate(value)]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise MalformedError(f"{name} must be a string")
    return value
