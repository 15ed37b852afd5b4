"""Any story of plans, draws, requests, settlements, deaths, ends and changed limits: the books always hold.

A longer look is        VAULTHALLA_EXAMPLES=500 pytest tests/integration/budgets/test_reservation_stories.py
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

from django.db.models import F, Sum
from django.db.models.functions import Now
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budgets import sql
from budgets.allotments import write_off
from budgets.meter import ChunkMeter
from budgets.models import Allotment, DaySpend, LedgerEntry, PricePolicy, RunBudget
from budgets.policies import disable, set_policy
from budgets.price_policy import Scope
from tests.integration.budgets.test_money import GET, PUT, Made, end, finish, made, plan, started
from vaulthalla.errors import Stall
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.work.engine import Lease, claim, sweep
from vaulthalla.work.models import Chunk, Queue, Run

__all__ = ["made"]

PRICES = {GET: Decimal("0.01"), PUT: Decimal("0.05")}
CHUNKS = 3
EXAMPLES = int(os.environ.get("VAULTHALLA_EXAMPLES", "10"))

picks = st.integers(min_value=0, max_value=5)
counts = st.integers(min_value=0, max_value=12)
# Nothing, too little, enough for one, enough for all.
limits = st.sampled_from(("0", "0.07", "0.40", "1.50", "9"))
work = st.tuples(st.just("work"), picks, st.integers(min_value=1, max_value=12), counts, st.booleans())
moves = st.one_of(
    # What happens most is there most often.
    *[work] * 6,
    *[st.tuples(st.just("take"), picks)] * 3,
    *[st.tuples(st.just("die"), picks, st.booleans())] * 2,
    st.tuples(st.just("plan"), picks, counts, counts),
    st.tuples(st.just("draw"), picks, counts, counts),
    st.tuples(st.just("send"), picks, counts, counts),
    st.tuples(st.just("refused"), picks, st.sampled_from((GET, PUT)), st.booleans()),
    st.tuples(st.just("settle"), picks),
    st.tuples(st.just("end"), picks),
    st.tuples(st.just("limit"), limits),
    st.tuples(st.just("off")),
)
stories = st.lists(moves, min_size=12, max_size=40)


@dataclass(kw_only=True)
class Worker:
    """One that lives, with the chunk it works on."""

    run: Run
    lease: Lease
    meter: ChunkMeter


class Books:
    """Two vaults of one account, a run of each, three workers at most for each of them, one global policy."""

    def __init__(self, made: Made, *, limit: str) -> None:
        DaySpend.objects.all().delete()
        PricePolicy.objects.all().delete()
        self.workers: list[Worker] = []
        self.seen: Counter[tuple[int, RequestClass]] = Counter()
        self.unbilled: Counter[tuple[int, RequestClass]] = Counter()
        self.before = Decimal(0)
        self.limit(limit)
        self.runs = [started(made(uuid4().hex[:12]), chunks=CHUNKS) for _ in range(2)]
        self.take(0)
        self.take(1)

    # --- what may happen

    def limit(self, amount: str) -> None:
        set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": amount})

    def off(self) -> None:
        disable(Scope.GLOBAL, None)

    def plan(self, pick: int, get: int, put: int) -> None:
        try:
            plan(self.runs[pick % 2], get=get, put=put)
        except Stall:
            return

    def take(self, pick: int) -> None:
        run = self.runs[pick % 2]
        lease = claim([Queue.TRANSFER], run_id=run.pk)
        if lease is not None:
            self.workers.append(Worker(run=run, lease=lease, meter=ChunkMeter(lease)))

    def draw(self, pick: int, get: int, put: int, *, least: int | None = None) -> None:
        if self.workers:
            at_least = None if least is None else Requests({GET: least})
            self._at(pick).meter.draw(Requests({GET: get, PUT: put}), at_least)

    def send(self, pick: int, get: int, put: int) -> None:
        if not self.workers:
            return
        worker = self._at(pick)
        for name, count in ((GET, get), (PUT, put)):
            for _ in range(min(count, worker.meter.available(name))):
                worker.meter.attempt(name)
                self.seen[worker.run.pk, name] += 1

    def refused(self, pick: int, name: RequestClass, settled: bool) -> None:
        """An attempt answered with a 503, perhaps after it was settled."""
        worker = self._at(pick) if self.workers else None
        if worker is not None and worker.meter.available(name):
            worker.meter.attempt(name)
            self.seen[worker.run.pk, name] += 1
            if settled:
                self.settle(pick)
            worker.meter.answered(name, 503)
            self.unbilled[worker.run.pk, name] += 1

    def settle(self, pick: int) -> None:
        if self.workers:
            worker = self._at(pick)
            with worker.lease.commit():
                worker.meter.settle()

    def work(self, pick: int, get: int, put: int, settles: bool) -> None:
        """As most do it: draw, send, and tell of it, or not yet. Some of what was drawn stays."""
        self.draw(pick, get + 2, put, least=1)
        self.send(pick, get, put)
        if settles:
            self.settle(pick)

    def end(self, pick: int) -> None:
        if self.workers:
            end(self.workers.pop(pick % len(self.workers)).lease)

    def die(self, pick: int, found: bool) -> None:
        """At any moment; somebody finds out, at once or later."""
        if self.workers:
            dead = self.workers.pop(pick % len(self.workers))
            Chunk.objects.filter(pk=dead.lease.chunk_id).update(lease_until=Now() - timedelta(seconds=1))
            if found:
                sweep()

    def _at(self, pick: int) -> Worker:
        return self.workers[pick % len(self.workers)]

    # --- what must hold after each of it

    def check(self) -> None:
        for row in RunBudget.objects.filter(run__in=self.runs):
            out = row.used + row.held + row.lost
            assert row.reserved is None or out <= row.reserved
            held = Allotment.objects.filter(run=row.run_id, request_class=row.request_class)
            assert row.held == sum(held.values_list("amount", flat=True))
            seen = self.seen[row.run_id, RequestClass(row.request_class)]
            assert row.used <= seen <= out
        self.check_limit()

    def check_limit(self) -> None:
        """What is spent and set aside grows only up to the limit; one that was lowered below it lets nothing grow."""
        now = sql.committed(day=sql.today(), currency="USD", provider="", vault=None)[0]
        policy = PricePolicy.objects.get()
        if policy.mode == "enforce":
            assert policy.max_daily is not None
            assert now <= max(policy.max_daily, self.before), (now, policy.max_daily, self.before)
        self.before = now

    def close(self) -> None:
        """Whoever lives ends, whoever does not is found; then nothing is left open."""
        while self.workers:
            end(self.workers.pop().lease)
        Chunk.objects.filter(run__in=self.runs, status="running").update(lease_until=Now() - timedelta(seconds=1))
        sweep()
        write_off()
        for run in self.runs:
            finish(run)
            self.check_account(run)
        assert not Allotment.objects.filter(run__in=self.runs).exists()
        now = sql.committed(day=sql.today(), currency="USD", provider="", vault=None)[0]
        billed = (F("used") + F("lost") - F("unbilled")) * F("unit_price")
        assert now == (DaySpend.objects.aggregate(total=Sum(billed))["total"] or 0)

    def check_account(self, run: Run) -> None:
        """Of a run that is over: zero if it ever reserved, else what it spent; to the last decimal."""
        run.refresh_from_db()
        assert run.finished_at is not None, run.status
        entries = LedgerEntry.objects.filter(run_id=run.pk)
        by_kind: dict[str, Any] = dict(entries.order_by().values_list("kind").annotate(Sum("amount")))
        counted = lost = Decimal(0)
        for name, price in PRICES.items():
            row = RunBudget.objects.get(run=run, request_class=name.value)
            assert row.held == 0
            assert row.used <= self.seen[run.pk, name] <= row.used + row.lost
            rows = DaySpend.objects.filter(run_id=run.pk, request_class=name.value)
            unbilled = sum(rows.values_list("unbilled", flat=True))
            # Of those who died, nobody knows what they were answered.
            assert unbilled <= self.unbilled[run.pk, name] <= unbilled + row.lost
            counted += (row.used - unbilled) * price
            lost += row.lost * price
        assert (by_kind.get("settle", 0), by_kind.get("lost", 0)) == (-counted, -lost)
        reserved = RunBudget.objects.filter(run=run, reserved__isnull=False).exists()
        assert sum(by_kind.values()) == (0 if reserved else -counted - lost)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(limits, stories)
def test_the_books_hold_whatever_happens(made: Made, limit: str, story: list[tuple[Any, ...]]) -> None:
    books = Books(made, limit=limit)
    for name, *how in story:
        getattr(books, name)(*how)
        books.check()
    books.close()
