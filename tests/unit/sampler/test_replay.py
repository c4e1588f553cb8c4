"""Banks of latents: what is written is what was drawn, each latent is served once, and nothing half-written stays."""

from __future__ import annotations

import dataclasses
import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Never, cast

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from qshower.sampler.annealing import AnnealingSampler
from qshower.sampler.bank_file import BankColumns, open_bank, write_bank
from qshower.sampler.errors import BankExhaustedError, InvalidInputError, SamplerTimeoutError, SamplerUnavailableError
from qshower.sampler.machine import BoltzmannMachine
from qshower.sampler.packed_spins import pack_spins, unpack_spins
from qshower.sampler.protocol import Sampler
from qshower.sampler.provenance import (
    Provenance,
    merged_provenance,
    provenance_from_cache,
    provenance_from_json,
    provenance_to_json,
)
from qshower.sampler.replay import ReplayOrder, ReplaySampler, bank_info, draw_bank
from qshower.sampler.request import LatentBatch, LatentRequest, SamplerOptions
from tests.conftest import LargestFile, MachineMaker, RequestMaker, SpinMaker

OPTIONS = SamplerOptions(sweeps=4)


@pytest.fixture
def machine(rng: np.random.Generator, random_machine: MachineMaker) -> BoltzmannMachine:
    return random_machine(rng, free=13, condition=3, coupling=0.1)


@pytest.fixture
def levels(rng: np.random.Generator, random_spins: SpinMaker) -> NDArray[np.int8]:
    return np.unique(random_spins(rng, (64, 3)), axis=0)[:3]


@pytest.fixture
def bank(tmp_path: Path, machine: BoltzmannMachine, levels: NDArray[np.int8]) -> tuple[Path, NDArray[np.int8]]:
    """40, 30 and 20 latents of three conditions, mixed, drawn in calls of 25 rows."""
    conditions = np.random.default_rng(5).permutation(np.repeat(levels, [40, 30, 20], axis=0))
    with AnnealingSampler() as sampler:
        draw_bank(tmp_path / "b.hdf5", sampler, machine, conditions, seed=11, options=OPTIONS, rows_per_call=25)
    return tmp_path / "b.hdf5", conditions


