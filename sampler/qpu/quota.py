"""How much QPU access time may be used: per request, per UTC day, and per key and day, kept on disk.

Before a submit the estimate is reserved; afterwards the reservation becomes what was billed. A problem whose bill is
not known, because its answer never came, keeps its reservation: it may well have run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock

from qshower.sampler.errors import BudgetExceededError
from qshower.sampler.qpu.state_files import altered, locked, read_json, write_json

NO_KEY = ""
_DAYS_KEPT = 32


def utc_now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


def timestamp(now: datetime) -> str:
    """``now`` as provenance shows it."""
    return now.astimezone(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Reservation:
    """QPU access time set aside for a request."""

    day: str
    key: str
    reserved_us: float


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """What was used of a UTC day, in µs, without the keys' names.

    Attributes:
        used_today_us: all processes and keys together.
        daily_budget_us: limit of a day, None for none.
        left_today_us: what is left of it, None if there is none.
        key_budget_us: limit of a day for each key, None for none.
        keys_today: how many keys were charged.
    """

    used_today_us: float
    daily_budget_us: float | None
    left_today_us: float | None
    key_budget_us: float | None
    keys_today: int


class Quota:
    """What is used, kept in one file, shared by all processes that name it.

    Args:
        path: JSON file ``{day: {key: used_us}}``.
        daily_us: limit of a UTC day, None for none.
        per_key_us: limit of a UTC day for each key, None for none.
        clock: the time now.
    """

    def __init__(
        self,
        path: Path,
        daily_us: float | None,
        per_key_us: float | None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._path, self._daily_us, self._per_key_us, self._clock = path, daily_us, per_key_us, clock
        self._counting, self._billed_us = Lock(), 0.0

    def reserve(self, estimate_us: float, cap_us: float | None, key: str = NO_KEY) -> Reservation:
        """Set ``estimate_us`` aside.

        Raises:
            BudgetExceededError: it is above the request's cap, or above what is left today.
        """
        check_cap(estimate_us, cap_us)
        now = self._clock()
        with locked(self._path):
            days = self._days()
            used = days.setdefault(_day(now), {})
            self._check_day(used, estimate_us, key, now)
            used[key] = used.get(key, 0.0) + estimate_us
            self._write(days)
        return Reservation(_day(now), key, estimate_us)

    def check(self, estimate_us: float, cap_us: float | None, key: str = NO_KEY) -> None:
        """Refuse what ``reserve`` would refuse, without setting anything aside: for a request of several problems.

        Raises:
            BudgetExceededError: as ``reserve``.
        """
        check_cap(estimate_us, cap_us)
        now = self._clock()
        self._check_day(self._days().get(_day(now), {}), estimate_us, key, now)

    def settle(self, reservation: Reservation, billed_us: float) -> None:
        """Replace a reservation by what was billed; 0 gives it back whole."""
        with self._counting:
            self._billed_us += billed_us
        with locked(self._path):
            days = self._days()
            used = days.setdefault(reservation.day, {})
            used[reservation.key] = max(0.0, used.get(reservation.key, 0.0) - reservation.reserved_us + billed_us)
            self._write(days)

    @property
    def billed_us(self) -> float:
        """What was settled through this object, in µs: never less than before."""
        with self._counting:
            return self._billed_us

    def status(self) -> QuotaStatus:
        """What was used today and what is left."""
        used = self._days().get(_day(self._clock()), {})
        spent = sum(used.values())
        return QuotaStatus(
            used_today_us=spent,
            daily_budget_us=self._daily_us,
            left_today_us=None if self._daily_us is None else max(0.0, self._daily_us - spent),
            key_budget_us=self._per_key_us,
            keys_today=sum(1 for key in used if key),
        )

    def used_by(self, key: str) -> float:
        """What ``key`` used today, µs."""
        return self._days().get(_day(self._clock()), {}).get(key, 0.0)

    def _check_day(self, used: dict[str, float], estimate_us: float, key: str, now: datetime) -> None:
        for name, limit, spent in (
            ("day", self._daily_us, sum(used.values())),
            ("day and key", self._per_key_us if key else None, used.get(key, 0.0)),
        ):
            if limit is not None and spent + estimate_us > limit:
                raise BudgetExceededError(
                    f"the request would take {_ms(estimate_us)} of QPU access time; {_ms(max(0.0, limit - spent))} "
                    f"of {_ms(limit)} per {name} are left until midnight UTC",
                    retry_after_s=until_midnight_s(now),
                )

    def _days(self) -> dict[str, dict[str, float]]:
        try:
            return {
                str(day): {str(key): float(value) for key, value in used.items()}
                for day, used in read_json(self._path).items()
            }
        except (AttributeError, TypeError, ValueError):
            raise altered(self._path, "a day's use is not in figures") from None

    def _write(self, days: dict[str, dict[str, float]]) -> None:
        write_json(self._path, {day: days[day] for day in sorted(days)[-_DAYS_KEPT:]})


def check_cap(estimate_us: float, cap_us: float | None) -> None:
    """BudgetExceededError if ``estimate_us`` is above a request's cap."""
    if cap_us is not None and estimate_us > cap_us:
        raise BudgetExceededError(
            f"the request would take {_ms(estimate_us)} of QPU access time, more than its cap of {_ms(cap_us)}"
        )


def _day(now: datetime) -> str:
    return now.astimezone(UTC).date().isoformat()


def until_midnight_s(now: datetime) -> float:
    """Seconds until a budget of a UTC day renews."""
    midnight = datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), datetime.min.time(), UTC)
    return (midnight - now).total_seconds()


def _ms(value_us: float) -> str:
    return f"{value_us / 1000:.1f} ms"
