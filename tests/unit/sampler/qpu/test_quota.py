from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qshower.sampler.errors import BudgetExceededError, SamplerUnavailableError
from qshower.sampler.qpu.quota import Quota
from qshower.sampler.qpu.state_files import locked

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def test_reservations_settle_to_what_was_billed_and_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "budget.json"
    quota = Quota(path, 1000.0, None, lambda: NOON)
    reservation = quota.reserve(700.0, None)
    with pytest.raises(BudgetExceededError, match=r"300\.0|0\.3 ms of 1\.0 ms per day") as caught:
        quota.reserve(301.0, None)
    assert caught.value.retry_after_s == 12 * 3600
    quota.settle(reservation, 250.0)
    again = Quota(path, 1000.0, None, lambda: NOON)
    assert asdict(again.status()) == {
        "used_today_us": 250.0,
        "daily_budget_us": 1000.0,
        "left_today_us": 750.0,
        "key_budget_us": None,
        "keys_today": 0,
    }
    again.reserve(750.0, None)
    with pytest.raises(BudgetExceededError):
        quota.reserve(1.0, None)


def test_a_new_day_brings_a_new_budget_and_old_days_are_dropped(tmp_path: Path) -> None:
    now = [NOON]
    quota = Quota(tmp_path / "budget.json", 100.0, None, lambda: now[0])
    for day in range(40):
        now[0] = NOON + timedelta(days=day)
        quota.reserve(100.0, None)
        with pytest.raises(BudgetExceededError):
            quota.reserve(1.0, None)
    assert len(json.loads((tmp_path / "budget.json").read_text())) == 32


def test_the_cap_of_a_request(tmp_path: Path) -> None:
    quota = Quota(tmp_path / "budget.json", None, None)
    with pytest.raises(BudgetExceededError, match=r"2\.0 ms .* cap of 1\.5 ms") as caught:
        quota.reserve(2000.0, 1500.0)
    assert caught.value.retry_after_s is None
    assert not (tmp_path / "budget.json").exists()
    quota.reserve(1500.0, 1500.0)


def test_each_key_has_its_own_limit_and_is_not_shown(tmp_path: Path) -> None:
    quota = Quota(tmp_path / "budget.json", 1000.0, 400.0, lambda: NOON)
    quota.reserve(400.0, None, "alice")
    with pytest.raises(BudgetExceededError, match="per day and key"):
        quota.reserve(1.0, None, "alice")
    quota.reserve(400.0, None, "bob")
    quota.reserve(200.0, None)
    assert quota.used_by("alice") == 400.0
    assert quota.status().keys_today == 2
    assert "alice" not in str(quota.status())
    with pytest.raises(BudgetExceededError, match="per day "):
        quota.reserve(1.0, None)


def test_threads_cannot_overdraw(tmp_path: Path) -> None:
    quotas = [Quota(tmp_path / "budget.json", 1000.0, None, lambda: NOON) for _ in range(4)]

    def attempt(number: int) -> bool:
        try:
            quotas[number % 4].reserve(30.0, None)
        except BudgetExceededError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        granted = sum(pool.map(attempt, range(60)))
    assert granted == 33
    assert quotas[0].status().used_today_us == pytest.approx(990.0)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["budget.json", "budget.json.lock"]


@pytest.mark.parametrize(
    "text", ["[1, 2", '["secret"]', '{"2026-07-01": "secret"}', '{"2026-07-01": {"secret": "secret"}}']
)
def test_a_file_that_is_no_ledger_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "budget.json"
    path.write_text(text)
    with pytest.raises(SamplerUnavailableError, match=r"budget\.json is not as this program wrote it") as caught:
        Quota(path, 1000.0, None).reserve(1.0, None)
    assert "secret" not in str(caught.value)
    assert path.read_text() == text


def test_a_lock_that_nobody_lets_go_of_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qshower.sampler.qpu.state_files.LOCK_S", 0.05)
    quota = Quota(tmp_path / "budget.json", None, None)
    with locked(tmp_path / "budget.json"), pytest.raises(SamplerUnavailableError, match="does not let go") as caught:
        quota.reserve(1.0, None)
    assert caught.value.retry_after_s
    quota.reserve(1.0, None)
    assert quota.status().used_today_us == 1.0


def test_a_folder_that_cannot_be_written_refuses_before_anything_is_spent(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(SamplerUnavailableError, match="cannot keep the QPU's state"):
        Quota(tmp_path / "state" / "budget.json", None, None).reserve(1.0, None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
