"""Money set aside before anything is sent: at a run's beginning nothing, at its plan what that needs, later more.

A run's reservation is a vector: so many requests of each class, each at a price fixed when the run began. The draw
hands out no more than is reserved, so retries cannot exceed it. Only runs that an `enforce` policy watches reserve.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from shlex import quote

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from budgets import sql
from budgets.catalog import listed, price_key
from budgets.catalog_builtin import FREE
from budgets.catalog_show import missing
from budgets.models import EntryKind, LedgerEntry, PriceList, PricePolicy, Purse, RunBudget
from budgets.overrides import consume
from budgets.price_policy import Check, Decision, Issue, Mode, Policy, Quote, Scope, Window, evaluate
from budgets.pricing import CENT, EXACT, Catalog, Charge, Usage, unit_price
from vaulthalla.errors import Stall, StallCode
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.models import Run

STANDARD = "STANDARD"
UnitPrices = Mapping[RequestClass, Decimal | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """Who bills a vault, in what, and by which list."""

    provider: str
    currency: str
    version: str
    supported: bool
    verified: bool
    age: int | None
    catalog: Catalog | None


# --- beginning and end of a run ---


def open_purse(run: Run) -> tuple[UnitPrices, bool]:
    """How the run is billed, and whether an `enforce` policy watches it. Of a second directory, not at all."""
    vault = run.vault
    if vault is None or vault.kind != VaultKind.S3:
        return {}, False
    bill = bill_of(vault)
    # The list just found, or a newer version of it: runs are told which one by name.
    row = PriceList.objects.filter(provider=bill.provider, version=bill.version).order_by("id")
    found = row.filter(region=bill.catalog.region).first() if bill.catalog else None
    Purse.objects.create(
        run=run,
        vault_id=vault.pk,
        vault_name=vault.name,
        provider=bill.provider,
        currency=bill.currency,
        price_list=found,
        catalog_version=bill.version,
        verified=bill.verified,
    )
    watched = any(policy.mode is Mode.ENFORCE for policy in applicable(vault.pk, bill.provider))
    return unit_prices(bill.catalog, vault), watched


def close_books(run: Run) -> None:
    """The ledger of a run that is over: what was spent, what was lost, and the rest released."""
    sql.write_off(run.pk)
    sql.close_books(run.pk)


# --- asking ---


def preflight(run_id: int, vault: Vault, needs: Requests, usages: Iterable[Usage]) -> None:
    """Sets aside what a plan needs within the run's request limits. Raises Stall(price_budget).

    Inside the transaction that cuts the plan: what is not cut is not reserved.
    """
    lines = sql.lock(run_id, dict.fromkeys(RequestClass, 0))
    if all(line.reserved is None for line in lines.values()):
        return
    purse = Purse.objects.select_related("price_list").get(run=run_id)
    prices = unit_prices(_pinned(purse), vault, usages)
    for name, each in prices.items():
        RunBudget.objects.filter(run=run_id, request_class=name.value).update(unit_price=each)
    decision = _more(purse, _lacking(lines, needs), overridable=True)
    if not decision.allowed:
        raise Stall(StallCode.PRICE_BUDGET, decision.reason, remedy=remedy(decision, vault.name))


def more(run_id: int, amounts: Requests) -> bool:
    """Sets aside more for a draw; False, with the reason kept, when a policy forbids it. Budget rows are locked."""
    purse = Purse.objects.select_related("price_list").get(run=run_id)
    decision = _more(purse, amounts, overridable=False)
    if not decision.allowed:
        purse.refused_reason, purse.refused_remedy = decision.reason, remedy(decision, purse.vault_name)
        purse.save(update_fields=["refused_reason", "refused_remedy"])
    return decision.allowed


def money_stall(run_id: int) -> Stall | None:
    """What kept a run from setting aside more, if anything did."""
    purse = Purse.objects.filter(run=run_id).exclude(refused_reason="").first()
    if purse is None:
        return None
    return Stall(StallCode.PRICE_BUDGET, purse.refused_reason, remedy=purse.refused_remedy)


def would(
    vault: Vault, needs: Requests, limits: Mapping[RequestClass, int | None], usages: Iterable[Usage]
) -> Decision:
    """What the policies would say of a plan, capped by the request limits. Reserves nothing."""
    bill = bill_of(vault)
    capped = Requests({name: _least(needs[name], limits.get(name)) for name in needs})
    prices = unit_prices(bill.catalog, vault, usages)
    quote = _quote(bill.provider, bill.currency, capped, prices, bill=bill)
    policies = applicable(vault.pk, bill.provider)
    return evaluate(policies, quote, _used(policies, bill.provider, vault.pk, run_id=None))


def _more(purse: Purse, amounts: Requests, *, overridable: bool) -> Decision:
    policies = applicable(purse.vault_id, purse.provider, lock=True)
    rows = RunBudget.objects.filter(run=purse.run_id).values_list("request_class", "unit_price")
    prices = {RequestClass(name): each for name, each in rows}
    quote = _quote(purse.provider, purse.currency, amounts, prices, purse=purse)
    used = _used(policies, purse.provider, purse.vault_id, run_id=purse.run_id)
    decision = evaluate(policies, quote, used, tolerated=frozenset(purse.tolerated))
    if not decision.allowed and overridable and not decision.issues:
        blocked = decision.blocking_policies
        if consume(purse.vault_id, blocked, purse.run_id):
            purse.tolerated = sorted(blocked)
            purse.save(update_fields=["tolerated"])
            decision = evaluate(policies, quote, used, tolerated=blocked)
    if decision.allowed:
        sql.reserve(purse.run_id, amounts)
        _enter(purse, amounts, prices)
    return decision


def _enter(purse: Purse, amounts: Requests, prices: UnitPrices) -> None:
    day, kind = sql.today(), Run.objects.values_list("kind", flat=True).get(pk=purse.run_id)
    LedgerEntry.objects.bulk_create(
        LedgerEntry(
            run_id=purse.run_id,
            run_kind=kind,
            vault_id=purse.vault_id,
            vault_name=purse.vault_name,
            provider=purse.provider,
            kind=EntryKind.RESERVE,
            request_class=name.value,
            quantity=count,
            amount=_times(prices.get(name), count),
            currency=purse.currency,
            catalog_version=purse.catalog_version,
            day=day,
        )
        for name, count in amounts.items()
        if count
    )


def _lacking(lines: Mapping[RequestClass, sql.Line], needs: Requests) -> Requests:
    """How much more of each class must be paid for, so that `needs` can be drawn within the limits."""
    found = Requests()
    for name, line in lines.items():
        whole = _least(line.used + line.held + line.lost + needs[name], line.limit)
        found[name] = max(0, whole - (line.reserved or 0))
    return found


def _least(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)


# --- prices ---


def bill_of(vault: Vault) -> Bill:
    provider, region = price_key(vault)
    found = listed(provider, region)
    if found is None:
        return Bill(provider=provider, currency="", version="", supported=False, verified=False, age=None, catalog=None)
    return Bill(
        provider=provider,
        currency=found.catalog.currency,
        version=found.catalog.version,
        supported=True,
        verified=not missing(found.catalog),
        age=None if provider in FREE else int(found.age.total_seconds()),
        catalog=found.catalog,
    )


def unit_prices(catalog: Catalog | None, vault: Vault, usages: Iterable[Usage] = ()) -> UnitPrices:
    """What one request of each class costs at most: in the dearest storage class that it is planned for."""
    if catalog is None:
        return dict.fromkeys(RequestClass)
    parts, own = tuple(usages), vault.storage_class or STANDARD
    prices: dict[RequestClass, Decimal | None] = {}
    for name in RequestClass:
        planned = {part.storage_class for part in parts if part.requests.get(name, 0)}
        downloads = name is RequestClass.DOWNLOAD_BYTES
        prices[name] = unit_price(catalog, planned if downloads and planned else planned | {own}, name)
    copied = [_copied(catalog, part) for part in parts if part.copied_bytes]
    copy = prices[RequestClass.COPY]
    if copied and copy is not None:
        known = [each for each in copied if each is not None]
        prices[RequestClass.COPY] = EXACT.add(copy, max(known)) if len(known) == len(copied) else None
    return prices


def _copied(catalog: Catalog, part: Usage) -> Decimal | None:
    """What a copy costs for the bytes that it reads, on average over the plan's copies of this class."""
    rate = catalog.rate(part.storage_class, Charge.RETRIEVAL)
    copies = part.requests.get(RequestClass.COPY, 0)
    if rate is None or not copies:
        return None if rate is None else Decimal(0)
    return EXACT.divide(rate.of(part.copied_bytes), Decimal(copies)).quantize(CENT, rounding=ROUND_CEILING)


