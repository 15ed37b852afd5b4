"""Money set aside before anything is sent: at a run's beginning nothing, at its plan what that needs, later more.

A run's reservation is a vector: so many requests of each class, each at a price from the list that held when the run
began. The draw hands out no more than is reserved, so retries cannot exceed it. Only runs that an `enforce` policy
watches reserve: those that begin under one, and those under way from their next draw after one was set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from budgets import sql
from budgets.catalog import catalog_of, listed, price_key, price_key_of
from budgets.catalog_builtin import FREE
from budgets.catalog_show import missing
from budgets.models import EntryKind, LedgerEntry, PriceList, PricePolicy, Purse, RunBudget
from budgets.notes import keep, overspent, spent_by
from budgets.overrides import consume
from budgets.price_policy import Decision, Mode, Policy, Quote, Scope, Window, evaluate
from budgets.price_remedies import remedy
from budgets.pricing import CENT, EXACT, STANDARD, Catalog, Charge, Usage, unit_price
from budgets.share import least, within
from vaulthalla.errors import Stall, StallCode
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.models import ApiKey, Vault, VaultKind
from vaulthalla.work.models import Run

# Of probes, in rows that outlive vaults.
NO_VAULT = 0
# The requests that end an object: a PUT the one that it replaces.
ENDING = (RequestClass.PUT, RequestClass.DELETE)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """Whose requests they are, and on which bucket."""

    provider: str
    region: str
    bucket: str
    vault_id: int
    vault_name: str = ""
    storage_class: str = STANDARD


# --- beginning and end of a run ---


def open_purse(run: Run) -> tuple[UnitPrices, bool]:
    """How the run is billed, and whether an `enforce` policy watches it. Of a second directory, not at all.

    A probe, which has no vault yet, is booked on its bucket; it is bounded by its own limits and nobody watches it.
    """
    payer = _payer(run)
    if payer is None:
        return {}, False
    bill = bill_for(payer.provider, payer.region)
    # The list just found, or a newer version of it: runs are told which one by name.
    row = PriceList.objects.filter(provider=bill.provider, version=bill.version).order_by("id")
    found = row.filter(region=bill.catalog.region).first() if bill.catalog else None
    Purse.objects.create(
        run=run,
        vault_id=payer.vault_id,
        vault_name=payer.vault_name,
        provider=bill.provider,
        bucket=payer.bucket,
        currency=bill.currency,
        price_list=found,
        catalog_version=bill.version,
        verified=bill.verified,
    )
    _, now, _ = sql.judged(run.pk) or ("", "", "")
    Purse.objects.filter(run=run).update(judged=now)
    watched = run.vault is not None and any(
        policy.mode is Mode.ENFORCE for policy in applicable(payer.vault_id, bill.provider)
    )
    return unit_prices(bill.catalog, payer.storage_class), watched


def billed_to(key: ApiKey, *, bucket: str = "") -> dict[str, dict[str, str]]:
    """A run's options where no vault tells who bills it."""
    provider, region = price_key_of(key)
    return {"billed_to": {"provider": provider, "region": region, "bucket": bucket}}


def _payer(run: Run) -> Payer | None:
    vault, told = run.vault, run.options.get("billed_to")
    if vault is not None and vault.kind == VaultKind.S3:
        provider, region = price_key(vault)
        return Payer(
            vault_id=vault.pk,
            vault_name=vault.name,
            provider=provider,
            region=region,
            bucket=vault.bucket,
            storage_class=vault.storage_class or STANDARD,
        )
    return Payer(vault_id=NO_VAULT, **told) if vault is None and told else None


def close_books(run: Run) -> None:
    """The ledger of a run that is over: what was spent, what was lost, and the rest released."""
    sql.write_off(run.pk)
    sql.close_books(run.pk)
    purse = Purse.objects.filter(run=run.pk).first()
    if purse is not None:
        _note_overspending(purse)


def _note_overspending(purse: Purse) -> None:
    """A run that spent nothing passes no limit, however much was spent before it."""
    own = spent_by(purse.run_id)
    if not own:
        return
    policies = applicable(purse.vault_id, purse.provider)
    used = _used(policies, purse.provider, purse.vault_id, run_id=None)
    for policy in policies:
        spent = {window: used[policy.id, window] for window in (Window.DAILY, Window.MONTHLY)}
        keep(purse, overspent(policy, {**spent, Window.RUN: own}))


