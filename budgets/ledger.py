"""The ledger and the month's report, for people and scripts."""

from __future__ import annotations

import calendar
import csv
import io
from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from budgets import sql
from budgets.alerts import projected as projection
from budgets.catalog import listed
from budgets.class_use import by_storage_class
from budgets.models import DaySpend, LedgerEntry, PricePolicy
from budgets.price_policy import Mode, Scope
from budgets.pricing import EXACT, ROUND_UP, Catalog, Usage, money, month_price
from budgets.reserve import NO_VAULT
from vaulthalla.console import table
from vaulthalla.errors import Refused
from vaulthalla.requests import RequestClass
from vaulthalla.stores.profiles import profile_of
from vaulthalla.vaults.models import Vault

MOST = 1000
# Of requests that were sent before there was a vault.
PROBES = "(probes)"
COLUMNS = (
    "id", "run", "run_kind", "vault", "provider", "kind", "class", "quantity", "amount", "currency", "catalog", "day",
    "recorded_at",
)  # fmt: skip


def entries(limit: int) -> list[dict[str, Any]]:
    """The newest first. Raises Refused for a number that is none."""
    if not 1 <= limit <= MOST:
        raise Refused(f"--limit must be 1 to {MOST}.", code="invalid_value", remedy="Name another number.")
    return [_entry(row) for row in LedgerEntry.objects.order_by("-id")[:limit]]


def _entry(row: LedgerEntry) -> dict[str, Any]:
    return {
        "id": str(row.pk),
        "run": str(row.run_id),
        "run_kind": row.run_kind,
        "vault": row.vault_name or PROBES,
        "provider": row.provider,
        "kind": row.kind,
        "class": row.request_class,
        "quantity": row.quantity,
        "amount": _signed(row.amount),
        "currency": row.currency or None,
        "catalog": row.catalog_version or None,
        "day": row.day.isoformat(),
        "recorded_at": row.recorded_at,
    }


def _signed(amount: Decimal | None) -> str | None:
    if amount is None:
        return None
    text = money(abs(amount))
    return f"-{text}" if amount < 0 and text.strip("0.") else text


def entries_text(value: dict[str, Any]) -> str:
    shown = ("id", "run", "vault", "kind", "class", "quantity", "amount", "currency", "day")
    return table([name.upper() for name in shown], [[e[name] for name in shown] for e in value["entries"]])


