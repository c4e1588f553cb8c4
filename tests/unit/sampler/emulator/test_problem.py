"""Checks of submitted problems, auto-scaling, answers, and the chip's hidden physics, without HTTP."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from typing import Any

import dimod
import numpy as np
import pytest
from dwave.cloud.coders import decode_qp_numpy, encode_problem_as_qp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qshower.sampler.emulator.annealer import StoppedError, draw
from qshower.sampler.emulator.answer import encode_answer, energies
from qshower.sampler.emulator.chip import Chip, build_chip
from qshower.sampler.emulator.corrupt import corrupt_answer
from qshower.sampler.emulator.emulator_config import EmulatorConfig
from qshower.sampler.emulator.physics import Physics
from qshower.sampler.emulator.problem import Problem, local_ends, read_parameters, read_problem
from qshower.sampler.emulator.refused import RefusedError
from qshower.sampler.emulator.schedules import read_schedule
from qshower.sampler.machine import BoltzmannMachine


@pytest.fixture(scope="module")
def chip() -> Chip:
    return build_chip("zephyr:3", 0.05, 1)


def _encoded(values: NDArray[np.float64]) -> str:
    return base64.b64encode(values.astype("<f8").tobytes()).decode()


def _job(
    chip: Chip,
    active: NDArray[np.int64],
    *,
    h: float | NDArray[np.float64] = 0.0,
    j: float | NDArray[np.float64] = 0.0,
    kind: str = "ising",
    **params: Any,
) -> dict[str, Any]:
    lin = np.full(chip.qubits.shape[0], np.nan)
    lin[active] = h
    inside = np.isin(chip.couplers, chip.qubits[active]).all(axis=1).sum()
    quad = np.zeros(inside) + j
    return {
        "solver": {"name": chip.solver_name, "version": {"graph_id": chip.graph_id}},
        "type": kind,
        "params": params,
        "data": {"format": "qp", "lin": _encoded(lin), "quad": _encoded(quad), "offset": 0.0},
    }


def _all(chip: Chip) -> NDArray[np.int64]:
    return np.arange(chip.qubits.shape[0])


REVERSE: dict[str, Any] = {"anneal_schedule": [[0, 1], [10, 0.5], [20, 1]]}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_read": 5}, "Unknown parameter 'num_read'"),
        ({"num_reads": 0}, "num_reads 0 is out of range"),
        ({"num_reads": 10001}, "num_reads 10001 is out of range"),
        ({"num_reads": 5.5}, "num_reads must be an integer"),
        ({"num_reads": True}, "num_reads must be an integer"),
        ({"annealing_time": 0.1}, "annealing_time 0.1 is out of range"),
        ({"annealing_time": float("nan")}, "annealing_time must be a number"),
        ({"annealing_time": 20.0, "anneal_schedule": [[0, 0], [20, 1]]}, "cannot be used together"),
        ({"anneal_schedule": [[0, 0.5], [20, 1]]}, "must rise from 0 to 1, or start at 1 for a reverse anneal"),
        ({"anneal_schedule": [[0, 0], [10, 0.5], [10.1, 1]]}, "changes by 5 per us; the fastest is 2 per us"),
        ({"anneal_schedule": [[0, 1], [10, 0.5], [20, 1]]}, "a reverse anneal needs initial_state, a list of 336"),
        ({"anneal_schedule": [[0, 1], [10, 1.5], [20, 1]]}, "fractions must be 0 to 1 and end at 1"),
        ({"anneal_schedule": [[0, 1], [10, 0.5]]}, "fractions must be 0 to 1 and end at 1"),
        ({"anneal_schedule": [[0, 1], [0.1, 0.5], [20, 1]]}, "changes by 5 per us"),
        (
            {"anneal_schedule": [[0, 1], [20, 1]], "fast_anneal": True},
            "fast_anneal cannot be used with a reverse",
        ),
        ({"anneal_schedule": [[n, 1] for n in range(14)]}, "a list of 2 to 13"),
        ({"anneal_schedule": [[n / 2, min(n, 1)] for n in range(13)]}, "a list of 2 to 12"),
        ({"initial_state": [3] * 336}, "initial_state and reinitialize_state need an anneal_schedule that starts at 1"),
        ({"reinitialize_state": False}, "initial_state and reinitialize_state need an anneal_schedule that starts"),
        ({**REVERSE, "initial_state": [3] * 335}, "initial_state, a list of 336 numbers"),
        ({**REVERSE, "initial_state": ["up"] * 336}, "initial_state must be integers"),
        ({**REVERSE, "initial_state": [3] * 336, "reinitialize_state": 1}, "reinitialize_state must be a boolean"),
        ({"anneal_schedule": [[0, 0], [0, 0.5], [20, 1]]}, "increase"),
        ({"answer_mode": "all"}, "answer_mode"),
        ({"auto_scale": "yes"}, "auto_scale must be a boolean"),
        ({"flux_biases": [0.0]}, "flux_biases must be a list of 336 numbers"),
        ({"programming_thermalization": 20000.0}, "programming_thermalization 20000 is out of range"),
        ({"max_answers": 0}, "max_answers 0 is out of range"),
        ({"num_reads": 10000, "annealing_time": 1000.0}, "run duration"),
    ],
)
def test_bad_parameters_are_refused(chip: Chip, params: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        read_problem(_job(chip, _all(chip), h=0.1, **params), chip)


def test_flux_biases_and_auto_scale_exclude_each_other(chip: Chip) -> None:
    biases = [0.0] * chip.nominal_qubits
    with pytest.raises(RefusedError, match="auto_scale"):
        read_parameters({"flux_biases": biases, "auto_scale": True}, chip)
    problem = read_problem(_job(chip, _all(chip), h=0.1, flux_biases=biases), chip)
    np.testing.assert_array_equal(problem.h, problem.linear)


def test_the_run_limit_counts_readout(chip: Chip) -> None:
    readout = chip.timing.readout_us(chip.qubits.shape[0])
    reads = int((1e6 - 1000.0) / (500.0 + readout))
    job = _job(chip, _all(chip), h=0.1, annealing_time=500.0, num_reads=reads)
    assert read_problem(job, chip).parameters.num_reads == reads
    with pytest.raises(RefusedError, match="run duration"):
        read_problem(_job(chip, _all(chip), h=0.1, annealing_time=500.0, num_reads=reads + 1), chip)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"h": 4.01}, "h value 4.01 is out of range"),
        ({"h": -4.01}, "h value -4.01 is out of range"),
        ({"j": 1.01}, "J value 1.01 is out of range"),
        ({"j": -2.01}, "J value -2.01 is out of range"),
        ({"j": -1.9}, "per-group coupling sum value -19 is out of range"),
        ({"h": np.inf}, "finite"),
        ({"j": np.nan}, "finite"),
    ],
)
def test_values_out_of_range_are_refused_without_auto_scale(chip: Chip, values: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        read_problem(_job(chip, _all(chip), auto_scale=False, **values), chip)


def test_auto_scale_fills_the_tightest_range(chip: Chip) -> None:
    one = np.array([0])
    assert read_problem(_job(chip, one, h=0.5), chip).h.tolist() == [4.0]
    assert read_problem(_job(chip, one, h=-8.0), chip).h.tolist() == [-4.0]
    pair = np.searchsorted(chip.qubits, chip.couplers[0])
    scaled = read_problem(_job(chip, pair, h=0.1, j=0.5), chip)
    assert scaled.j.tolist() == [1.0]
    np.testing.assert_allclose(scaled.h, 0.2)
    dense = read_problem(_job(chip, _all(chip), j=-1.0), chip)
    counts = np.bincount(chip.groups[:, 0])
    np.testing.assert_allclose(dense.j, -13.0 / counts.max())
    assert read_problem(_job(chip, one), chip).h.tolist() == [0.0]


def test_nan_couplings_are_accepted_only_under_the_fault(chip: Chip) -> None:
    pair = np.searchsorted(chip.qubits, chip.couplers[0])
    job = _job(chip, pair, h=0.1, j=np.nan, auto_scale=False)
    assert read_problem(job, chip, accept_nan=True).j.tolist() == [0.0]
    with pytest.raises(RefusedError, match="finite"):
        read_problem(job, chip)


def test_a_qubit_without_a_number_is_inactive(chip: Chip) -> None:
    h = np.array([0.1, np.nan])
    job = _job(chip, np.array([0, 200]), h=h, auto_scale=False)
    assert read_problem(job, chip).active.tolist() == [0]


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"format": "bq"},
        {"format": "qp", "lin": "AAA", "quad": ""},
        {"format": "qp", "lin": _encoded(np.zeros(3)), "quad": ""},
        {"format": "qp", "lin": "!!!!", "quad": ""},
        {"format": "qp", "lin": _encoded(np.full(319, np.nan)), "quad": ""},
        {"format": "qp", "lin": _encoded(np.zeros(319)), "quad": _encoded(np.zeros(4))},
    ],
)
def test_malformed_data_is_refused(chip: Chip, data: Any) -> None:
    assert chip.qubits.shape[0] == 319
    with pytest.raises(RefusedError):
        read_problem({"type": "ising", "params": {}, "data": data}, chip)


def test_unknown_problem_type_is_refused(chip: Chip) -> None:
    with pytest.raises(RefusedError, match="not supported"):
        read_problem(_job(chip, _all(chip), kind="bqm"), chip)


def test_fast_anneal_needs_h_of_zero(chip: Chip) -> None:
    job = _job(chip, _all(chip), j=0.1, fast_anneal=True, annealing_time=0.01, auto_scale=False)
    assert read_problem(job, chip).parameters.annealing_time_us == 0.01
    with pytest.raises(RefusedError, match="h must be zero"):
        read_problem(_job(chip, _all(chip), h=0.1, fast_anneal=True), chip)


def test_qubo_and_ising_weigh_states_alike(chip: Chip, rng: np.random.Generator) -> None:
    active = np.arange(40)
    job = _job(chip, active, h=rng.normal(0, 0.3, 40), j=0.2, kind="qubo", auto_scale=False)
    problem = read_problem(job, chip)
    spins = (rng.integers(0, 2, (50, 40)) * 2 - 1).astype(np.int8)
    ends = local_ends(chip, problem.active, problem.couplers)
    ising = spins @ problem.h + (spins[:, ends[:, 0]] * spins[:, ends[:, 1]]) @ problem.j
    qubo = energies(problem, chip, spins)
    np.testing.assert_allclose(qubo - qubo[0], ising - ising[0], atol=1e-12)


def _problem(chip: Chip, active: NDArray[np.int64], **params: Any) -> Problem:
    return read_problem(_job(chip, active, h=0.1, j=-0.1, auto_scale=False, **params), chip)


def test_histogram_merges_and_sorts(chip: Chip) -> None:
    problem = _problem(chip, np.arange(3), num_reads=5)
    spins = np.array([[1, 1, 1], [-1, -1, -1], [1, 1, 1], [-1, 1, 1], [-1, -1, -1]], dtype=np.int8)
    answer = encode_answer(problem, chip, spins, {})
    values = np.frombuffer(base64.b64decode(answer["energies"]), "<f8")
    counts = np.frombuffer(base64.b64decode(answer["num_occurrences"]), "<i4")
    np.testing.assert_allclose(np.sort(values), values)
    assert counts.tolist() == [2, 1, 2]
    assert values.shape == (3,)
    raw = encode_answer(_problem(chip, np.arange(3), num_reads=5, answer_mode="raw", max_answers=4), chip, spins, {})
    assert "num_occurrences" not in raw
    assert len(base64.b64decode(raw["energies"])) == 4 * 8


@pytest.mark.parametrize(
    "action",
    [
        "missing",
        "missing_field",
        "bad_base64",
        "no_timing",
        "energies_half",
        "energies_wrong",
        "reads_missing",
        "wrong_variables",
    ],
)
def test_spoiled_answers_differ_from_good_ones(chip: Chip, action: str, rng: np.random.Generator) -> None:
    problem = _problem(chip, np.arange(20), num_reads=30, answer_mode="raw")
    spins = (rng.integers(0, 2, (30, 20)) * 2 - 1).astype(np.int8)
    reply = {"id": "x", "status": "COMPLETED", "answer": encode_answer(problem, chip, spins, {"qpu_access_time": 1.0})}
    spoiled = corrupt_answer(action, reply)
    assert spoiled != reply
    assert corrupt_answer("", reply) == reply
    if action == "bad_base64":
        with pytest.raises(ValueError, match=r"data characters|padding"):
            base64.b64decode(spoiled["answer"]["solutions"])


def _physics(chip: Chip, **settings: Any) -> Physics:
    return Physics(EmulatorConfig(topology=str(chip.topology), beta=2.0, **settings), chip)


def test_beta_follows_annealing_time_and_drift(chip: Chip) -> None:
    steady = _physics(chip, beta_time_exponent=0.1)
    assert steady.beta(20.0, 0.0, 0) == pytest.approx(2.0)
    assert steady.beta(200.0, 1e6, 1000) == pytest.approx(2.0 * 10**0.1)
    drifting = _physics(chip, beta_drift_per_hour=-0.01, beta_drift_per_problem=1e-4)
    assert drifting.beta(20.0, 7200.0, 50) == pytest.approx(2.0 * (1.0 - 0.02 + 0.005))


def test_a_perfect_chip_programs_what_is_asked(chip: Chip, rng: np.random.Generator) -> None:
    machine = _physics(chip).program(_problem(chip, np.arange(100)), rng, 0.0, 0)
    np.testing.assert_allclose(machine.h, 0.2, rtol=1e-6)
    np.testing.assert_allclose(machine.j, -0.2, rtol=1e-6)


def test_control_errors_have_the_stated_size_and_share(chip: Chip, rng: np.random.Generator) -> None:
    """With 319 qubits and 2000 couplers, a 5-sigma band around each expected value: false alarms below 1e-5."""
    physics = _physics(chip, control_error_h=0.03, control_error_j=0.02, systematic_share=0.75)
    problem = _problem(chip, _all(chip))
    first, second = (physics.program(problem, rng, 0.0, number) for number in (0, 1))
    for name, asked, size in (("h", 0.1, 0.03), ("j", -0.1, 0.02)):
        one, two = (getattr(machine, name) / 2.0 - asked for machine in (first, second))
        count = one.shape[0]
        assert one.std() == pytest.approx(size, rel=5.0 / np.sqrt(2 * count))
        assert np.corrcoef(one, two)[0, 1] == pytest.approx(0.75, abs=5.0 * (1 - 0.75**2) / np.sqrt(count))
        assert abs(one.mean()) < 5.0 * size / np.sqrt(count)


def test_flux_biases_cancel_the_chips_offsets(chip: Chip, rng: np.random.Generator) -> None:
    physics = _physics(chip, flux_offset_phi0=1e-5)
    plain = physics.program(_problem(chip, _all(chip)), rng, 0.0, 0)
    shift = plain.h / 2.0 - 0.1
    assert 0.015 < shift.std() < 0.035
    # A shim measures the shift of h and applies the flux bias that takes it away: phi = h / (h per phi0), negated.
    per_phi0 = _h_per_phi0(chip, rng)
    biases = np.zeros(chip.nominal_qubits)
    biases[chip.qubits] = -shift / per_phi0
    shimmed = physics.program(_problem(chip, _all(chip), flux_biases=biases.tolist()), rng, 0.0, 0)
    np.testing.assert_allclose(shimmed.h, 0.2, atol=1e-5)


def _h_per_phi0(chip: Chip, rng: np.random.Generator) -> float:
    problem = _problem(chip, _all(chip), flux_biases=[1e-5] * chip.nominal_qubits)
    return float(_physics(chip).program(problem, rng, 0.0, 0).h[0] / 2.0 - 0.1) / 1e-5


def test_flux_biases_have_the_opposite_sign_of_h(chip: Chip, rng: np.random.Generator) -> None:
    assert _h_per_phi0(chip, rng) < 0.0


def test_flux_drift_shows_only_without_compensation(chip: Chip, rng: np.random.Generator) -> None:
    physics = _physics(chip, flux_drift_phi0_per_hour=1e-5)
    kept = physics.program(_problem(chip, _all(chip)), rng, 3600.0, 0)
    np.testing.assert_allclose(kept.h, 0.2, rtol=1e-6)
    loose = physics.program(_problem(chip, _all(chip), flux_drift_compensation=False), rng, 3600.0, 0)
    assert loose.h.std() > 0.02


def test_readout_flips_at_the_stated_rate(chip: Chip, rng: np.random.Generator) -> None:
    """10^6 spins at 1 %: five sigma is 5e-4, false alarms below 1e-6."""
    ones = np.ones((1000, 1000), dtype=np.int8)
    flipped = _physics(chip, readout_flip=0.01).read_out(ones, rng)
    assert flipped.dtype == np.int8
    assert (flipped == -1).mean() == pytest.approx(0.01, abs=5e-4)
    assert _physics(chip).read_out(ones, rng) is ones


def test_surviving_qubits_keep_their_constants(chip: Chip) -> None:
    settings = EmulatorConfig(
        topology=str(chip.topology),
        control_error_h=0.05,
        control_error_j=0.05,
        systematic_share=1.0,
        flux_offset_phi0=1e-5,
    )
    after = chip.after_maintenance(0)
    machines = []
    for one in (chip, after):
        active = np.flatnonzero(np.isin(one.qubits, after.qubits))
        machines.append(Physics(settings, one).program(_problem(one, active), np.random.default_rng(0), 0.0, 0))
    np.testing.assert_array_equal(machines[0].h, machines[1].h)
    np.testing.assert_array_equal(machines[0].j, machines[1].j)


def test_draws_repeat_with_their_seed_and_stop_when_told(chip: Chip, rng: np.random.Generator) -> None:
    machine = _physics(chip).program(_problem(chip, np.arange(60)), rng, 0.0, 0)
    first = draw(machine, 20, 32, seed=1)
    np.testing.assert_array_equal(first, draw(machine, 20, 32, seed=1))
    assert (first != draw(machine, 20, 32, seed=2)).any()
    assert draw(machine, 3, 32, seed=1).shape == (3, 60)
    with pytest.raises(StoppedError):
        draw(machine, 20, 32, seed=1, stop=lambda: True)


def test_the_default_sweeps_reach_equilibrium_on_a_full_lattice(
    lattice_machine: Callable[..., BoltzmannMachine], rng: np.random.Generator
) -> None:
    """Mean energy after 256 sweeps against 2048, 1000 reads each: within 5 sigma, false alarm below 1e-6."""
    machine = lattice_machine(rng, "zephyr")
    quick, slow = (machine.energies(draw(machine, 1000, sweeps, seed=sweeps)) for sweeps in (256, 2048))
    error = np.sqrt((quick.var() + slow.var()) / 1000.0)
    assert abs(quick.mean() - slow.mean()) < 5.0 * error
    # The yardstick sees a draw that is too short.
    short = machine.energies(draw(machine, 1000, 8, seed=1))
    assert abs(short.mean() - slow.mean()) > 5.0 * error


@pytest.mark.parametrize("topology", ["zephyr:1", "pegasus:2", "pegasus:5"])
def test_small_chips_can_be_built_and_drawn_from(topology: str, rng: np.random.Generator) -> None:
    chip = build_chip(topology, 0.2, 0)
    problem = _problem(chip, _all(chip), num_reads=4)
    machine = Physics(EmulatorConfig(topology=topology), chip).program(problem, rng, 0.0, 0)
    assert draw(machine, 4, 16, seed=0).shape == (4, chip.qubits.shape[0])


def test_configuration_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EmulatorConfig().beta = 1.0  # type: ignore[misc]


class _Encoder:
    """What Ocean's encoder asks of a solver."""

    def __init__(self, chip: Chip) -> None:
        self._encoding_qubits = chip.qubits.tolist()
        self._encoding_couplers = [tuple(pair) for pair in chip.couplers.tolist()]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.01, 1.0))