def _pinned(purse: Purse) -> Catalog | None:
    """The run's prices are those of its beginning, whatever lists come in meanwhile."""
    from budgets.catalog import catalog_of

    return catalog_of(purse.price_list) if purse.price_list else None


def _quote(
    provider: str,
    currency: str,
    amounts: Requests,
    prices: UnitPrices,
    *,
    bill: Bill | None = None,
    purse: Purse | None = None,
) -> Quote:
    parts = {name: _times(prices.get(name), count) for name, count in amounts.items() if count > 0}
    unknown = tuple(f"{provider}: {name.value}" for name, part in parts.items() if part is None)
    total = Decimal(0)
    for part in parts.values():
        total = EXACT.add(total, part or Decimal(0))
    if bill is not None:
        supported, verified, age = bill.supported, bill.verified, bill.age
    else:
        assert purse is not None  # noqa: S101 - one of both is given
        supported, verified, age = purse.price_list_id is not None, purse.verified, _age(purse)
    return Quote(
        amount=None if unknown else total,
        currency=currency,
        unknowns=unknown,
        supported=supported,
        verified=verified,
        age=age,
    )


def _age(purse: Purse) -> int | None:
    if purse.price_list_id is None or purse.provider in FREE:
        return None
    row = PriceList.objects.annotate(now=Now()).get(pk=purse.price_list_id)
    return max(0, int((row.now - row.checked_at).total_seconds()))