# --- asking ---


def preflight(
    run_id: int, vault: Vault, needs: Requests, usages: Iterable[Usage], *, again: Requests | None = None
) -> None:
    """Sets aside what a plan needs within the run's request limits. Raises Stall(price_budget).

    `again` is what the run spent to get here and the next one will spend once more: the remedy pays for both.
    Inside the transaction that cuts the plan: what is not cut is not reserved. Without an `enforce` policy nothing is
    set aside; what the others think of the plan is noted.
    """
    judge(run_id)
    lines = sql.lock(run_id, dict.fromkeys(RequestClass, 0))
    purse = Purse.objects.select_related("price_list").get(run=run_id)
    ahead = _ahead(lines, needs)
    prices = unit_prices(_pinned(purse), vault.storage_class or STANDARD, usages, ahead=ahead)
    _reprice(purse, lines, prices)
    if all(line.reserved is None for line in lines.values()):
        keep(purse, _judged(purse, ahead, prices).notes)
        return
    # What the looks before the plan set aside and did not need would be in its way.
    sql.shrink(run_id)
    lines = sql.lock(run_id, dict.fromkeys(RequestClass, 0))
    decision = _more(purse, _lacking(lines, needs), overridable=True)
    if not decision.allowed:
        spent_again = sum(
            (_times(prices.get(name), count) or Decimal(0) for name, count in (again or {}).items()), Decimal(0)
        )
        raise PriceStall(decision, remedy=remedy(decision, vault.name, purse.provider, again=spent_again))


class PriceStall(Stall):
    """A plan that a price policy forbids. What it rolls back takes all trace of the decision with it."""

    def __init__(self, decision: Decision, *, remedy: str) -> None:
        super().__init__(StallCode.PRICE_BUDGET, decision.reason, remedy=remedy)
        self.decision = decision


def keep_refusal(run_id: int, stall: Stall) -> None:
    """Notes which policy and window stopped a plan, if one did: the run's end tells of it."""
    if isinstance(stall, PriceStall):
        _refuse(Purse.objects.get(run=run_id), stall.decision)


def judge(run_id: int) -> str:
    """The provider that bills a run, held against the `enforce` policies of now, if they changed since it last was.

    A run that nobody watched until now is watched from here on. One that has set aside more than they allow gives back
    what it has not handed out, and pays for each draw from then on. The lease is locked, and no budget row yet.
    """
    before, now, provider = sql.judged(run_id) or ("", "", "")
    if before == now:
        return provider
    lines = sql.lock(run_id, dict.fromkeys(RequestClass, 0))
    purse = Purse.objects.get(run=run_id)
    policies = applicable(purse.vault_id, purse.provider, lock=True)
    unwatched = all(line.reserved is None for line in lines.values())
    nothing = _quote(purse.provider, purse.currency, Requests(), {}, purse=purse)
    used = _used(policies, purse.provider, purse.vault_id, run_id=run_id)
    allowed = evaluate(policies, nothing, used, tolerated=frozenset(purse.tolerated)).allowed
    if now and (unwatched or not allowed):
        sql.shrink(run_id)
    purse.judged = now
    purse.save(update_fields=["judged"])
    return provider


def more(run_id: int, amounts: Requests, *, overridable: bool = False) -> bool:
    """Sets aside more for a draw; False, with the reason kept, when a policy forbids it. Budget rows are locked.

    `overridable`: an override that covers exactly what blocks is spent on it.
    """
    purse = Purse.objects.select_related("price_list").get(run=run_id)
    decision = _more(purse, amounts, overridable=overridable)
    _refuse(purse, decision)
    return decision.allowed


def _refuse(purse: Purse, decision: Decision) -> None:
    """Keeps what forbade it; of a decision that forbids nothing, that nothing does any more."""
    check = decision.primary
    blocking = decision.issues[0][0] if decision.issues else check.policy if check else None
    told = {
        "refused_reason": decision.reason,
        "refused_remedy": remedy(decision, purse.vault_name, purse.provider),
        "refused_policy": blocking.id if blocking else None,
        "refused_window": check.window.value if check and not decision.issues else "",
    }
    if any(getattr(purse, name) != value for name, value in told.items()):
        for name, value in told.items():
            setattr(purse, name, value)
        purse.save(update_fields=list(told))


