"""What a plan will cost, what a run did cost, and what a vault costs a month while nothing changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from budgets.access import billed, catalog_of_run, keep_classes, let_through, limits, would
from budgets.catalog import listed, price_key
from budgets.price_policy import Decision
from budgets.price_remedies import remedy
from budgets.pricing import MINIMUMS, STANDARD, Catalog, Price, Usage, money, per_month, price
from indexing.manifest.state import refresh_needs, root_needs
from indexing.state import estimate, max_age_of
from sync import sql
from sync.costs import RANGE_SIZE, RANGES_FROM
from sync.decide import Action
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.models import StaleIndexPolicy, Vault, VaultKind
from vaulthalla.work.engine import on_run_finished
from vaulthalla.work.models import Run

# By which request an operation ends the object that was there.
ENDED_BY = {Action.UPLOAD: RequestClass.PUT, Action.DELETE_REMOTE: RequestClass.DELETE}


def plan_price(run: Run, vault: Vault, requests: Requests) -> dict[str, Any] | None:
    """DESIGN's `price` of a dry-run; None for a second directory, which nobody bills."""
    if vault.kind == VaultKind.LOCAL:
        return None
    found = listed(*price_key(vault))
    if found is None:
        unknown = _amounts(Price(amount=None, unknowns=(_unlisted(vault),)), None)
        return {**unknown, "early_deletion": None, "currency": None, "catalog": None}
    planned = usages(run.pk, vault, requests)
    return {
        **_amounts(price(found.catalog, planned), _monthly(found.catalog, run, vault)),
        "early_deletion": _told(early_deletion(found.catalog, planned)),
        "currency": found.catalog.currency,
        "catalog": found.as_json(),
    }


def price_decision(run: Run, vault: Vault, requests: Requests) -> dict[str, Any]:
    """DESIGN's `price_budget`: what the policies would say if the plan began now."""
    if vault.kind == VaultKind.LOCAL:
        return Decision().as_json()
    planned = usages(run.pk, vault, requests, within=let_through(run.pk, requests))
    decision = would(vault, requests, limits(run.pk), planned)
    return {**decision.as_json(), "remedy": remedy(decision, vault.name, price_key(vault)[0]) or None}


def estimate_of(run: Run, vault: Vault, requests: Requests, *, up: int, down: int) -> dict[str, Any]:
    """What a run is expected to come to, by the same prices as what it will have come to: kept beside that."""
    catalog = catalog_of_run(run.pk)
    cost = _cost(price(catalog, usages(run.pk, vault, requests)), catalog) if catalog else None
    return {"requests": requests.as_json(), "bytes": {"up": up, "down": down}, "cost": cost}


def estimate_json(run: Run) -> dict[str, Any] | None:
    """What was expected of a run; None before it is planned. Of a listing, nothing but its requests is known ahead."""
    found = run.result.get("estimate")
    if found:
        return {**found, "cost": _known(found["cost"])}
    pages = run.options.get("estimate")
    if not isinstance(pages, int):
        return None
    return {"requests": Requests({RequestClass.LIST: pages}).as_json(), "bytes": {"up": 0, "down": 0}, "cost": None}


@on_run_finished
def keep_cost(run: Run) -> None:
    """Prices what a run spent when it ends, by the list that held when it began: as the ledger does."""
    vault = Vault.objects.select_related("api_key").filter(pk=run.vault_id or 0, kind=VaultKind.S3).first()
    if vault is None:
        return
    used = usages(run.pk, vault, billed(run.pk), over=True)
    keep_classes(run.pk, used)
    catalog = catalog_of_run(run.pk)
    if catalog is None:
        return
    cost = price(catalog, used)
    run.result = {**run.result, "cost": _cost(cost, catalog)}
    run.save(update_fields=["result"])


def cost_json(run: Run) -> dict[str, str] | None:
    """DESIGN's `cost`: None while the run goes on, and for unknown prices."""
    return _known(run.result.get("cost"))


def cost_text(cost: dict[str, str] | None) -> str:
    return f"{cost['amount']} {cost['currency']}" if cost else ""


def _known(cost: dict[str, Any] | None) -> dict[str, str] | None:
    return {"amount": cost["amount"], "currency": cost["currency"]} if cost and cost["amount"] is not None else None


