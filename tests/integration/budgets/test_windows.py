"""Runs that cross midnight, a month's end, a change of prices or of policies: each request in its day's window."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connection, transaction
from django.db.models import Sum
from django.db.models.functions import Now

from budgets import meter as meter_module
from budgets import sql
from budgets.access import budget_stall, preflight
from budgets.catalog import store
from budgets.catalog_file import read_prices
from budgets.meter import ChunkMeter
from budgets.models import DaySpend, LedgerEntry, PricePolicy, RunBudget
from budgets.policies import disable, set_policy
from budgets.price_policy import Scope
from budgets.pricing import Usage
from budgets.share import Draw
from tests.integration.budgets.test_money import (
    CENT,
    GET,
    PRICES,
    PUT,
    Made,
    end,
    finish,
    leased,
    made,
    movements,
    plan,
    started,
)
from vaulthalla.errors import Stall
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.work.engine import Lease, sweep
from vaulthalla.work.models import Chunk, Run

__all__ = ["made"]

# The database's clock, put forward: names of ours are found before those of the server.
CLOCK = """
CREATE SCHEMA test_clock;
CREATE FUNCTION test_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
 $$ SELECT pg_catalog.clock_timestamp() + current_setting('test.ahead')::interval $$;
SET search_path = test_clock, "$user", public, pg_catalog
"""
NO_CLOCK = "RESET search_path; DROP SCHEMA test_clock CASCADE"


class Clock:
    """What time it is for the budgets: on the database's clock and on that of the process alike."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def at(self, text: str) -> None:
        """Only forward, as clocks go."""
        self.ahead = datetime.fromisoformat(text).replace(tzinfo=UTC) - datetime.now(UTC)
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('test.ahead', %s, false)", [f"{self.ahead.total_seconds()} seconds"])

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead.total_seconds()


@pytest.fixture
def clock(made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    with connection.cursor() as cursor:
        cursor.execute(CLOCK)
    monkeypatch.setattr(meter_module, "monotonic", clock.monotonic)
    yield clock
    with connection.cursor() as cursor:
        cursor.execute(NO_CLOCK)


def send(meter: ChunkMeter, count: int, name: RequestClass = GET) -> None:
    for _ in range(count):
        meter.attempt(name)


def settle(lease: Lease, meter: ChunkMeter) -> None:
    with lease.commit():
        meter.settle()


def spent(run: Run) -> dict[tuple[str, str], tuple[int, int]]:
    """(used, lost) by day and class."""
    rows = DaySpend.objects.filter(run_id=run.pk)
    return {(row.day.isoformat(), row.request_class): (row.used, row.lost) for row in rows}


def windows(policy: PricePolicy) -> tuple[Decimal, Decimal]:
    return sql.committed(day=sql.today(), currency="USD", provider="", vault=policy.vault_id)


def is_even(run: Run) -> None:
    """What was reserved is spent, lost or given back, to the last decimal; each entry is of a row, each row has one."""
    assert LedgerEntry.objects.filter(run_id=run.pk).aggregate(total=Sum("amount"))["total"] in (0, None)
    booked = LedgerEntry.objects.filter(run_id=run.pk, kind__in=("settle", "lost")).aggregate(total=Sum("amount"))
    rows = DaySpend.objects.filter(run_id=run.pk)
    assert -(booked["total"] or 0) == sum((row.used + row.lost) * (row.unit_price or 0) for row in rows)


def test_a_request_belongs_to_the_day_on_which_it_was_sent(made: Made, clock: Clock) -> None:
    clock.at("2031-05-10T23:59:00")
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1"})
    run = started(made())
    plan(run, get=100)
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 20}))
    send(meter, 3)
    clock.at("2031-05-11T00:00:01")
    send(meter, 4)
    # Nobody asked the database in between, and it was told of all seven only now.
    settle(lease, meter)
    assert spent(run) == {("2031-05-10", "get"): (3, 0), ("2031-05-11", "get"): (4, 0)}
    # What is set aside counts in the window of now: 4 spent, 93 to come.
    assert windows(policy) == (Decimal("0.97"), Decimal(1))
    clock.at("2031-05-13T12:00:00")
    send(meter, 1)
    end(lease)
    finish(run)
    assert spent(run)[("2031-05-13", "get")] == (1, 0)
    is_even(run)
    assert [e.day.isoformat() for e in LedgerEntry.objects.filter(kind="settle").order_by("id")] == [
        "2031-05-10",
        "2031-05-11",
        "2031-05-13",
    ]


def test_a_rolled_back_settlement_keeps_the_days_apart(made: Made, clock: Clock) -> None:
    clock.at("2031-05-10T23:59:00")
    run = started(made())
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 9}))
    send(meter, 2)

    def commit_and_fail() -> None:
        with lease.commit():
            meter.settle()
            lease.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        commit_and_fail()
    clock.at("2031-05-11T00:01:00")
    send(meter, 1)
    settle(lease, meter)
    settle(lease, meter)
    assert spent(run) == {("2031-05-10", "get"): (2, 0), ("2031-05-11", "get"): (1, 0)}