def money_stall(run_id: int, *, anew: Requests | None = None) -> Stall | None:
    """What kept a run from setting aside more, if anything did; the remedy pays for what the next one takes `anew`.

    Without that, or where the policies allow it, it pays for what was refused.
    """
    purse = Purse.objects.select_related("price_list").filter(run=run_id).exclude(refused_reason="").first()
    if purse is None:
        return None
    if anew:
        decision = _anew(purse, anew)
        if not decision.allowed:
            found = remedy(decision, purse.vault_name, purse.provider)
            return Stall(StallCode.PRICE_BUDGET, decision.reason, remedy=found)
    return Stall(StallCode.PRICE_BUDGET, purse.refused_reason, remedy=purse.refused_remedy)


def _anew(purse: Purse, amounts: Requests) -> Decision:
    """What the policies would say of a run after this one that takes so much, within its limits. Reserves nothing."""
    limits = RunBudget.objects.filter(run=purse.run_id).values_list("request_class", "limit")
    capped = within(amounts, {RequestClass(name): limit for name, limit in limits})
    quote = _quote(purse.provider, purse.currency, capped, _prices(purse), purse=purse)
    policies = applicable(purse.vault_id, purse.provider)
    return evaluate(policies, quote, _used(policies, purse.provider, purse.vault_id, run_id=None))


def _prices(purse: Purse) -> UnitPrices:
    rows = RunBudget.objects.filter(run=purse.run_id).values_list("request_class", "unit_price")
    return {RequestClass(name): each for name, each in rows}


def would(
    vault: Vault, needs: Requests, limits: Mapping[RequestClass, int | None], usages: Iterable[Usage]
) -> Decision:
    """What the policies would say of a plan, capped by the request limits. Reserves nothing."""
    bill = bill_for(*price_key(vault))
    capped = within(needs, limits)
    prices = unit_prices(bill.catalog, vault.storage_class or STANDARD, usages, ahead=capped)
    quote = _quote(bill.provider, bill.currency, capped, prices, bill=bill)
    policies = applicable(vault.pk, bill.provider)
    return evaluate(policies, quote, _used(policies, bill.provider, vault.pk, run_id=None))


def _judged(purse: Purse, amounts: Requests, prices: UnitPrices) -> Decision:
    policies = applicable(purse.vault_id, purse.provider)
    quote = _quote(purse.provider, purse.currency, amounts, prices, purse=purse)
    return evaluate(policies, quote, _used(policies, purse.provider, purse.vault_id, run_id=purse.run_id))


def _more(purse: Purse, amounts: Requests, *, overridable: bool) -> Decision:
    policies = applicable(purse.vault_id, purse.provider, lock=True)
    prices = _prices(purse)
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
        parts = {name: (count, _times(prices.get(name), count)) for name, count in amounts.items() if count}
        _enter(purse, EntryKind.RESERVE, parts)
        keep(purse, decision.notes)
    return decision


def _reprice(purse: Purse, lines: Mapping[RequestClass, sql.Line], prices: UnitPrices) -> None:
    """From here on a request costs what the plan says. What is set aside already becomes dearer or cheaper with it."""
    rows = RunBudget.objects.filter(run=purse.run_id)
    before = {RequestClass(name): each for name, each in rows.values_list("request_class", "unit_price")}
    for name, each in prices.items():
        was, line = before[name], lines[name]
        if each == was:
            continue
        rows.filter(request_class=name.value).update(unit_price=each)
        aside = 0 if line.reserved is None else line.reserved - line.used - line.lost
        if aside and was is not None and each is not None:
            difference = EXACT.multiply(EXACT.subtract(each, was), Decimal(aside))
            _enter(purse, EntryKind.RESERVE if difference > 0 else EntryKind.RELEASE, {name: (0, difference)})


