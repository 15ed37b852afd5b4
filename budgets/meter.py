"""The in-process counters of one lease: asked before every wire attempt, filled from the run's budget in batches.

Attempts only decrement counters under a lock. The main thread draws, settles and closes; the database's row for
the lease always covers what the counters still hold plus what they spent since the last settlement.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from time import monotonic
from types import TracebackType

from django.db import transaction

from budgets import sql
from budgets.days import Clock
from budgets.pricing import is_billed
from budgets.reserve import judge, more
from budgets.share import Draw, affordable, can_come_back, shares, unpaid
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import MeterRefused
from vaulthalla.work.lease import Lease

ByDay = defaultdict[date, Requests]


class ChunkMeter:
    """What one lease may send. Close it, or let the lease's end do so: what is left goes back to the run."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._lock = threading.Lock()
        self._left = Requests()
        # By the day on which it was spent, by the database's clock as the last draw told it.
        self._spent: ByDay = defaultdict(Requests)
        # What of it the provider does not bill; who that is, the last draw told.
        self._provider = ""
        self._unbilled: ByDay = defaultdict(Requests)
        # Nothing is sent before the first draw.
        self._clock = Clock(said=datetime.now(UTC), asked_at=monotonic())
        # What of both the transaction of this number has booked; void once that was rolled back.
        self._booked: tuple[int, dict[date, Requests], dict[date, Requests]] = (0, {}, {})
        self._closed = False
        self._thread = threading.local()
        self._exhausted: RequestClass | None = None
        # What draws leave to the rest of the run.
        self.keeps_back = Requests()
        self.run_id = lease.run_id
        lease.at_end(self._close)

    # --- the wire, from any thread ---

    def attempt(self, request_class: RequestClass) -> None:
        """Counts one attempt. Raises MeterRefused when nothing is left, or the lease has lapsed: send nothing."""
        self._take(request_class, 1)

    def answered(self, request_class: RequestClass, status: int) -> None:
        """Notes that the provider does not bill this thread's last attempt, if so, on the day on which it was sent."""
        if not is_billed(self._provider, status):
            with self._lock:
                self._unbilled[self._thread.day][request_class] += 1

    def received(self, count: int) -> None:
        """Counts body bytes. Raises MeterRefused when there are more than were drawn: stop the transfer."""
        if count:
            self._take(RequestClass.DOWNLOAD_BYTES, count)

    def _take(self, request_class: RequestClass, count: int) -> None:
        pot: Pot | None = getattr(self._thread, "pot", None)
        with self._lock:
            self._check_open()
            taken = pot.take(request_class, count) if pot else 0
            rest = min(count - taken, self._left[request_class])
            self._left[request_class] -= rest
            # Of bytes that arrived uninvited, as many are booked as there were: the limit holds.
            self._thread.day = self._today()
            self._spent[self._thread.day][request_class] += taken + rest
            if taken + rest < count:
                raise MeterRefused(request_class, f"The chunk holds no more {request_class} of the run's budget.")

    def _today(self) -> date:
        """The UTC day that requests of now belong to. Called under the lock."""
        return self._clock.day(monotonic())

    def _check_open(self) -> None:
        if self._closed or self._lease.lapsed:
            raise MeterRefused(None, "The lease of this chunk is over.")

    # --- items, from the main thread ---

    def available(self, request_class: RequestClass) -> int:
        """What the lease holds of a class and has not set aside."""
        with self._lock:
            return self._left[request_class]

    def set_aside(self, cost: Requests) -> Pot | None:
        """Reserves what one item needs, before it begins; None when the lease does not hold as much.

        The thread that works on the item enters the pot (`with pot:`): its attempts are taken from there first.
        """
        with self._lock:
            if any(self._left[name] < count for name, count in cost.items()):
                return None
            self._left.subtract(cost)
        return Pot(self, cost)

    @contextmanager
    def _working_from(self, pot: Pot) -> Iterator[None]:
        self._thread.pot = pot
        try:
            yield
        finally:
            self._thread.pot = None
            self._return(pot)

    def _return(self, pot: Pot) -> None:
        with self._lock:
            self._left.update(pot.rest)
            pot.rest = Requests()

    @property
    def spent(self) -> Requests:
        """Since the last settlement that was committed."""
        with self._lock:
            return Requests.summed(_some(self._spent).values())

    @property
    def exhausted(self) -> RequestClass | None:
        """The class that the last draw found exhausted for good; None after any other answer."""
        return self._exhausted

    # --- the run's budget, from the main thread ---

    def draw(self, need: Requests, at_least: Requests | None = None) -> Draw:
        """Takes more from the run's budget: of each class up to `need`, not less than `at_least` (default: all).

        All classes or none. At most remaining ÷ running chunks, unless `at_least` is more. Not inside
        `lease.commit()`: what is granted must be committed before it is sent. Raises LeaseLost.
        """
        if self._lease.committing:
            raise RuntimeError("A draw must be committed before it is spent: not inside a commit.")
        with self._lock:
            unbilled = _some(self._unbilled)
        if unbilled:
            # What it left of a limit may be spent again.
            with self._lease.commit():
                self.settle()
        least = need if at_least is None else at_least
        wanted = Requests({name: max(need[name], least[name]) for name in (*need, *least)})
        answer = self._draw(wanted, least)
        if answer is Draw.WAIT:
            # Perhaps those who hold the rest are dead.
            with transaction.atomic():
                sql.write_off(self._lease.run_id)
            answer = self._draw(wanted, least)
        return answer

    def _draw(self, need: Requests, at_least: Requests) -> Draw:
        lease = self._lease
        with transaction.atomic():
            asked_at = monotonic()
            now = sql.hold_lease(lease.chunk_id, lease.token)
            if now is None:
                raise lease.lost()
            self._clock = Clock(said=now, asked_at=asked_at)
            self._provider = judge(lease.run_id)
            lines = _but(sql.lock(lease.run_id, need), self.keeps_back)
            granted, refused = shares(lines, need=need, at_least=at_least, workers=sql.active_chunks(lease.run_id))
            if refused:
                return self._refused(lines, refused, at_least)
            paid = self._paid(lines, granted, at_least)
            if isinstance(paid, Draw):
                return paid
            granted = paid
            sql.grant(lease.run_id, lease.chunk_id, lease.token, granted)
        with self._lock:
            self._left.update(granted)
        self._exhausted = None
        return Draw.DRAWN

    def _refused(self, lines: dict[RequestClass, sql.Line], refused: list[RequestClass], at_least: Requests) -> Draw:
        own = sql.own(self._lease.token)
        for name in refused:
            if not can_come_back(lines[name], at_least=at_least[name], own=own[name]):
                self._exhausted = name
                return Draw.EXHAUSTED
        self._exhausted = None
        return Draw.WAIT

    def _paid(self, lines: dict[RequestClass, sql.Line], granted: Requests, at_least: Requests) -> Requests | Draw:
        """What of `granted` is paid for, after asking for more where it is not; the answer when it is too little."""
        if not (lacking := unpaid(lines, granted)) or more(self._lease.run_id, lacking):
            return granted
        smaller = affordable(lines, granted, at_least=at_least)
        lacking, own = unpaid(lines, smaller), sql.own(self._lease.token)
        out = {name: (lines[name].paid or 0) + lines[name].held - own[name] for name in lacking}
        exhausted = next((name for name in lacking if out[name] < at_least[name]), None)
        # Leave to pass a limit is not spent while what others hold could come back.
        if not lacking or more(self._lease.run_id, lacking, overridable=exhausted is not None):
            return smaller
        self._exhausted = exhausted
        return Draw.EXHAUSTED if exhausted else Draw.WAIT

    def settle(self) -> None:
        """Books what was spent as used; inside `with lease.commit():`."""
        self._lease.before_commit(self._settle)

    def close(self) -> None:
        """Settles and returns what is left; inside the last `with lease.commit():`. Nothing can be sent after it."""
        self._lease.before_commit(self._close)

    def _settle(self) -> None:
        number, spent_before, unbilled_before = self._booked
        if number != self._lease.transactions:
            spent_before, unbilled_before = {}, {}
        with self._lock:
            spent, unbilled = _some(self._spent), _some(self._unbilled)
        fresh, fresh_unbilled = _since(spent, spent_before), _since(unbilled, unbilled_before)
        sql.settle(self._lease.run_id, self._lease.token, fresh, fresh_unbilled)
        self._booked = (self._lease.transactions, spent, unbilled)
        self._lease.after_commit(lambda: self._forget(fresh, fresh_unbilled))

    def _close(self) -> None:
        with self._lock:
            self._closed = True
        self._settle()
        sql.give_back(self._lease.run_id, self._lease.token)

    def _forget(self, spent: Mapping[date, Requests], unbilled: Mapping[date, Requests]) -> None:
        # Subtracted, not cleared: other threads may have gone on since.
        with self._lock:
            for booked, kept in ((spent, self._spent), (unbilled, self._unbilled)):
                for day, amounts in booked.items():
                    kept[day].subtract(amounts)