def test_oceans_coders_and_ours_agree(seed: int, share: float) -> None:
    """Any part of the graph, encoded by Ocean and read by us; answered by us and decoded by Ocean."""
    chip = build_chip("zephyr:2", 0.05, 1)
    rng = np.random.default_rng(seed)
    nodes = rng.choice(chip.qubits, size=max(1, int(share * chip.qubits.shape[0])), replace=False).tolist()
    linear = {node: float(np.clip(rng.normal(), -4.0, 4.0)) for node in nodes}  # the chip's range of h
    inside = [(a, b) for a, b in chip.couplers.tolist() if a in linear and b in linear]
    quadratic = {pair: float(rng.normal(0.0, 0.1)) for pair in inside if rng.random() < 0.7}
    data = encode_problem_as_qp(_Encoder(chip), linear, quadratic)
    params = {"auto_scale": False, "answer_mode": "raw", "num_reads": 5}
    problem = read_problem({"type": "ising", "params": params, "data": data}, chip, accept_nan=False)
    labels = chip.qubits[problem.active].tolist()
    assert labels == sorted(nodes)
    assert problem.h.tolist() == [linear[node] for node in labels]
    read = dict(zip(map(tuple, chip.couplers[problem.couplers].tolist()), problem.j.tolist(), strict=True))
    assert read == {pair: quadratic.get(pair, 0.0) for pair in inside}
    spins = (rng.integers(0, 2, (5, len(labels))) * 2 - 1).astype(np.int8)
    answer = encode_answer(problem, chip, spins, {})
    decoded = decode_qp_numpy({"type": "ising", "answer": answer})
    np.testing.assert_array_equal(decoded["solutions"][:, labels], spins)
    bqm = dimod.BinaryQuadraticModel.from_ising(linear, quadratic)
    np.testing.assert_allclose(decoded["energies"], bqm.energies((spins, labels)), atol=1e-9)


