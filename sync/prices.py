"""What a plan will cost, what a run did cost, and what a vault costs a month while nothing changes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from budgets.access import limits, spent, would
from budgets.catalog import Listed, listed, price_key
from budgets.price_policy import Decision
from budgets.pricing import Price, Usage, money, per_month, price
from budgets.reserve import remedy
from indexing.state import estimate, max_age_of
from sync import sql
from sync.costs import RANGE_SIZE, RANGES_FROM
from sync.decide import Action
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.models import StaleIndexPolicy, Vault, VaultKind
from vaulthalla.work.engine import on_run_finished
from vaulthalla.work.models import Run

STANDARD = "STANDARD"


def plan_price(run: Run, vault: Vault, requests: Requests) -> dict[str, Any] | None:
    """DESIGN's `price` of a dry-run; None for a second directory, which nobody bills."""
    if vault.kind == VaultKind.LOCAL:
        return None
    found = listed(*price_key(vault))
    if found is None:
        return {**_amounts(Price(amount=None, unknowns=(_unlisted(vault),)), None), "currency": None, "catalog": None}
    planned = price(found.catalog, usages(run.pk, vault, requests))
    recurring = price(found.catalog, [Usage(storage_class=STANDARD, requests=requests_of_a_stale_index(run, vault))])
    monthly = None if recurring.amount is None else per_month(recurring.amount, _index_interval(vault))
    return {**_amounts(planned, monthly), "currency": found.catalog.currency, "catalog": found.as_json()}


def price_decision(run: Run, vault: Vault, requests: Requests) -> dict[str, Any]:
    """DESIGN's `price_budget`: what the policies would say if the plan began now."""
    if vault.kind == VaultKind.LOCAL:
        return Decision().as_json()
    decision = would(vault, requests, limits(run.pk), usages(run.pk, vault, requests))
    return {**decision.as_json(), "remedy": remedy(decision, vault.name) or None}


@on_run_finished
def keep_cost(run: Run) -> None:
    """Prices what a run spent when it ends: later price lists do not change what it did cost."""
    vault = Vault.objects.select_related("api_key").filter(pk=run.vault_id or 0, kind=VaultKind.S3).first()
    found = listed(*price_key(vault)) if vault else None
    if vault is None or found is None:
        return
    cost = price(found.catalog, usages(run.pk, vault, spent(run.pk)))
    run.result = {**run.result, "cost": _cost(cost, found)}
    run.save(update_fields=["result"])


def cost_json(run: Run) -> dict[str, str] | None:
    """DESIGN's `cost`: None while the run goes on, and for unknown prices."""
    cost = run.result.get("cost")
    return {"amount": cost["amount"], "currency": cost["currency"]} if cost and cost["amount"] is not None else None


def usages(run_id: int, vault: Vault, requests: Requests) -> list[Usage]:
    """Requests by the storage class of what they are about.

    Bodies are read in the class of their object. The rest, retries included, counts as the class that the
    vault writes.
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
    return [*found, Usage(storage_class=vault.storage_class or STANDARD, requests=rest)]


def requests_of_a_stale_index(run: Run, vault: Vault) -> Requests:
    """What comes back whatever changes: the LIST that a stale index costs, where the policy and the budget allow it."""
    budget = limits(run.pk)[RequestClass.LIST]
    pages = estimate(vault, limit=budget) or 1
    lists = vault.policy.on_stale_index == StaleIndexPolicy.RECONCILE and max_age_of(vault) is not None
    return Requests({RequestClass.LIST: pages if lists and budget is not None and budget >= pages else 0})


def _index_interval(vault: Vault) -> int:
    """Seconds between two listings: none comes before a run does."""
    age = max_age_of(vault)
    return max(vault.policy.interval_seconds, int(age.total_seconds()) if age else 0)


def _amounts(planned: Price, monthly: Decimal | None) -> dict[str, Any]:
    return {
        "amount": None if planned.amount is None else money(planned.amount),
        "recurring_per_month": None if monthly is None else money(monthly),
        "unknowns": list(planned.unknowns),
    }


def _cost(cost: Price, found: Listed) -> dict[str, str | None]:
    amount = None if cost.amount is None else money(cost.amount)
    return {"amount": amount, "currency": found.catalog.currency, "catalog": found.catalog.version}


def _unlisted(vault: Vault) -> str:
    provider, region = price_key(vault)
    return f"{provider}/{region}: no price list"