def test_bank_holds_what_the_sampler_drew(
    bank: tuple[Path, NDArray[np.int8]], machine: BoltzmannMachine, latent_request: RequestMaker
) -> None:
    path, conditions = bank
    with AnnealingSampler() as sampler:
        drawn = sampler.sample(latent_request(machine, conditions, seed=11, options=OPTIONS)).spins
    content = open_bank(path)
    assert np.array_equal(unpack_spins(content.packed, machine.node_count), drawn)
    info = bank_info(path)
    assert (info.rows, info.nodes, info.machine_sha256) == (90, 16, machine.law_sha256())
    assert [draw.sampler for draw in info.draws] == ["annealing"] * 4
    assert {draw.sweeps for draw in info.draws} == {4}
    assert info.size_bytes == path.stat().st_size
    assert content.draw.tolist() == [row // 25 for row in range(90)]


def test_file_order_serves_each_condition_in_the_order_of_the_file(
    bank: tuple[Path, NDArray[np.int8]],
    machine: BoltzmannMachine,
    levels: NDArray[np.int8],
    latent_request: RequestMaker,
) -> None:
    path, conditions = bank
    of_level = unpack_spins(open_bank(path).packed, 16)[(conditions == levels[1]).all(axis=1)]
    with ReplaySampler(path) as replay:
        first = replay.sample(latent_request(machine, levels[[1, 0, 1]])).spins
        second = replay.sample(latent_request(machine, levels[[1] * 28])).spins
    assert np.array_equal(np.concatenate([first[[0, 2]], second]), of_level)


def test_random_order_is_a_shuffle_of_the_same_latents(
    bank: tuple[Path, NDArray[np.int8]],
    machine: BoltzmannMachine,
    levels: NDArray[np.int8],
    latent_request: RequestMaker,
) -> None:
    path, conditions = bank
    of_level = unpack_spins(open_bank(path).packed, 16)[(conditions == levels[0]).all(axis=1)]

    def served(seed: int | None) -> NDArray[np.int8]:
        with ReplaySampler(path, "random", seed=seed) as replay:
            return np.concatenate([replay.sample(latent_request(machine, levels[[0] * 20])).spins for _ in "ab"])

    assert np.array_equal(served(1), served(1))
    # A chance of 1/40! that the shuffle changes nothing, or that two seeds shuffle alike.
    assert not np.array_equal(served(1), of_level)
    assert not np.array_equal(served(1), served(2))
    assert np.array_equal(np.sort(pack_spins(served(None)), axis=0), np.sort(pack_spins(of_level), axis=0))


def test_exhaustion_is_told_with_numbers_and_uses_nothing_up(
    bank: tuple[Path, NDArray[np.int8]],
    machine: BoltzmannMachine,
    levels: NDArray[np.int8],
    latent_request: RequestMaker,
) -> None:
    path, _ = bank
    with ReplaySampler(path) as replay:
        replay.sample(latent_request(machine, levels[[2] * 15]))
        with pytest.raises(BankExhaustedError, match=r"6 latents asked for and 5 left for 1 of 2 conditions \(75 left"):
            replay.sample(latent_request(machine, levels[[2] * 6 + [0]]))
        with pytest.raises(SamplerTimeoutError):
            replay.sample(latent_request(machine, levels[[2]], deadline_s=0.0))
        assert replay.availability(machine).detail["left"] == 75
        for level, count in ((2, 5), (0, 40), (1, 30)):
            replay.sample(latent_request(machine, levels[[level] * count]))
        state = replay.availability(machine)
        assert not state.available
        assert state.reason is not None
        assert "served" in state.reason
        with pytest.raises(BankExhaustedError, match="1 latents asked for and 0 left"):
            replay.sample(latent_request(machine, levels[[1]]))


def test_a_claim_is_what_a_draw_would_be_and_nobody_else_gets_it(
    bank: tuple[Path, NDArray[np.int8]],
    machine: BoltzmannMachine,
    levels: NDArray[np.int8],
    latent_request: RequestMaker,
) -> None:
    path, _ = bank
    picks = [0, 2, 1, 2, 2, 0]
    with ReplaySampler(path) as replay:
        whole = replay.sample(latent_request(machine, levels[picks])).spins
    with ReplaySampler(path) as replay:
        claim = replay.claim(levels[picks])
        assert claim.complete
        assert replay.availability(machine).detail["left"] == 84
        replay.sample(latent_request(machine, levels[[2] * 17]))
        with pytest.raises(BankExhaustedError):
            replay.claim(levels[[2]])
        assert np.array_equal(np.concatenate([claim.spins(0, 4), claim.spins(4, 6)]), whole)


@pytest.mark.parametrize("order", ["file", "random"])
def test_what_is_given_back_stands_where_it_stood(
    bank: tuple[Path, NDArray[np.int8]],
    machine: BoltzmannMachine,
    levels: NDArray[np.int8],
    latent_request: RequestMaker,
    order: ReplayOrder,
) -> None:
    path, _ = bank
    with ReplaySampler(path, order, seed=1) as replay:
        expected = replay.sample(latent_request(machine, levels[[2] * 20])).spins
    with ReplaySampler(path, order, seed=1) as replay:
        claims = [replay.claim(levels[[2] * 5]) for _ in range(3)]
        for claim in (*claims, *claims):
            claim.give_back()
        for claim in claims:
            with pytest.raises(SamplerUnavailableError, match="given back"):
                claim.spins()
        assert np.array_equal(replay.sample(latent_request(machine, levels[[2] * 20])).spins, expected)


def test_condition_the_bank_does_not_have(
    bank: tuple[Path, NDArray[np.int8]],
    machine: BoltzmannMachine,
    levels: NDArray[np.int8],
    latent_request: RequestMaker,
) -> None:
    path, _ = bank
    unknown = next(c for c in -levels if not (levels == c).all(axis=1).any())
    with ReplaySampler(path) as replay, pytest.raises(BankExhaustedError, match="1 latents asked for and 0 left"):
        replay.sample(latent_request(machine, unknown[None]))


def test_threads_never_get_the_same_latent(
    bank: tuple[Path, NDArray[np.int8]],
    machine: BoltzmannMachine,
    levels: NDArray[np.int8],
    latent_request: RequestMaker,
) -> None:
    path, _ = bank
    picks = [np.array(p) for p in [[0, 1], [0, 2], [1, 0], [2, 1, 0]] * 10]
    requests = [latent_request(machine, levels[pick]) for pick in picks]
    with ReplaySampler(path, "random") as replay, ThreadPoolExecutor(8) as pool:
        served = np.concatenate([batch.spins for batch in pool.map(replay.sample, requests)])
    everything = unpack_spins(open_bank(path).packed, 16)
    assert np.array_equal(served[np.lexsort(served.T)], everything[np.lexsort(everything.T)])


def test_another_machine_is_refused(
    bank: tuple[Path, NDArray[np.int8]],
    machine: BoltzmannMachine,
    levels: NDArray[np.int8],
    latent_request: RequestMaker,
) -> None:
    path, _ = bank
    j = machine.j.copy()
    j[0] += 1e-3
    other = machine.with_parameters(machine.h, j)
    with ReplaySampler(path) as replay:
        state = replay.availability(other)
        assert not state.available
        assert state.reason is not None
        assert "another machine" in state.reason
        with pytest.raises(InvalidInputError, match="machine"):
            replay.sample(latent_request(other, levels))
    moved = dataclasses.replace(machine, qubits=machine.qubits + 1)
    assert moved.law_sha256() == machine.law_sha256()


def test_provenance_keeps_the_draws_own(
    bank: tuple[Path, NDArray[np.int8]],
    machine: BoltzmannMachine,
    levels: NDArray[np.int8],
    latent_request: RequestMaker,
) -> None:
    path, _ = bank
    with ReplaySampler(path) as replay:
        provenance = replay.sample(latent_request(machine, levels)).provenance
    assert (provenance.sampler, provenance.sweeps) == ("replay", 4)
    assert provenance.notes[-1] == "drawn by annealing, replayed from the bank b.hdf5"


def test_provenance_of_several_draws() -> None:
    first = Provenance(
        "qpu", solver="A", problem_ids=("1", "2"), beta=2.0, qpu_access_time_us=5.0, qpu_timing_us={"x": 1.0}
    )
    second = Provenance("qpu", solver="A", problem_ids=("2", "3"), beta=2.1, notes=("clipped",), elapsed_s={"a": 1.0})
    merged = merged_provenance([first, second])
    assert merged == Provenance("qpu", solver="A", problem_ids=("1", "2", "3"), notes=("clipped",))
    assert merged_provenance([first, Provenance("gibbs")]).sampler == "qpu+gibbs"
    cached = provenance_from_cache([first, second, first])
    assert cached == dataclasses.replace(merged, from_cache=True, qpu_access_time_us=0.0, qpu_timing_us={"x": 1.0})
    for provenance in (first, second, Provenance("gibbs")):
        assert provenance_from_json(provenance_to_json(provenance)) == provenance


@pytest.mark.parametrize("how", ["missing", "text", "foreign", "truncated", "altered", "version", "nodes", "draw"])
def test_a_file_that_is_no_good_bank_is_refused_by_name(
    bank: tuple[Path, NDArray[np.int8]], tmp_path: Path, how: str
) -> None:
    path, _ = bank
    content = path.read_bytes()
    if how == "missing":
        path = tmp_path / "absent.hdf5"
    elif how == "text":
        path.write_text("no bank")
    elif how == "foreign":
        with h5py.File(path, "w") as file:
            file["showers"] = np.zeros(3)
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "altered":
        with h5py.File(path) as file:
            offset = file["spins"].id.get_offset()
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 4]) + content[offset + 1 :])
    else:
        with h5py.File(path, "r+") as file:
            if how == "version":
                file.attrs["version"] = 99
            elif how == "nodes":
                file.attrs["nodes"] = 17
            else:
                file["draw"][3] = 77
    for opened in (bank_info, ReplaySampler):
        with pytest.raises(InvalidInputError, match=rf"bank:? .*{path.name}"):
            opened(path)