@pytest.mark.parametrize("kind", ["ising", "qubo"])
def test_a_reverse_anneal_starts_from_a_state_of_exactly_its_qubits(chip: Chip, kind: str) -> None:
    active = np.arange(5)
    spins = np.array([1, -1, -1, 1, 1], dtype=np.int8)
    state = [3] * chip.nominal_qubits
    for qubit, spin in zip(chip.qubits[active].tolist(), spins.tolist(), strict=True):
        state[qubit] = spin if kind == "ising" else (spin + 1) // 2
    job = {**_job(chip, active, h=0.1, **REVERSE, initial_state=state), "type": kind}
    initial = read_problem(job, chip).initial
    assert initial is not None
    assert np.array_equal(initial, spins)
    one, beside = int(chip.qubits[0]), int(chip.qubits[7])
    for place, value, message in (
        (one, 3, "a state for each qubit of the problem, and for no other"),
        (beside, 1, "a state for each qubit of the problem, and for no other"),
        (one, 0 if kind == "ising" else -1, "and 1, and 3 for a qubit that is not used"),
    ):
        wrong = [value if number == place else other for number, other in enumerate(state)]
        with pytest.raises(RefusedError, match=message):
            read_problem({**job, "params": {**REVERSE, "initial_state": wrong}}, chip)


def test_a_reverse_anneal_follows_its_schedule() -> None:
    schedule = read_schedule([[0, 1], [2, 0.5], [6, 0.5], [7, 1]], (0.5, 2000.0), fast=False)
    assert schedule.reverse
    assert schedule.time_us == 7.0
    assert schedule.pieces(2) == [(1.0, 0.875), (1.0, 0.625), (4.0, 0.5), (0.5, 0.625), (0.5, 0.875)]