def _enter(purse: Purse, kind: EntryKind, parts: Mapping[RequestClass, tuple[int, Decimal | None]]) -> None:
    """Entries of today: a quantity and its signed amount, by class."""
    day, of_run = sql.today(), Run.objects.values_list("kind", flat=True).get(pk=purse.run_id)
    LedgerEntry.objects.bulk_create(
        LedgerEntry(
            run_id=purse.run_id,
            run_kind=of_run,
            vault_id=purse.vault_id,
            vault_name=purse.vault_name,
            provider=purse.provider,
            kind=kind,
            request_class=name.value,
            quantity=count,
            amount=amount,
            currency=purse.currency,
            catalog_version=purse.catalog_version,
            day=day,
        )
        for name, (count, amount) in parts.items()
    )


def _lacking(lines: Mapping[RequestClass, sql.Line], needs: Requests) -> Requests:
    """How much more of each class must be paid for, so that `needs` can be drawn within the limits."""
    found = Requests()
    for name, line in lines.items():
        whole = least(line.used + line.held + line.lost + needs[name], line.limit)
        found[name] = max(0, whole - (line.reserved or 0))
    return found


def _ahead(lines: Mapping[RequestClass, sql.Line], needs: Requests) -> Requests:
    """What of `needs` the request limits still let through."""
    return within(needs, {name: line.remaining for name, line in lines.items()})


# --- prices ---


def bill_for(provider: str, region: str) -> Bill:
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


def unit_prices(
    catalog: Catalog | None, own: str, usages: Iterable[Usage] = (), *, ahead: Requests | None = None
) -> UnitPrices:
    """What one request of each class costs: in the vault's own storage class, or a dearer one of the plan.

    What a plan pays for objects rather than requests is spread over the requests of the class that are `ahead`.
    """
    if catalog is None:
        return dict.fromkeys(RequestClass)
    parts = tuple(usages)
    prices: dict[RequestClass, Decimal | None] = {}
    for name in RequestClass:
        planned = {part.storage_class for part in parts if part.requests.get(name, 0)}
        downloads = name is RequestClass.DOWNLOAD_BYTES
        prices[name] = unit_price(catalog, planned if downloads and planned else planned | {own}, name)
    copied = [_copied(catalog, part) for part in parts if part.copied_bytes]
    prices[RequestClass.COPY] = _dearer(prices[RequestClass.COPY], copied)
    for name in ENDING:
        prices[name] = _dearer(prices[name], [_ended(catalog, name, parts, (ahead or Requests())[name])])
    return prices


def _dearer(price: Decimal | None, more: Sequence[Decimal | None]) -> Decimal | None:
    """The price with the largest of what comes on top; None when any of it is unknown."""
    known = [each for each in more if each is not None]
    if price is None or len(known) < len(more):
        return None
    return EXACT.add(price, max(known, default=Decimal(0)))


def _ended(catalog: Catalog, name: RequestClass, parts: Iterable[Usage], requests: int) -> Decimal | None:
    """What a request costs for the minimum durations that the plan cuts short, on average over so many."""
    total = Decimal(0)
    for part in parts:
        if amount := part.cut_short.get(name, 0):
            rate = catalog.rate(part.storage_class, Charge.STORAGE)
            if rate is None:
                return None
            total = EXACT.add(total, rate.of(amount))
    return EXACT.divide(total, Decimal(requests)).quantize(CENT, rounding=ROUND_CEILING) if requests else Decimal(0)


def _copied(catalog: Catalog, part: Usage) -> Decimal | None:
    """What a copy costs for the bytes that it reads, on average over the plan's copies of this class."""
    rate = catalog.rate(part.storage_class, Charge.RETRIEVAL)
    copies = part.requests.get(RequestClass.COPY, 0)
    if rate is None or not copies:
        return None if rate is None else Decimal(0)
    return EXACT.divide(rate.of(part.copied_bytes), Decimal(copies)).quantize(CENT, rounding=ROUND_CEILING)


def catalog_of_run(run_id: int) -> Catalog | None:
    """The list that a run is priced by; None for one that nobody bills, or whose prices are unknown."""
    purse = Purse.objects.select_related("price_list").filter(run=run_id).first()
    return _pinned(purse) if purse else None


def _pinned(purse: Purse) -> Catalog | None:
    """The run's prices are those of its beginning, whatever lists come in meanwhile."""
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