class _Failing:
    """Draws two calls' worth, then fails."""

    def __init__(self, error: BaseException) -> None:
        self.inner, self.error, self.calls = AnnealingSampler(), error, 0

    def sample(self, request: LatentRequest) -> LatentBatch:
        self.calls += 1
        if self.calls > 2:
            raise self.error
        return self.inner.sample(request)


def test_a_failed_draw_leaves_nothing_behind(
    tmp_path: Path, machine: BoltzmannMachine, levels: NDArray[np.int8]
) -> None:
    path = tmp_path / "b.hdf5"
    sampler = _Failing(SamplerTimeoutError("late"))
    done = []
    with sampler.inner, pytest.raises(SamplerTimeoutError):
        draw_bank(
            path, cast(Sampler, sampler), machine, levels[[0] * 9], seed=1, rows_per_call=3, options=OPTIONS,
            progress=lambda rows, total: done.append((rows, total)),
        )  # fmt: skip
    assert done == [(3, 9), (6, 9)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [SamplerTimeoutError("late"), KeyboardInterrupt()])
def test_what_was_paid_for_can_be_kept(
    tmp_path: Path,
    machine: BoltzmannMachine,
    levels: NDArray[np.int8],
    latent_request: RequestMaker,
    error: BaseException,
) -> None:
    old, path = tmp_path / "b.hdf5", tmp_path / "b.partial.hdf5"
    old.write_bytes(b"a whole bank")
    sampler = _Failing(error)
    how: dict[str, Any] = {"seed": 1, "rows_per_call": 3, "options": OPTIONS, "overwrite": True}
    with sampler.inner, pytest.raises(type(error)):
        draw_bank(old, cast(Sampler, sampler), machine, levels[[0, 1, 2] * 3], partial=path, **how)
    assert old.read_bytes() == b"a whole bank"
    info = bank_info(path)
    assert (info.rows, len(info.draws), info.seeds) == (6, 2, (1,))
    with AnnealingSampler() as source:
        drawn = source.sample(latent_request(machine, levels[[0, 1, 2] * 2], seed=1, options=OPTIONS)).spins
    with ReplaySampler(path) as replay:
        assert np.array_equal(replay.sample(latent_request(machine, levels[[0, 1, 2] * 2])).spins, drawn)
    # What was kept once is paid for too, and before the first call there is nothing to keep.
    with sampler.inner, pytest.raises(InvalidInputError, match="partial"):
        draw_bank(old, cast(Sampler, sampler), machine, levels, partial=path, **how)
    with sampler.inner, pytest.raises(type(error)):
        draw_bank(
            tmp_path / "none.hdf5",
            cast(Sampler, sampler),
            machine,
            levels,
            partial=tmp_path / "none.partial.hdf5",
            **how,
        )
    assert sorted(tmp_path.iterdir()) == [old, path]