@pytest.mark.parametrize(
    ("at", "left"),
    [
        (("2031-05-10T23:59:30", "2031-05-11T00:00:30"), ("0.55", "0.60")),
        (("2031-05-31T23:59:30", "2031-06-01T00:00:30"), ("0.55", "0.55")),
        (("2031-12-31T23:59:30", "2032-01-01T00:00:30"), ("0.55", "0.55")),
        (("2032-02-28T23:59:30", "2032-02-29T00:00:30"), ("0.55", "0.60")),
    ],
)
def test_windows_end_at_midnight_utc(made: Made, clock: Clock, at: tuple[str, str], left: tuple[str, str]) -> None:
    clock.at(at[0])
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1", "max_monthly": "10"})
    run = started(made())
    plan(run, get=60)
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 10}))
    send(meter, 5)
    settle(lease, meter)
    assert windows(policy) == (Decimal("0.60"), Decimal("0.60"))
    clock.at(at[1])
    assert windows(policy) == (Decimal(left[0]), Decimal(left[1]))


def test_a_new_day_pays_for_what_the_old_one_could_not(made: Made, clock: Clock) -> None:
    clock.at("2031-05-10T10:00:00")
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "0.10", "max_run": "0.25"})
    run = started(made())
    meter = ChunkMeter(lease := leased(run))
    assert meter.draw(Requests({GET: 10})) is Draw.DRAWN
    send(meter, 10)
    settle(lease, meter)
    assert meter.draw(Requests({GET: 1})) is Draw.EXHAUSTED
    assert budget_stall(run.pk, GET).remedy == "vh pricing budget set-global --max-daily 0.11"
    clock.at("2031-05-11T10:00:00")
    assert meter.draw(Requests({GET: 10})) is Draw.DRAWN
    send(meter, 10)
    settle(lease, meter)
    clock.at("2031-05-12T10:00:00")
    # The third day has money left; the run has not: its window is its whole life.
    assert meter.draw(Requests({GET: 6})) is Draw.EXHAUSTED
    assert budget_stall(run.pk, GET).remedy == "vh pricing budget set-global --max-run 0.26"
    assert meter.draw(Requests({GET: 5})) is Draw.DRAWN
    end(lease)
    finish(run)
    is_even(run)


def test_what_is_found_lost_days_later_is_of_the_day_it_was_last_heard_of(made: Made, clock: Clock) -> None:
    clock.at("2031-05-30T22:00:00")
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1"})
    run = started(made())
    plan(run, get=50)
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 30}))
    send(meter, 2)
    clock.at("2031-05-31T01:00:00")
    send(meter, 1)
    settle(lease, meter)
    send(meter, 5)
    # The host dies, and is back two days later, in another month.
    clock.at("2031-06-02T09:00:00")
    Chunk.objects.filter(run=run, status="running").update(lease_until=Now() - timedelta(seconds=1))
    sweep()
    finish(run)
    assert spent(run) == {("2031-05-30", "get"): (2, 0), ("2031-05-31", "get"): (1, 27)}
    assert windows(policy) == (0, 0)
    assert movements(run)["lost"] == Decimal("-0.27")
    is_even(run)


def test_prices_are_those_of_the_runs_beginning(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1"})
    run = started(vault := made())
    dearer = PRICES.replace(b'"10"', b'"1000"').replace(b'"test",\n', b'"dearer",\n')
    assert store(read_prices(dearer))
    plan(run, get=50)
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 50}))
    send(meter, 50)
    end(lease)
    finish(run)
    is_even(run)
    assert movements(run) == {"reserve": Decimal("0.5"), "settle": Decimal("-0.5")}
    assert set(LedgerEntry.objects.values_list("catalog_version", flat=True)) == {"test"}
    with pytest.raises(Stall, match="price budget exceeded"):
        plan(started(vault), get=50)


def test_a_policy_set_under_a_run_holds_from_its_next_draw(made: Made) -> None:
    run = started(made(), chunks=2)
    plan(run, get=100)
    first, second = ChunkMeter(lease := leased(run)), ChunkMeter(other := leased(run))
    assert first.draw(Requests({GET: 20})) is Draw.DRAWN
    send(first, 10)
    settle(lease, first)
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "0.25"})
    # Ten are spent and ten are held: both count, though nobody set them aside.
    assert windows(policy)[0] == Decimal("0.20")
    assert second.draw(Requests({GET: 6})) is Draw.WAIT
    assert budget_stall(run.pk, GET).remedy == "vh pricing budget set-global --max-daily 0.26"
    assert second.draw(Requests({GET: 5})) is Draw.DRAWN
    assert first.draw(Requests({GET: 1})) is Draw.WAIT
    assert windows(policy)[0] == Decimal("0.25")
    send(first, 10)
    end(lease)
    end(other)
    finish(run)
    is_even(run)
    assert movements(run) == {"reserve": Decimal("0.25"), "settle": Decimal("-0.20"), "release": Decimal("-0.05")}


