"""How far an index can be trusted. Pure: the state and the time come in as arguments."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import ceil

KEYS_PER_PAGE = 1_000
# An unfinished scan that is older is begun again: finishing it would make an index that is nearly stale.
LONGEST_SCAN = timedelta(hours=24)


class Status(StrEnum):
    """What `info` shows."""

    FRESH = "fresh"
    STALE = "stale"
    MISSING = "missing"


class Usable(StrEnum):
    """What a sync does about its index before it plans."""

    USE = "use"
    RECONCILE = "reconcile"
    STALL_MISSING = "stall_missing"
    STALL_STALE = "stall_stale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The part of an index's state that decides. `events_through` is only set while the feed is contiguous."""

    complete: bool = False
    snapshot_as_of: datetime | None = None
    events_through: datetime | None = None
    object_count: int = 0

    @property
    def as_of(self) -> datetime | None:
        """The instant up to which every change is known; None without a complete snapshot."""
        if not self.complete or self.snapshot_as_of is None:
            return None
        return max(self.snapshot_as_of, self.events_through or self.snapshot_as_of)


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """A verdict for people: status, the reason in a sentence, and the age it rests on."""

    status: Status
    why: str
    as_of: datetime | None = None


def freshness(trust: Trust, *, max_age: timedelta | None, now: datetime) -> Freshness:
    """Stale is older than `max_age`, strictly; with None never."""
    as_of = trust.as_of
    if as_of is None:
        return Freshness(status=Status.MISSING, why="No complete listing, inventory or manifest has been seen yet.")
    age = max(now - as_of, timedelta(0))
    if max_age is not None and age > max_age:
        why = f"What is known is {_text(age)} old; the policy allows {_text(max_age)}."
        return Freshness(status=Status.STALE, why=why, as_of=as_of)
    allowed = "and the policy sets no limit" if max_age is None else f"and the policy allows {_text(max_age)}"
    return Freshness(status=Status.FRESH, why=f"What is known is {_text(age)} old, {allowed}.", as_of=as_of)


def usable(status: Status, *, list_budget: int | None, estimate: int | None, may_reconcile: bool) -> Usable:
    """What to do. `list_budget` is what is left; None is unlimited, which is no leave for an unbounded scan.

    `may_reconcile`: the policy's `on_stale_index`; a first index is built whatever it says.
    """
    if status is Status.FRESH:
        return Usable.USE
    covered = list_budget is not None and list_budget >= (estimate or 1)
    if status is Status.MISSING:
        return Usable.RECONCILE if covered else Usable.STALL_MISSING
    return Usable.RECONCILE if covered and may_reconcile else Usable.STALL_STALE


def list_requests(objects: int) -> int:
    """The pages of a listing of so many objects: never less than one."""
    return max(1, ceil(objects / KEYS_PER_PAGE))


def resumable(started_at: datetime | None, *, max_age: timedelta | None, now: datetime) -> bool:
    """Whether an unfinished scan is young enough to be worth finishing."""
    if started_at is None:
        return False
    return now - started_at < min(LONGEST_SCAN, max_age or LONGEST_SCAN)


def _text(age: timedelta) -> str:
    """The two largest units: `1 d 2 h`, `45 s`."""
    seconds = int(age.total_seconds())
    parts = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