def test_a_whole_bank_leaves_no_partial_one(
    tmp_path: Path, machine: BoltzmannMachine, levels: NDArray[np.int8]
) -> None:
    path = tmp_path / "b.hdf5"
    with AnnealingSampler() as sampler:
        draw_bank(path, sampler, machine, levels, seed=1, options=OPTIONS, partial=tmp_path / "b.partial.hdf5")
    assert list(tmp_path.iterdir()) == [path]


class _Unasked:
    """A sampler that must not be asked."""

    def sample(self, request: LatentRequest) -> Never:
        raise AssertionError


def test_a_bank_without_room_is_refused_before_it_is_drawn(
    tmp_path: Path, machine: BoltzmannMachine, levels: NDArray[np.int8], largest_file: LargestFile
) -> None:
    with largest_file(100_000), pytest.raises(OSError, match=f"too large; the bank takes up to 1 MiB: '{tmp_path}'"):
        draw_bank(tmp_path / "b.hdf5", cast(Sampler, _Unasked()), machine, levels, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_the_room_set_aside_is_enough_and_of_no_name(
    tmp_path: Path, machine: BoltzmannMachine, levels: NDArray[np.int8]
) -> None:
    sizes: list[int] = []

    def look(rows: int, total: int) -> None:
        assert list(tmp_path.iterdir()) == []
        descriptors = [file for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
        sizes.extend(file.stat().st_blocks * 512 for file in descriptors if tmp_path in file.readlink().parents)

    with AnnealingSampler() as sampler:
        how: dict[str, Any] = {"seed": 1, "options": OPTIONS, "rows_per_call": 30}
        info = draw_bank(tmp_path / "b.hdf5", sampler, machine, levels[[0] * 3000], progress=look, **how)
    assert len(sizes) == 100
    assert info.size_bytes < sizes[0] < info.size_bytes + (1 << 20) + 100 * (1 << 16)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "b.hdf5"]


def test_a_disk_that_sets_nothing_aside_gets_its_bank(
    tmp_path: Path, machine: BoltzmannMachine, levels: NDArray[np.int8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> Never:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("qshower.sampler.bank_file.os.posix_fallocate", unsupported)
    with AnnealingSampler() as sampler:
        assert draw_bank(tmp_path / "b.hdf5", sampler, machine, levels, seed=1, options=OPTIONS).rows == 3


@pytest.mark.parametrize("size", [0, 100, 3000, 8000, 20_000])
def test_a_disk_that_is_full_all_the_same_leaves_the_old_bank_as_it_was(
    bank: tuple[Path, NDArray[np.int8]], machine: BoltzmannMachine, largest_file: LargestFile, size: int
) -> None:
    path, _ = bank
    before, old = path.read_bytes(), open_bank(path)
    rows = 3000
    columns = BankColumns(
        np.zeros((rows, old.packed.shape[1]), dtype=np.uint8),
        np.zeros((rows, 2), dtype=np.uint64),
        np.zeros(rows, dtype=np.uint32),
        [provenance_to_json(old.info.draws[0])],
        machine,
    )
    with largest_file(size), pytest.raises(OSError, match=f"File too large: '{path}'"):
        write_bank(path, columns)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    write_bank(path, columns)
    assert bank_info(path).rows == rows


def test_bad_arguments_are_refused(
    bank: tuple[Path, NDArray[np.int8]], tmp_path: Path, machine: BoltzmannMachine, levels: NDArray[np.int8]
) -> None:
    path, _ = bank
    new = tmp_path / "new.hdf5"
    with AnnealingSampler() as sampler:
        cases: list[tuple[str, Path, dict[str, Any]]] = [
            (str(path), path, {}),
            (str(tmp_path / "nowhere" / "b.hdf5"), tmp_path / "nowhere" / "b.hdf5", {}),
            ("seed", new, {"seed": -1}),
            ("seed", new, {"seed": 2**64}),
            ("rows_per_call", new, {"rows_per_call": 0}),
            ("conditions", new, {"conditions": levels[:, :2]}),
        ]
        for field, target, changes in cases:
            arguments: dict[str, Any] = {"conditions": levels, "seed": 1, **changes}
            with pytest.raises(InvalidInputError) as caught:
                draw_bank(target, sampler, machine, **arguments)
            assert caught.value.field == field
    with pytest.raises(InvalidInputError, match="order"):
        ReplaySampler(path, "sideways")  # type: ignore[arg-type]
    assert not new.exists()


def test_an_empty_bank_can_be_written_and_says_so(
    tmp_path: Path, machine: BoltzmannMachine, latent_request: RequestMaker
) -> None:
    path = tmp_path / "empty.hdf5"
    none = np.empty((0, 3), np.int8)
    with AnnealingSampler() as sampler:
        assert draw_bank(path, sampler, machine, none, seed=1).rows == 0
    with ReplaySampler(path) as replay:
        assert not replay.availability(machine).available
        assert replay.sample(latent_request(machine, none)).spins.shape == (0, 16)