def _times(price: Decimal | None, count: int) -> Decimal | None:
    return None if price is None else EXACT.multiply(price, Decimal(count))


# --- policies ---


def applicable(vault_id: int, provider: str, *, lock: bool = False) -> list[Policy]:
    """The policies that watch a vault, in the order of their ids; with `lock`, nobody else can decide by them."""
    mine = Q(scope=Scope.GLOBAL.value) | Q(scope=Scope.PROVIDER.value, provider=provider) | Q(vault_id=vault_id)
    rows = PricePolicy.objects.filter(mine).exclude(mode=Mode.OFF.value).order_by("id")
    if lock:
        with transaction.atomic():
            return [value_of(row, vault=vault_id) for row in rows.select_for_update(no_key=True)]
    return [value_of(row, vault=vault_id) for row in rows]


def value_of(row: PricePolicy, *, vault: int | None = None) -> Policy:
    return Policy(
        id=row.pk,
        scope=Scope(row.scope),
        target=row.provider or (str(vault) if row.vault_id else ""),
        mode=Mode(row.mode),
        currency=row.currency,
        max_run=row.max_run,
        max_daily=row.max_daily,
        max_monthly=row.max_monthly,
        max_catalog_age=row.max_catalog_age,
        allow_stale_catalog=row.allow_stale_catalog,
        require_verified_catalog=row.require_verified_catalog,
    )


def _used(
    policies: Iterable[Policy], provider: str, vault_id: int, *, run_id: int | None
) -> dict[tuple[int, Window], Decimal]:
    found: dict[tuple[int, Window], Decimal] = {}
    day = sql.today()
    own = sql.of_run(run_id) if run_id is not None else Decimal(0)
    for policy in policies:
        daily, monthly = sql.committed(
            day=day,
            currency=policy.currency,
            provider=provider if policy.scope is Scope.PROVIDER else "",
            vault=vault_id if policy.scope is Scope.VAULT else None,
        )
        found[policy.id, Window.DAILY], found[policy.id, Window.MONTHLY] = daily, monthly
        found[policy.id, Window.RUN] = own
    return found


# --- remedies ---


def remedy(decision: Decision, vault: str) -> str:
    """The narrowest command that lets the run go on."""
    if decision.issues:
        policy, issue = decision.issues[0]
        return _issue_remedy(policy, issue, vault)
    by_policy: dict[int, list[Check]] = {}
    for check in decision.blocking:
        by_policy.setdefault(check.policy.id, []).append(check)
    return " && ".join(_raise(checks, vault) for checks in by_policy.values())


def _raise(checks: list[Check], vault: str) -> str:
    options = " ".join(f"{c.window.option} {_up(c.needed)}" for c in checks)
    return f"{_setter(checks[0].policy, vault)} {options}"


def _setter(policy: Policy, vault: str) -> str:
    target = {Scope.GLOBAL: "", Scope.PROVIDER: f" {policy.target}", Scope.VAULT: f" {quote(vault)}"}[policy.scope]
    return f"vh pricing budget set-{policy.scope.value}{target}"


def _issue_remedy(policy: Policy, issue: Issue, vault: str) -> str:
    match issue:
        case Issue.STALE:
            return f"vh pricing catalog refresh, or {_setter(policy, vault)} --allow-stale-catalog"
        case Issue.UNVERIFIED:
            return f"{_setter(policy, vault)} --no-require-verified-catalog"
        case Issue.CURRENCY:
            return f"Give the limits in the currency of the price list: {_setter(policy, vault)} --currency CURRENCY"
        case _:
            return "vh pricing catalog import FILE, with the prices that are missing"


def _up(amount: Decimal) -> str:
    """Rounded up: a limit of just as much passes."""
    return f"{amount.quantize(CENT, rounding=ROUND_CEILING, context=EXACT).normalize(EXACT):f}"
