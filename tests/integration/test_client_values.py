"""Energies and choices as people have them: numpy scalars, masked arrays, columns of pandas and torch."""

import io
import json
from decimal import Decimal
from typing import Any

import httpx2
import numpy as np
import pytest
import torch

from qshower.client import Client, InvalidArgumentError
from qshower.service.schemas import GenerateRequest


class Column:
    """As a pandas Series: no array, but it makes one."""

    def __init__(self, values: list[Any], dtype: Any) -> None:
        self._values = np.array(values, dtype=dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._values if dtype is None else self._values.astype(dtype)


def sent(energies: Any, **choices: Any) -> dict[str, Any]:
    """The body that the service gets, which its own model takes."""
    bodies: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        count = len(bodies[0]["incident_energies_mev"]) * bodies[0].get("showers_per_energy", 1)
        buffer, empty = io.BytesIO(), np.array("{}")
        showers = np.ones((count, 2))
        np.savez(buffer, incident_energies_mev=np.ones(count), showers_mev=showers, geometry=empty, provenance=empty)
        return httpx2.Response(200, content=buffer.getvalue(), headers={"content-type": "application/x-npz"})

    client = Client("http://testserver", http=httpx2.Client(transport=httpx2.MockTransport(answer)))
    client.generate(energies, **choices)
    GenerateRequest.model_validate_json(json.dumps(bodies[0]))
    return bodies[0]


@pytest.mark.parametrize(
    "energies",
    [
        [1000, 2000.0],
        (np.float32(1000), np.int64(2000)),
        np.array([[1000], [2000]], dtype=np.uint16),
        np.ma.masked_array([1000.0, 2000.0], mask=[False, False]),
        np.ma.masked_array([1000.0, 2000.0]),
        Column([1000, 2000], np.int32),
        Column([1000.0, 2000.0], object),
        [Decimal(1000), Decimal(2000)],
        torch.tensor([1000.0, 2000.0], requires_grad=True),
        torch.tensor([1000, 2000]).bfloat16().to(torch.float32),
        torch.tensor([[1000], [2000]]),
        [torch.tensor(1000.0), torch.tensor(2000.0)],
    ],
    ids=lambda values: f"{type(values).__module__}.{type(values).__name__}",
)
def test_energies_of_any_kind(energies: Any) -> None:
    assert sent(energies)["incident_energies_mev"] == [1000.0, 2000.0]


def test_tensors_of_torch_s_own_types() -> None:
    assert sent(torch.tensor([1024, 2048], dtype=torch.bfloat16))["incident_energies_mev"] == [1024.0, 2048.0]


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int8, np.array, torch.tensor])
def test_whole_numbers_of_any_kind(kind: Any) -> None:
    body = sent([1000.0], seed=kind(7), showers_per_energy=kind(2), options={"sweeps": kind(3), "num_reads": kind(4)})
    assert (body["seed"], body["showers_per_energy"]) == (7, 2)
    assert body["options"] == {"sweeps": 3, "num_reads": 4}
    assert all(type(value) is int for value in body["options"].values())


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.array, torch.tensor])
def test_real_numbers_of_any_kind(kind: Any) -> None:
    body = sent([1000.0], threshold_mev=kind(0.5), deadline_s=kind(8.0), options={"annealing_time_us": kind(20.0)})
    assert (body["threshold_mev"], body["deadline_s"], body["options"]) == (0.5, 8.0, {"annealing_time_us": 20.0})


def test_names_of_numpy_and_one_fallback() -> None:
    names = np.array(["gibbs", "annealing"])
    body = sent([1000.0], sampler=names[0], fallback=names[1:], model=np.str_("m"))
    assert (body["sampler"], body["fallback"], body["model"]) == ("gibbs", ["annealing"], "m")
    assert sent([1000.0], fallback="annealing")["fallback"] == ["annealing"]


@pytest.mark.parametrize(
    ("energies", "choices", "said"),
    [
        (np.ma.masked_array([1000.0, 2000.0], mask=[False, True]), {}, "incident_energies_mev: a mask hides 1 values"),
        ([1000.0, np.nan], {}, r"incident_energies_mev\[1\]: nan is not allowed; allowed: finite numbers > 0"),
        (["1000"], {}, r"incident_energies_mev\[0\]: '1000' is not allowed"),
        ([True], {}, r"incident_energies_mev\[0\]: True is not allowed"),
        (np.array([1000 + 1j]), {}, r"incident_energies_mev\[0\]: \(1000\+1j\) is not allowed"),
        (Column([1000.0, None], object), {}, r"incident_energies_mev\[1\]: None is not allowed"),
        (np.ones((2, 3)), {}, r"incident_energies_mev: shape \(2, 3\); allowed: \(N,\) or \(N, 1\)"),
        ([[1.0], [1.0, 2.0]], {}, "incident_energies_mev: not a list of numbers"),
        ([1000.0], {"seed": np.ma.masked}, "seed: a mask hides the value"),
        ([1000.0], {"threshold_mev": np.float32("inf")}, "threshold_mev: inf is not allowed; allowed: finite numbers"),
        ([1000.0], {"options": {"sweeps": object}}, "options.sweeps: <class 'object'> is not allowed"),
        ([1000.0], {"seed": 1j}, "seed: 1j is not allowed; allowed: a number, a text, a list or a dictionary"),
    ],
)
def test_what_cannot_be_sent_is_named(energies: Any, choices: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        sent(energies, **choices)
