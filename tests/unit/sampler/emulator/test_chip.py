"""The emulated chip, its configuration and what it tells its clients."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from dwave.system.coupling_groups import coupling_groups

from qshower.sampler.emulator.chip import PARAMETERS, build_chip
from qshower.sampler.emulator.emulator_config import NOISE_LEVELS, EmulatorConfig
from qshower.sampler.emulator.fault_injection import FAULTS, FaultPlan, parse_fault
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.ideal_graph import ideal_graph


@pytest.mark.parametrize(
    ("topology", "nominal", "fabric"), [("zephyr:6", 1248, 1248), ("zephyr:12", 4800, 4800), ("pegasus:16", 5760, 5640)]
)
def test_working_graph_lacks_the_share_asked_for(topology: str, nominal: int, fabric: int) -> None:
    chip = build_chip(topology, 0.03, seed=1)
    ideal = ideal_graph(topology)
    assert chip.nominal_qubits == nominal
    assert chip.qubits.shape[0] == fabric - round(0.03 * fabric)
    assert set(chip.qubits.tolist()) <= set(ideal)
    induced = ideal.subgraph(chip.qubits.tolist()).number_of_edges()
    assert chip.couplers.shape[0] == induced - round(0.03 * 0.02 * induced)
    assert all(ideal.has_edge(a, b) for a, b in chip.couplers.tolist())
    assert (chip.couplers[:, 0] < chip.couplers[:, 1]).all()
    order = chip.couplers[:, 0] * nominal + chip.couplers[:, 1]
    assert (np.diff(order) > 0).all()


def test_couplers_join_different_colours() -> None:
    chip = build_chip("pegasus:4", 0.1, seed=2)
    colours = chip.colours[chip.couplers]
    assert (colours >= 0).all()
    assert (colours[:, 0] != colours[:, 1]).all()


def test_graph_id_is_a_function_of_the_seed() -> None:
    assert build_chip("zephyr:3", 0.05, 7).graph_id == build_chip("zephyr:3", 0.05, 7).graph_id
    assert build_chip("zephyr:3", 0.05, 7).graph_id != build_chip("zephyr:3", 0.05, 8).graph_id
    assert build_chip("zephyr:3", 0.0, 7).graph_id == build_chip("zephyr:3", 0.0, 8).graph_id


def test_no_defects_gives_the_ideal_graph() -> None:
    chip = build_chip("zephyr:4", 0.0, 0)
    ideal = ideal_graph("zephyr:4")
    assert chip.qubits.tolist() == sorted(ideal)
    assert nx.utils.edges_equal(nx.Graph(chip.couplers.tolist()).edges, nx.Graph(ideal).edges)


def test_coupling_groups_are_the_ones_ocean_computes() -> None:
    chip = build_chip("zephyr:3", 0.05, 3)
    graph = ideal_graph("zephyr:3").subgraph(chip.qubits.tolist()).edge_subgraph(map(tuple, chip.couplers.tolist()))
    wanted = sorted(sorted((min(e), max(e)) for e in group) for group in coupling_groups(graph) if group)
    ours: dict[int, list[tuple[int, int]]] = {}
    for group, coupler in chip.groups.tolist():
        ours.setdefault(group, []).append(tuple(chip.couplers[coupler].tolist()))
    assert sorted(sorted(group) for group in ours.values()) == wanted


def test_pegasus_groups_are_each_qubits_couplers() -> None:
    chip = build_chip("pegasus:3", 0.05, 3)
    degree = dict(nx.Graph(chip.couplers.tolist()).degree())
    numbers, counts = np.unique(chip.groups[:, 0], return_counts=True)
    assert dict(zip(numbers.tolist(), counts.tolist(), strict=True)) == degree


def test_maintenance_loses_qubits_and_changes_the_graph_id() -> None:
    before = build_chip("zephyr:6", 0.03, 5)
    after = before.after_maintenance(5)
    assert after.qubits.shape[0] == before.qubits.shape[0] - before.qubits.shape[0] // 200
    assert set(after.qubits.tolist()) < set(before.qubits.tolist())
    assert after.graph_id != before.graph_id
    assert {tuple(c) for c in after.couplers.tolist()} < {tuple(c) for c in before.couplers.tolist()}
    assert after.after_maintenance(5).graph_id not in (before.graph_id, after.graph_id)


def test_definition_tells_ranges_and_graph() -> None:
    chip = build_chip("pegasus:4", 0.02, 1)
    definition = chip.definition("ONLINE", 0.0)
    properties = definition["properties"]
    assert definition["identity"] == {"name": "Advantage_emulated_p4", "version": {"graph_id": chip.graph_id}}
    assert properties["per_qubit_coupling_range"] == [-18.0, 15.0]
    assert "per_group_coupling_range" not in properties
    assert properties["topology"] == {"type": "pegasus", "shape": [4]}
    assert properties["num_qubits"] == 24 * 4 * 3
    assert set(properties["parameters"]) == set(PARAMETERS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("topology", "chimera:16"),
        ("port", 70000),
        ("defects", 0.7),
        ("defects", float("nan")),
        ("beta", 0.0),
        ("seed", -1),
        ("token", ""),
        ("readout_flip", 0.6),
        ("sweeps", 0),
        ("faults", ("no_such_fault",)),
        ("faults", ("poll_503:0",)),
        ("faults", ("poll_503:x",)),
    ],
)
def test_configuration_names_what_is_wrong(field: str, value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        EmulatorConfig(**{field: value})
    assert caught.value.field in (field, "fault")


def test_noise_levels_rise() -> None:
    levels = [EmulatorConfig().with_noise(name) for name in ("none", "low", "typical", "high")]
    for name in NOISE_LEVELS["none"]:
        values = [getattr(level, name) for level in levels]
        assert values == sorted(set(values))
    assert levels[0] == EmulatorConfig()
    with pytest.raises(InvalidInputError, match="noise"):
        EmulatorConfig().with_noise("loud")


def test_faults_strike_as_often_as_armed() -> None:
    plan = FaultPlan(("poll_503:2", "answer_404"))
    struck = [plan.strike("poll") for _ in range(3)]
    assert [fault.name if fault else None for fault in struck] == ["poll_503", "poll_503", None]
    assert [plan.strike("answer") is not None for _ in range(4)] == [True] * 4
    assert plan.armed() == {"answer_404": None}
    plan.clear("answer_404")
    assert plan.strike("answer") is None
    assert plan.strike("submit") is None


def test_maintenance_strikes_once_unless_told_otherwise() -> None:
    assert parse_fault("maintenance") == (FAULTS["maintenance"], 1)
    assert parse_fault("maintenance:3") == (FAULTS["maintenance"], 3)
    assert parse_fault("submit_hang") == (FAULTS["submit_hang"], None)


def test_every_fault_is_named_after_its_key() -> None:
    for name, fault in FAULTS.items():
        assert fault.name == name
        assert fault.effect
    with pytest.raises(dataclasses.FrozenInstanceError):
        FAULTS["poll_503"].stage = "submit"  # type: ignore[misc]


def test_the_documentation_names_every_setting_and_fault() -> None:
    page = (Path(__file__).parents[4] / "docs" / "emulator.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    settings = {field.name for field in dataclasses.fields(EmulatorConfig)}
    assert settings <= named
    assert set(NOISE_LEVELS) <= named
    for name, fault in FAULTS.items():
        assert name in named or {fault.stage, fault.action} <= named, name