def as_csv(found: Iterable[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for entry in found:
        writer.writerow({**entry, "recorded_at": entry["recorded_at"].isoformat().replace("+00:00", "Z")})
    return out.getvalue().rstrip("\n")


def status() -> list[dict[str, Any]]:
    """Each policy's windows: what is spent or set aside, and what remains."""
    day, found = sql.today(), []
    for row in PricePolicy.objects.select_related("vault").order_by("id"):
        daily, monthly = sql.committed(day=day, currency=row.currency, provider=row.provider, vault=row.vault_id)
        found.append(
            {
                "policy": str(row.pk),
                "scope": row.scope,
                "of": row.provider or (row.vault.name if row.vault else None),
                "mode": row.mode,
                "currency": row.currency,
                "daily": _window(daily, row.max_daily),
                "monthly": _window(monthly, row.max_monthly),
            }
        )
    return found


def _window(used: Decimal, limit: Decimal | None) -> dict[str, str | None]:
    left = None if limit is None else money(max(Decimal(0), EXACT.subtract(limit, used)))
    return {"used": money(used), "limit": None if limit is None else money(limit), "remaining": left}


def status_text(value: dict[str, Any]) -> str:
    rows = [
        (
            p["policy"], p["scope"], p["of"], p["mode"],
            p["daily"]["used"], p["daily"]["limit"], p["monthly"]["used"], p["monthly"]["limit"], p["currency"],
        )
        for p in value["status"]
    ]  # fmt: skip
    return table(("ID", "SCOPE", "OF", "MODE", "TODAY", "LIMIT", "MONTH", "LIMIT", "CURRENCY"), rows)


# --- the month ---


def month_of(text: str | None) -> date:
    """The first day of `YYYY-MM`; without it, of this month. Raises Refused, also before the year 2000."""
    if text is None:
        return sql.today().replace(day=1)
    try:
        first = date.fromisoformat(f"{text}-01")
    except ValueError:
        first = date.min
    # What ends a month must be a date as well.
    if not 2000 <= first.year < 9999:
        raise Refused("--month must be like 2026-11.", code="invalid_value", remedy="Name a month.")
    return first


def report(first: date) -> dict[str, Any]:
    """What a month cost by vault, class and operation, what it will come to, and when limits are used up."""
    days = calendar.monthrange(first.year, first.month)[1]
    last, today = first.replace(day=days), sql.today()
    rows = list(DaySpend.objects.filter(day__gte=first, day__lte=last))
    elapsed = min(max((today - first).days + 1, 0), days)
    totals = _totals(rows, elapsed=elapsed, days=days)
    current = first == today.replace(day=1)
    names = vault_names({row.vault_id for row in rows})
    return {
        "month": f"{first:%Y-%m}",
        "days_elapsed": elapsed,
        "days": days,
        "totals": totals,
        "by_vault": _grouped(rows, lambda r: names.get(r.vault_id, str(r.vault_id)), "vault"),
        "by_class": _grouped(rows, lambda r: r.request_class, "class"),
        "by_operation": _grouped(rows, _operation(rows), "operation"),
        "by_provider": _bills(rows, datetime.combine(last + timedelta(days=1), time(), UTC)),
        "exhaustion": _exhaustion(today, elapsed) if current else [],
    }


def _operation(rows: list[DaySpend]) -> Any:
    kinds = dict(LedgerEntry.objects.filter(run_id__in={r.run_id for r in rows}).values_list("run_id", "run_kind"))
    return lambda row: kinds.get(row.run_id, "under_way")


def vault_names(ids: Collection[int]) -> dict[int, str]:
    """Also of vaults that are gone, as long as their ledger is there."""
    gone = dict(LedgerEntry.objects.filter(vault_id__in=ids).values_list("vault_id", "vault_name").order_by("id"))
    return {**gone, **dict(Vault.objects.filter(pk__in=ids).values_list("pk", "name")), NO_VAULT: PROBES}


def _cost(row: DaySpend) -> Decimal:
    return EXACT.multiply(row.unit_price or Decimal(0), Decimal(row.used + row.lost - row.unbilled))


def _grouped(rows: list[DaySpend], key: Any, name: str) -> list[dict[str, Any]]:
    amounts: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    quantities: dict[tuple[str, str], int] = defaultdict(int)
    unknown = set()
    for row in rows:
        at = key(row), row.currency
        amounts[at] = EXACT.add(amounts[at], _cost(row))
        quantities[at] += 0 if row.request_class == RequestClass.DOWNLOAD_BYTES else row.used + row.lost
        if row.unit_price is None:
            unknown.add(at)
    return [
        {
            name: at[0],
            "currency": at[1] or None,
            "requests": quantities[at],
            "amount": None if at in unknown else money(amount),
        }
        for at, amount in sorted(amounts.items())
    ]


def _totals(rows: list[DaySpend], *, elapsed: int, days: int) -> list[dict[str, Any]]:
    found = []
    for one in _grouped(rows, lambda _: "all", "of"):
        spent = None if one["amount"] is None else Decimal(one["amount"])
        projected = None
        if spent is not None and elapsed:
            projected = money(projection(spent, elapsed=elapsed, days=days))
        found.append({"currency": one["currency"], "amount": one["amount"], "projected": projected})
    return found


def _bills(rows: list[DaySpend], ends: datetime) -> list[dict[str, Any]]:
    """What a provider that rounds a month's requests up will ask: R2's next million, for each storage class.

    By the list that held when the month ended, or holds now.
    """
    found = []
    for provider in sorted({row.provider for row in rows}):
        mine = [row for row in rows if row.provider == provider]
        used = by_storage_class(mine)
        prices = listed(provider, profile_of(provider).region, before=ends) if provider in ROUND_UP else None
        catalog = prices.catalog if prices else None
        total = _grouped(mine, lambda _: "all", "of")
        found.append(
            {
                "provider": provider,
                "amount": total[0]["amount"] if len(total) == 1 else None,
                "billed_rounded_up": _month(catalog, used.usages, free_tier=False),
                "after_free_tier": _month(catalog, used.usages, free_tier=True),
                "storage_classes": {usage.storage_class: usage.attempts for usage in used.usages},
                "class_assumed": used.assumed,
            }
        )
    return found


def _month(catalog: Catalog | None, usages: Iterable[Usage], *, free_tier: bool) -> str | None:
    found = None if catalog is None else month_price(catalog, usages, free_tier=free_tier).amount
    return None if found is None else money(found)


def _exhaustion(today: date, elapsed: int) -> list[dict[str, Any]]:
    """The day on which each monthly limit is used up, if every day costs what the days so far did."""
    found = []
    for row in PricePolicy.objects.filter(max_monthly__isnull=False).exclude(mode=Mode.OFF.value).order_by("id"):
        _, used = sql.committed(day=today, currency=row.currency, provider=row.provider, vault=row.vault_id)
        limit = row.max_monthly or Decimal(0)
        found.append(
            {"policy": str(row.pk), "scope": Scope(row.scope).value, "date": _day(today, elapsed, used, limit)}
        )
    return found


def _day(today: date, elapsed: int, used: Decimal, limit: Decimal) -> str | None:
    if used >= limit:
        return today.isoformat()
    if not used:
        return None
    each = EXACT.divide(used, Decimal(elapsed))
    when = today + timedelta(days=min(int(EXACT.divide(EXACT.subtract(limit, used), each)), 31))
    return when.isoformat() if when.month == today.month else None


def report_text(value: dict[str, Any]) -> str:
    parts = [f"{value['month']}, {value['days_elapsed']} of {value['days']} days"]
    parts += [f"Total {t['amount'] or 'unknown'} {t['currency']}, projected {t['projected']}" for t in value["totals"]]
    for name in ("vault", "class", "operation"):
        rows = [(e[name], e["requests"], e["amount"] or "unknown", e["currency"]) for e in value[f"by_{name}"]]
        parts.append(table((name.upper(), "REQUESTS", "AMOUNT", "CURRENCY"), rows))
    bills = [
        (
            b["provider"], b["amount"], b["billed_rounded_up"], b["after_free_tier"], _classes(b["storage_classes"]),
            b["class_assumed"] or None,
        )
        for b in value["by_provider"]
    ]  # fmt: skip
    heads = ("PROVIDER", "AMOUNT", "ROUNDED UP", "AFTER FREE TIER", "STORAGE CLASSES", "ASSUMED")
    parts.append(table(heads, bills))
    parts += [f"Policy {e['policy']}: used up on {e['date']}" for e in value["exhaustion"] if e["date"]]
    return "\n\n".join(parts)


def _classes(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