def test_a_lowered_limit_takes_back_what_was_set_aside(made: Made) -> None:
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1"})
    run = started(made())
    plan(run, get=80)
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 10}))
    send(meter, 10)
    settle(lease, meter)
    set_policy(Scope.GLOBAL, None, {"max_daily": "0.15"})
    assert meter.draw(Requests({GET: 6})) is Draw.EXHAUSTED
    assert windows(policy)[0] == Decimal("0.10")
    assert meter.draw(Requests({GET: 5})) is Draw.DRAWN
    # Raised again, or off: nothing is in the way, and what was set aside is asked for as it is drawn.
    send(meter, 5)
    settle(lease, meter)
    set_policy(Scope.GLOBAL, None, {"max_daily": "2"})
    assert meter.draw(Requests({GET: 50})) is Draw.DRAWN
    disable(Scope.GLOBAL, None)
    assert meter.draw(Requests({GET: 500})) is Draw.DRAWN
    end(lease)
    finish(run)
    is_even(run)


def test_a_changed_policy_that_is_still_kept_leaves_the_reservation_alone(made: Made) -> None:
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1"})
    run = started(made())
    plan(run, get=80)
    set_policy(Scope.GLOBAL, None, {"max_daily": "0.8"})
    meter = ChunkMeter(leased(run))
    assert meter.draw(Requests({GET: 1})) is Draw.DRAWN
    assert windows(policy)[0] == Decimal("0.80")
    assert not LedgerEntry.objects.filter(kind="release").exists()


def test_a_policy_in_another_currency_stops_a_run_under_way(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1"})
    run = started(made())
    plan(run, get=50)
    meter = ChunkMeter(lease := leased(run))
    assert meter.draw(Requests({GET: 10})) is Draw.DRAWN
    set_policy(Scope.GLOBAL, None, {"currency": "EUR"})
    assert meter.draw(Requests({GET: 1})) is Draw.EXHAUSTED
    assert "currency_mismatch" in str(budget_stall(run.pk, GET))
    end(lease)
    finish(run)
    is_even(run)


def test_a_list_that_goes_stale_under_a_run_stops_what_is_not_paid_for(made: Made) -> None:
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1", "max_catalog_age": "30d"})
    run = started(made())
    plan(run, get=5)
    meter = ChunkMeter(lease := leased(run))
    row = RunBudget.objects.get(run=run, request_class="get").run.purse.price_list
    assert row is not None
    row.checked_at -= timedelta(days=31)
    row.save()
    assert meter.draw(Requests({GET: 5})) is Draw.DRAWN
    assert meter.draw(Requests({GET: 1})) is Draw.EXHAUSTED
    assert "catalog_stale" in str(budget_stall(run.pk, GET))
    set_policy(Scope.GLOBAL, None, {"allow_stale_catalog": True})
    assert meter.draw(Requests({GET: 1})) is Draw.DRAWN
    assert windows(policy)[0] == Decimal("0.06")
    end(lease)


DEAR = b"""  {"storage_class": "COLD", "operation": "get", "unit": "1000_requests", "price": "30"},
  {"storage_class": "COLD", "operation": "put", "unit": "1000_requests", "price": "20"},
  {"storage_class": "*", "operation": "get","""
WITH_COLD = PRICES.replace(b'  {"storage_class": "*", "operation": "get",', DEAR).replace(b'"test",\n', b'"cold",\n')


def test_what_was_spent_before_the_plan_keeps_its_price(made: Made) -> None:
    store(
        read_prices(PRICES.replace(b'  {"storage_class": "*", "operation": "get",', DEAR).replace(b'"test",', b'"c",'))
    )
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "2"})
    run = started(vault := made())
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 10}))
    send(meter, 6)
    settle(lease, meter)
    with transaction.atomic():
        cold = Usage(storage_class="COLD", requests={GET: 1})
        preflight(run.pk, vault, Requests({GET: 20, PUT: 1}), [cold])
    # Six at their price of then; four held and twenty to come at the price of the dearest class in the plan.
    assert windows(policy)[0] == Decimal("0.06") + 4 * 3 * CENT + 20 * 3 * CENT + 5 * CENT
    send(meter, 4)
    assert meter.draw(Requests({GET: 20})) is Draw.DRAWN
    send(meter, 20)
    end(lease)
    finish(run)
    is_even(run)
    rows = DaySpend.objects.filter(run_id=run.pk).order_by("unit_price")
    assert [(row.used, row.unit_price) for row in rows] == [(6, CENT), (24, 3 * CENT)]


def test_a_plan_whose_prices_no_limit_watches_is_booked_at_them(made: Made) -> None:
    store(
        read_prices(PRICES.replace(b'  {"storage_class": "*", "operation": "get",', DEAR).replace(b'"test",', b'"c",'))
    )
    run = started(vault := made())
    with transaction.atomic():
        preflight(run.pk, vault, Requests({GET: 1}), [Usage(storage_class="COLD", requests={GET: 1})])
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 1}))
    send(meter, 1)
    end(lease)
    finish(run)
    assert movements(run) == {"settle": -3 * CENT}


def test_every_day_is_the_databases_own(made: Made, clock: Clock) -> None:
    clock.at("2031-05-10T12:00:00")
    assert sql.today() == date(2031, 5, 10)
