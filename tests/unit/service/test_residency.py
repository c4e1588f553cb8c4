"""Networks in memory: a bound that holds, the one used longest ago leaves, never one in use."""

import asyncio
import shutil
from pathlib import Path

import pytest

from qshower.model.bundle import DECODER_FILE, Bundle, load_bundle
from qshower.service.residency import Residency
from qshower.service.service_errors import ModelBrokenError


@pytest.fixture
def bundles(untrained_bundles: Path, tmp_path: Path) -> list[Bundle]:
    """Three bundles with networks of about the same size, not loaded."""
    for name in "abc":
        shutil.copytree(untrained_bundles / "test-zephyr", tmp_path / name)
    return [load_bundle(tmp_path / name, build_decoder=False) for name in "abc"]


def test_the_one_used_longest_ago_leaves_and_never_one_in_use(bundles: list[Bundle]) -> None:
    first, second, third = bundles
    size = (first.path / DECODER_FILE).stat().st_size
    residency = Residency(2 * size + size // 2)

    async def uses() -> None:
        for bundle in (first, second, first):
            async with residency.using(bundle):
                assert bundle.network_bytes > 0
        async with residency.using(third):
            assert [residency.has(bundle) for bundle in bundles] == [True, False, True]
        async with residency.using(first), residency.using(second):
            assert [residency.has(bundle) for bundle in bundles] == [True, True, False]
            waiting = asyncio.ensure_future(_use(residency, third))
            done, _ = await asyncio.wait({waiting}, timeout=0)
            assert not done
        await waiting
        assert residency.has(third)

    asyncio.run(uses())
    assert residency.bytes <= residency.most_bytes
    assert second.network_bytes + first.network_bytes + third.network_bytes == residency.bytes
    assert dict(residency.loads) == {"test-zephyr": 5}


async def _use(residency: Residency, bundle: Bundle) -> None:
    async with residency.using(bundle):
        pass


def test_one_alone_may_be_larger_than_the_bound(bundles: list[Bundle]) -> None:
    residency = Residency(0)

    async def uses() -> None:
        for bundle in bundles:
            await _use(residency, bundle)

    asyncio.run(uses())
    assert [residency.has(bundle) for bundle in bundles] == [False, False, True]


def test_a_network_altered_since_is_an_error_of_its_own_and_may_be_mended(bundles: list[Bundle]) -> None:
    broken, other = bundles[:2]
    residency, file = Residency(1 << 30), broken.path / DECODER_FILE
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])

    async def uses() -> None:
        with pytest.raises(ModelBrokenError, match="altered"):
            await _use(residency, broken)
        assert "altered" in (residency.failure(broken) or "")
        await _use(residency, other)
        file.write_bytes(whole)
        await _use(residency, broken)

    asyncio.run(uses())
    assert residency.failure(broken) is None


def test_what_is_retired_goes_when_its_last_use_ends(bundles: list[Bundle]) -> None:
    residency = Residency(1 << 30)

    async def uses() -> None:
        async with residency.using(bundles[0]):
            residency.retire(bundles[:2])
            assert residency.has(bundles[0])
        assert residency.bytes == 0

    asyncio.run(uses())