def mark_cut_short(run_id: int, vault: Vault) -> None:
    """Notes on a plan's operations what is left of the minimum duration of the objects that they end."""
    provider = price_key(vault)[0] if vault.kind == VaultKind.S3 else ""
    minimums = {name: minimum for (of, name), minimum in MINIMUMS.items() if of == provider}
    if minimums:
        sql.mark_cut_short(run_id, vault.pk, minimums)


def usages(
    run_id: int, vault: Vault, requests: Requests, *, within: Requests | None = None, over: bool = False
) -> list[Usage]:
    """Requests by the storage class of what they are about; `over`: of what the run did, not of what it is to do.

    Bodies are read in the class of their object. The rest, retries included, counts as the class that the
    vault writes. With `within`, only as many objects are ended as it has requests to do so: the dearest of them.
    """
    rest = Requests(requests)
    found = []
    for action, storage_class, number, gets, size in sql.bodies_by_class(
        run_id, ranges_from=RANGES_FROM, range_size=RANGE_SIZE
    ):
        copies = action == Action.COPY
        counts = {RequestClass.COPY: number} if copies else {RequestClass.GET: gets, RequestClass.DOWNLOAD_BYTES: size}
        own = Requests({c: min(count, rest[c]) for c, count in counts.items()})
        rest.subtract(own)
        copied = size if copies and own[RequestClass.COPY] else 0
        found.append(Usage(storage_class=storage_class or STANDARD, requests=own, copied_bytes=copied))
    ended = [
        Usage(storage_class=storage_class, requests={}, cut_short={name: amount})
        for action, name in ENDED_BY.items()
        for storage_class, amount in sql.cut_short(run_id, action, done=over, most=(within or requests)[name])
    ]
    return [*found, *ended, Usage(storage_class=vault.storage_class or STANDARD, requests=rest)]


def early_deletion(catalog: Catalog, used: Iterable[Usage]) -> Price:
    """What of a price is for minimum durations that are cut short."""
    return price(catalog, [replace(usage, requests={}, copied_bytes=0) for usage in used])


def _monthly(catalog: Catalog, run: Run, vault: Vault) -> Decimal | None:
    """What comes back though nothing changes: the look at the manifest each interval, and the listings in between."""
    if not vault.policy.enabled:
        return Decimal(0)
    look, listing = refresh_needs(vault, limits(run.pk)), requests_of_a_stale_index(run, vault)
    recurring = ((look, vault.policy.interval_seconds), (listing, _index_interval(vault)))
    storage_class = vault.storage_class or STANDARD
    return per_month(
        catalog,
        [(Usage(storage_class=storage_class, requests=requests), seconds) for requests, seconds in recurring],
    )


def requests_of_a_stale_index(run: Run, vault: Vault) -> Requests:
    """What an index that got too old costs, where policy and budget allow it: the LIST, and the root anew."""
    budget = limits(run.pk)[RequestClass.LIST]
    pages = estimate(vault, limit=budget) or 1
    lists = vault.policy.on_stale_index == StaleIndexPolicy.RECONCILE and max_age_of(vault) is not None
    if not lists or budget is None or budget < pages:
        return Requests()
    return Requests.summed(({RequestClass.LIST: pages}, root_needs(vault)))


def _index_interval(vault: Vault) -> int:
    """Seconds between two listings: none comes before a run does."""
    age = max_age_of(vault)
    return max(vault.policy.interval_seconds, int(age.total_seconds()) if age else 0)


def _amounts(planned: Price, monthly: Decimal | None) -> dict[str, Any]:
    return {
        "amount": _told(planned),
        "recurring_per_month": None if monthly is None else money(monthly),
        "unknowns": list(planned.unknowns),
    }


def _cost(cost: Price, catalog: Catalog) -> dict[str, str | None]:
    return {"amount": _told(cost), "currency": catalog.currency, "catalog": catalog.version}


def _told(amount: Price) -> str | None:
    return None if amount.amount is None else money(amount.amount)


def _unlisted(vault: Vault) -> str:
    provider, region = price_key(vault)
    return f"{provider}/{region}: no price list"