def _some(by_day: ByDay) -> dict[date, Requests]:
    return {day: Requests(+amounts) for day, amounts in by_day.items() if +amounts}


def _since(now: Mapping[date, Requests], before: Mapping[date, Requests]) -> dict[date, Requests]:
    return {day: Requests(amounts - before.get(day, Requests())) for day, amounts in now.items()}


def _but(lines: dict[RequestClass, sql.Line], kept: Requests) -> dict[RequestClass, sql.Line]:
    """The lines as if each limit were lower by what is kept for others."""
    return {
        name: line if line.limit is None else replace(line, limit=line.limit - kept[name])
        for name, line in lines.items()
    }


class Pot:
    """What one item of a chunk has set aside. Enter it in the item's thread, or release it unused."""

    def __init__(self, meter: ChunkMeter, cost: Requests) -> None:
        self._meter = meter
        self._working = meter._working_from(self)
        self.rest = Requests(cost)

    def take(self, request_class: RequestClass, count: int) -> int:
        """How much of `count` it covers. Called under the meter's lock."""
        covered = min(count, self.rest[request_class])
        self.rest[request_class] -= covered
        return covered

    def release(self) -> None:
        """Gives back what is left; safe to call again."""
        self._meter._return(self)

    def __enter__(self) -> Pot:
        self._working.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._working.__exit__(kind, error, at)


class Unmetered:
    """The meter of stores that cost nothing: a second directory."""

    def attempt(self, request_class: RequestClass) -> None:
        """Any number."""

    def answered(self, request_class: RequestClass, status: int) -> None:
        """Any status."""

    def received(self, count: int) -> None:
        """Any number."""
