"""Money set aside, spent, lost and released; never more than the policies allow."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import Sum
from django.db.models.functions import Now

from budgets import overrides, sql
from budgets.access import budget_stall, preflight, would
from budgets.catalog import store
from budgets.catalog_file import read_prices
from budgets.ledger import entries, month_of, report
from budgets.meter import ChunkMeter
from budgets.models import DaySpend, LedgerEntry, OverrideStatus, PriceOverride, PricePolicy, Purse, RunBudget
from budgets.notes import warnings
from budgets.policies import disable, set_policy
from budgets.price_policy import Scope
from budgets.pricing import UNBILLED
from budgets.share import Draw
from vaulthalla.errors import NotFound, Refused, Stall, StallCode
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.models import ApiKey, Provider, SyncPolicy, Vault, VaultKind
from vaulthalla.work.engine import Lease, NewChunk, Phase, claim, create_run, execute, handler, sweep
from vaulthalla.work.models import Chunk, Queue, Run, RunKind

GET, PUT = RequestClass.GET, RequestClass.PUT
Made = Callable[..., Vault]
CENT = Decimal("0.01")
PRICES = b"""{"format": "vaulthalla-prices", "format_version": 1, "provider": "wasabi", "region": "*",
 "version": "test",
 "currency": "USD", "valid_from": "2026-11-01T00:00:00Z", "source": "test", "rates": [
  {"storage_class": "*", "operation": "get", "unit": "1000_requests", "price": "10"},
  {"storage_class": "*", "operation": "put", "unit": "1000_requests", "price": "50"},
  {"storage_class": "*", "operation": "egress", "unit": "gib", "price": "0.09"},
  {"storage_class": "*", "operation": "retrieval", "unit": "gib", "price": "0"}]}"""


@pytest.fixture
def made(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setitem(UNBILLED, "wasabi", (503,))
    store(read_prices(PRICES))
    key = ApiKey.objects.create(name="key", provider=Provider.WASABI, endpoint="https://w", secret="secret")

    def make(name: str = "archive", **limits: int | None) -> Vault:
        vault = Vault.objects.create(
            name=name, kind=VaultKind.S3, root=f"/{name}", api_key=key, bucket=name, marker=uuid4()
        )
        SyncPolicy.objects.create(vault=vault, **{"budget_get": None, "budget_put": None, **limits})
        return vault

    return make


def started(vault: Vault, chunks: int = 1) -> Run:
    return create_run(vault, RunKind.SYNC, chunks=[NewChunk("work", Phase.TRANSFER, Queue.TRANSFER)] * chunks)


def leased(run: Run) -> Lease:
    lease = claim([Queue.TRANSFER], run_id=run.pk)
    assert lease is not None
    return lease


def end(lease: Lease) -> None:
    lease.kind = f"test.{uuid4().hex[:20]}"
    handler(lease.kind)(lambda _: None)
    execute(lease)


def finish(run: Run) -> None:
    while (lease := claim([Queue.TRANSFER, Queue.CONTROL], run_id=run.pk)) is not None:
        end(lease) if lease.queue == Queue.TRANSFER else execute(lease)


def plan(run: Run, **needs: int) -> None:
    assert run.vault is not None
    with transaction.atomic():
        preflight(run.pk, run.vault, Requests({RequestClass(n): c for n, c in needs.items()}), [])


def committed(policy: PricePolicy) -> tuple[Decimal, Decimal]:
    return sql.committed(day=sql.today(), currency="USD", provider="", vault=policy.vault_id)


def movements(run: Run) -> dict[str, Decimal]:
    rows = LedgerEntry.objects.filter(run_id=run.pk).values_list("kind").annotate(Sum("amount"))
    return {kind: amount.quantize(CENT) for kind, amount in rows}


def test_a_plan_is_reserved_spent_and_the_rest_released(made: Made) -> None:
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1"})
    run = started(made())
    plan(run, get=100)
    assert committed(policy) == (1, 1)
    meter = ChunkMeter(lease := leased(run))
    assert meter.draw(Requests({GET: 100})) is Draw.DRAWN
    for _ in range(40):
        meter.attempt(GET)
    end(lease)
    assert committed(policy)[0] == 1
    finish(run)
    assert movements(run) == {"reserve": 1, "settle": Decimal("-0.40"), "release": Decimal("-0.60")}
    assert committed(policy)[0] == Decimal("0.4")
    assert {e["kind"] for e in entries(10)} == {"reserve", "settle", "release"}


def test_what_a_look_did_not_need_is_not_in_a_plans_way(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "1"})
    run = started(made(), chunks=2)
    meter = ChunkMeter(lease := leased(run))
    assert meter.draw(Requests({GET: 50})) is Draw.DRAWN
    meter.attempt(GET)
    end(lease)
    plan(run, get=99)
    finish(run)
    assert movements(run) == {"reserve": Decimal("1.49"), "settle": Decimal("-0.01"), "release": Decimal("-1.48")}


def test_what_was_not_billed_is_spent_again(made: Made) -> None:
    """Of a limit that the plan uses up, to the last request."""
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0.1"})
    run = started(made())
    plan(run, get=10)
    meter = ChunkMeter(lease := leased(run))
    assert meter.draw(Requests({GET: 10})) is Draw.DRAWN
    for _ in range(10):
        meter.attempt(GET)
    assert meter.draw(Requests({GET: 1})) is Draw.EXHAUSTED
    meter.answered(GET, 503)
    assert meter.draw(Requests({GET: 2}), Requests({GET: 1})) is Draw.DRAWN
    assert meter.available(GET) == 1
    meter.attempt(GET)
    assert meter.draw(Requests({GET: 1})) is Draw.EXHAUSTED
    end(lease)
    finish(run)
    assert movements(run) == {"reserve": Decimal("0.11"), "settle": Decimal("-0.1"), "release": Decimal("-0.01")}


def test_a_plan_over_the_limit_stalls_with_the_number_that_is_needed(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1"})
    vault = made("my archive")
    run = started(vault)
    with pytest.raises(Stall) as stall:
        plan(run, get=124)
    assert (stall.value.code, stall.value.remedy) == (
        StallCode.PRICE_BUDGET,
        "vh pricing budget set-global --max-daily 1.24",
    )
    assert not LedgerEntry.objects.exists()
    set_policy(Scope.GLOBAL, None, {"max_daily": "1.24"})
    plan(run, get=124)


def test_a_plan_counts_only_as_far_as_its_request_limits_let_it_run(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0.1"})
    run = started(vault := made(budget_get=10))
    assert would(vault, Requests({GET: 1000}), {GET: 10}, []).allowed
    plan(run, get=1000)
    assert RunBudget.objects.get(run=run, request_class="get").reserved == 10


def test_retries_ask_for_more_and_stall_when_there_is_none(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0.12"})
    run = started(made())
    plan(run, get=10)
    meter = ChunkMeter(leased(run))
    assert meter.draw(Requests({GET: 12})) is Draw.DRAWN
    assert meter.draw(Requests({GET: 1})) is Draw.EXHAUSTED
    stall = budget_stall(run.pk, GET)
    assert (stall.code, stall.remedy) == ("price_budget", "vh pricing budget set-global --max-run 0.13")


@pytest.mark.parametrize("mode", ["off", "report", "warn"])
def test_milder_modes_never_block_but_the_ledger_tells(made: Made, mode: str) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": mode, "max_run": "0"})
    run = started(made())
    plan(run, get=10**6)
    meter = ChunkMeter(lease := leased(run))
    assert meter.draw(Requests({GET: 10})) is Draw.DRAWN
    meter.attempt(GET)
    end(lease)
    finish(run)
    assert movements(run) == {"settle": -CENT}


@pytest.mark.parametrize(("mode", "told"), [("warn", 1), ("report", 0)])
def test_a_milder_policy_that_is_passed_is_noted_and_told_unless_it_only_reports(
    made: Made, mode: str, told: int
) -> None:
    policy = set_policy(Scope.GLOBAL, None, {"mode": mode, "max_run": "0.05", "max_daily": "5"})
    run = started(made())
    plan(run, get=10)
    noted = Purse.objects.get(run=run).notes
    assert [(note["policy"], note["window"]) for note in noted] == [(policy.pk, "per_run")]
    assert "would exceed per_run limit 0.05 USD of global policy" in noted[0]["text"]
    assert len(warnings(run.pk)) == told


def test_what_is_planned_twice_or_within_the_limits_is_not_noted_again(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "warn", "max_run": "0.05"})
    run = started(made(budget_get=5))
    plan(run, get=10)  # its request limit lets no more than five through
    assert warnings(run.pk) == []
    set_policy(Scope.GLOBAL, None, {"max_run": "0.04"})
    plan(run, get=10)
    plan(run, get=10)
    assert len(warnings(run.pk)) == 1


def test_a_run_without_a_plan_is_noted_by_what_it_spent(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "warn", "max_run": "0.05", "max_daily": "0.15", "max_monthly": "0.15"})
    vault = made()
    told = []
    for _ in range(2):
        meter = ChunkMeter(lease := leased(run := started(vault)))
        meter.draw(Requests({GET: 10}))
        for _ in range(10):
            meter.attempt(GET)
        end(lease)
        finish(run)
        told.append(warnings(run.pk))
    assert [len(one) for one in told] == [1, 3]
    assert told[1][0].startswith("the monthly limit 0.15 USD of global policy")
    assert told[1][0].endswith("is passed: 0.20 spent")
    # What spends nothing passes nothing.
    finish(idle := started(vault))
    assert warnings(idle.pk) == []


def test_an_unknown_price_is_not_free(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "enforce"})
    with pytest.raises(Stall, match=r"pricing\.price_unknown"):
        plan(started(made()), head=1)


def test_spend_is_counted_in_the_window_of_its_day_and_outlives_its_run(made: Made) -> None:
    vault = made()
    policy = set_policy(Scope.VAULT, "archive", {"mode": "enforce", "max_daily": "1", "max_monthly": "5"})
    # A run of an hour before midnight, and one of the month before.
    common = {"vault_id": vault.pk, "provider": "wasabi", "currency": "USD", "request_class": "get", "unit_price": CENT}
    for number, day in enumerate([date(2026, 1, 31), date(2026, 2, 1), date(2026, 2, 28), date(2026, 3, 1)], 1):
        DaySpend.objects.create(run_id=-1, used=10**number, day=day, **common)
    for day, daily, monthly in [
        (date(2026, 1, 31), "0.1", "0.1"),
        (date(2026, 2, 1), "1", "1"),
        (date(2026, 2, 27), "0", "1"),
        (date(2026, 2, 28), "10", "11"),
        (date(2026, 3, 1), "100", "100"),
        (date(2026, 3, 2), "0", "100"),
    ]:
        found = sql.committed(day=day, currency="USD", provider="", vault=policy.vault_id)
        assert found == (Decimal(daily), Decimal(monthly)), day


def test_what_a_worker_took_with_it_is_lost_not_leaked(made: Made) -> None:
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "1"})
    run = started(made())
    plan(run, get=100)
    ChunkMeter(leased(run)).draw(Requests({GET: 30}))
    Chunk.objects.filter(run=run, status="running").update(lease_until=Now() - timedelta(seconds=1))
    sweep()
    finish(run)
    assert movements(run) == {"reserve": 1, "lost": Decimal("-0.30"), "release": Decimal("-0.70")}
    assert committed(policy)[0] == Decimal("0.3")


def test_the_ledger_refuses_to_be_changed(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "enforce"})
    plan(run := started(made()), get=1)
    for change in (
        lambda: LedgerEntry.objects.update(quantity=2),
        lambda: LedgerEntry.objects.all().delete(),
    ):
        with pytest.raises(DatabaseError, match="append-only"):
            change()
    run.vault.delete()  # type: ignore[union-attr] # what was spent stays on record
    assert LedgerEntry.objects.count() == 1


def test_eight_runs_under_one_daily_limit_never_pass_it(made: Made) -> None:
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": "2"})
    runs = [started(made(f"vault {n}"), chunks=3) for n in range(8)]

    def work(number: int) -> None:
        rng = random.Random(number)
        try:
            run = runs[number]
            if rng.random() < 0.5:
                try:
                    plan(run, get=30)
                except Stall:
                    return
            while (lease := claim([Queue.TRANSFER], run_id=run.pk)) is not None:
                meter = ChunkMeter(lease)
                while meter.draw(Requests({GET: rng.randint(1, 9)}), Requests({GET: 1})) is Draw.DRAWN:
                    for _ in range(rng.randint(0, meter.available(GET))):
                        meter.attempt(GET)
                    with lease.commit():
                        meter.settle()
                    assert committed(policy)[0] <= 2
                    if rng.random() < 0.2:
                        break
                if rng.random() < 0.4:
                    Chunk.objects.filter(pk=lease.chunk_id).update(lease_until=Now() - timedelta(seconds=1))
                    sweep()
                else:
                    end(lease)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert committed(policy)[0] <= 2
    for run in runs:
        finish(run)
        run.refresh_from_db()
        assert run.finished_at is not None
        # Nothing leaked: what was set aside was spent, lost or given back.
        assert sum(movements(run).values()) == 0
    booked = sum((row.used + row.lost) * (row.unit_price or 0) for row in DaySpend.objects.filter(request_class="get"))
    assert committed(policy)[0] == booked <= 2


def override(vault: Vault, *policies: PricePolicy, by: str = "ann") -> PriceOverride:
    return overrides.request(vault, [p.pk for p in policies], reason="first upload", by=by, ttl=timedelta(minutes=30))


def test_an_override_is_spent_by_one_run_alone(made: Made) -> None:
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0"})
    vault = made()
    asked = override(vault, policy)
    first = started(vault)
    with pytest.raises(Stall):
        plan(first, get=1)
    overrides.decide(str(asked.pk), OverrideStatus.APPROVED, by="bob")
    other = create_run(vault, RunKind.AUDIT, chunks=[NewChunk("work", Phase.TRANSFER, Queue.TRANSFER)])

    def attempt(run: Run) -> bool:
        try:
            plan(run, get=1)
        except Stall:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(attempt, [first, other])) == [False, True]
    asked.refresh_from_db()
    assert (asked.status, asked.used_by_run in (first.pk, other.pk)) == ("used", True)


def test_a_run_without_a_plan_spends_an_override_where_it_is_blocked(made: Made) -> None:
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0.10"})
    vault = made()
    asked = override(vault, policy)
    overrides.decide(str(asked.pk), OverrideStatus.APPROVED, by="bob")
    listing = create_run(vault, RunKind.RECONCILE, chunks=[NewChunk("work", Phase.TRANSFER, Queue.TRANSFER)] * 2)
    meter = ChunkMeter(leased(listing))
    assert meter.draw(Requests({GET: 100}), Requests({GET: 1})) is Draw.DRAWN
    asked.refresh_from_db()
    # The limit lets one through, and more must be asked for: that is not blocked yet.
    assert (meter.available(GET), asked.status) == (1, OverrideStatus.APPROVED)
    assert meter.draw(Requests({GET: 9})) is Draw.DRAWN
    # Another chunk could go on with what this one gives back.
    other = ChunkMeter(second := leased(listing))
    assert other.draw(Requests({GET: 2})) is Draw.WAIT
    asked.refresh_from_db()
    assert asked.status == OverrideStatus.APPROVED
    end(second)
    for _ in range(10):
        meter.attempt(GET)
    assert meter.draw(Requests({GET: 5})) is Draw.DRAWN
    asked.refresh_from_db()
    assert (asked.status, asked.used_by_run) == ("used", listing.pk)
    # It holds for the whole run, and is told of.
    assert meter.draw(Requests({GET: 500})) is Draw.DRAWN
    assert "allowed by an approved single-run override" in warnings(listing.pk)[0]
    assert not Purse.objects.get(run=listing).refused_reason


def test_a_run_without_a_plan_and_without_leave_is_stopped(made: Made) -> None:
    policy = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0.10"})
    vault = made()
    override(vault, policy)  # nobody approved it
    listing = create_run(vault, RunKind.RECONCILE, chunks=[NewChunk("work", Phase.TRANSFER, Queue.TRANSFER)])
    meter = ChunkMeter(leased(listing))
    assert meter.draw(Requests({GET: 11})) is Draw.EXHAUSTED
    stall = budget_stall(listing.pk, GET)
    assert (stall.code, stall.remedy) == ("price_budget", "vh pricing budget set-global --max-run 0.11")


def test_what_was_refused_and_then_granted_is_no_reason_any_more(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0.05"})
    run = started(made(budget_get=5))
    meter = ChunkMeter(leased(run))
    assert meter.draw(Requests({PUT: 2})) is Draw.EXHAUSTED
    assert meter.draw(Requests({GET: 5})) is Draw.DRAWN
    assert budget_stall(run.pk, GET).code == "budget_get"


@pytest.mark.parametrize("number", ["9" * 19, "9" * 5000, "²", "", "-1", "1 "])
def test_an_override_that_cannot_be_is_unknown(made: Made, number: str) -> None:
    with pytest.raises(NotFound, match="There is no override"):
        overrides.decide(number, OverrideStatus.APPROVED, by="bob")


def test_an_override_covers_exactly_what_blocks(made: Made) -> None:
    vault = made()
    one = set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0"})
    two = set_policy(Scope.VAULT, "archive", {"mode": "enforce", "max_run": "5"})
    both = override(vault, one, two)
    overrides.decide(str(both.pk), OverrideStatus.APPROVED, by="bob")
    with pytest.raises(Stall):
        plan(started(vault), get=1)
    both.refresh_from_db()
    assert both.status == OverrideStatus.APPROVED


def test_nobody_approves_his_own_request_but_a_superuser(made: Made, django_user_model: type) -> None:
    vault, policy = made(), set_policy(Scope.GLOBAL, None, {"mode": "enforce"})
    asked = override(vault, policy)
    with pytest.raises(Refused, match="cannot approve"):
        overrides.decide(str(asked.pk), OverrideStatus.APPROVED, by="ann")
    django_user_model.objects.create_superuser("ann", password="x")  # type: ignore[attr-defined]
    assert overrides.decide(str(asked.pk), OverrideStatus.APPROVED, by="ann").status == "approved"
    with pytest.raises(Refused):
        overrides.decide(str(asked.pk), OverrideStatus.DENIED, by="bob")
    assert overrides.decide(str(asked.pk), OverrideStatus.CANCELLED, by="bob").status == "cancelled"
    late = override(vault, policy)
    PriceOverride.objects.filter(pk=late.pk).update(expires_at=Now())
    with pytest.raises(Refused, match="expired"):
        overrides.decide(str(late.pk), OverrideStatus.APPROVED, by="bob")


def test_a_set_changes_what_it_names_and_none_clears(made: Made) -> None:
    set_policy(Scope.GLOBAL, None, {"mode": "enforced", "max_run": "1.5", "max_daily": "2"})
    row = set_policy(Scope.GLOBAL, None, {"max_run": "none"})
    row.refresh_from_db()
    assert (row.mode, row.max_run, row.max_daily) == ("enforce", None, 2)
    assert (disable(Scope.GLOBAL, None).mode, PricePolicy.objects.count()) == ("off", 1)


@pytest.mark.parametrize("text", ["-1", "1e3", "NaN", "0.123456789", "1,5", "Infinity", "+1"])
def test_amounts_that_are_none_store_nothing(made: Made, text: str) -> None:
    with pytest.raises(Refused, match="--max-daily"):
        set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_daily": text})
    assert not PricePolicy.objects.exists()


def test_policies_need_somebody_who_bills(made: Made) -> None:
    Vault.objects.create(name="disk", kind=VaultKind.LOCAL, root="/a", replica="/b", marker=uuid4())
    for scope, name, told in [
        (Scope.VAULT, "disk", "local"),
        (Scope.VAULT, "nobody", "no vault"),
        (Scope.PROVIDER, "acme", "PROVIDER"),
    ]:
        with pytest.raises(Refused, match=told):
            set_policy(scope, name, {"max_run": "1"})
    assert not PricePolicy.objects.exists()


def test_the_month_by_vault_class_and_operation(made: Made) -> None:
    run = started(made())
    meter = ChunkMeter(lease := leased(run))
    meter.draw(Requests({GET: 3, PUT: 1}))
    for name in (GET, GET, PUT):
        meter.attempt(name)
    end(lease)
    finish(run)
    found = report(month_of(None))
    assert found["by_vault"] == [{"vault": "archive", "currency": "USD", "requests": 3, "amount": "0.07"}]
    assert {one["class"]: one["amount"] for one in found["by_class"]} == {"get": "0.02", "put": "0.05"}
    assert found["by_operation"][0]["operation"] == "sync"
    for month in ("2026-13", "0001-01", "1999-12", "9999-12"):
        with pytest.raises(Refused, match="--month"):
            month_of(month)
