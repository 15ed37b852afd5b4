"""What a run may spend from its beginning, and what dead leases took with them."""

from __future__ import annotations

from django.db import transaction

from budgets import sql
from budgets.models import RunBudget
from budgets.reserve import open_purse
from vaulthalla.errors import Refused
from vaulthalla.requests import RequestClass
from vaulthalla.vaults.models import SyncPolicy, VaultKind
from vaulthalla.work.models import Run, RunKind

Limits = dict[RequestClass, int | None]

# A probe of a key or a store has no policy to go by, and must not become expensive.
CHECK_LIMITS: Limits = {
    RequestClass.LIST: 2,
    RequestClass.HEAD: 5,
    RequestClass.GET: 5,
    RequestClass.PUT: 5,
    RequestClass.COPY: 2,
    RequestClass.DELETE: 5,
    RequestClass.DOWNLOAD_BYTES: 2**20,
}
UNLIMITED: Limits = dict.fromkeys(RequestClass)


def open_budget(run: Run) -> None:
    """The budget rows of a new run."""
    limits = limits_of(run)
    prices, watched = open_purse(run)
    RunBudget.objects.bulk_create(
        RunBudget(
            run=run,
            request_class=name.value,
            limit=limits[name],
            reserved=0 if watched else None,
            unit_price=prices.get(name),
        )
        for name in RequestClass
    )


def limits_of(run: Run) -> Limits:
    """The policy's limits, with what the run's options override by field: `{"limits": {"list": null}}`."""
    limits = _declared(run)
    overrides = run.options.get("limits", {})
    unknown = set(overrides) - {name.field for name in RequestClass}
    if unknown:
        raise Refused(f"No such budget field: {', '.join(sorted(unknown))}.")
    return {name: overrides.get(name.field, limits[name]) for name in RequestClass}


def _declared(run: Run) -> Limits:
    if run.vault is not None and run.vault.kind == VaultKind.LOCAL:
        return UNLIMITED
    if run.kind == RunKind.CHECK:
        return CHECK_LIMITS
    policy = SyncPolicy.objects.select_related("vault").filter(vault=run.vault_id).first()
    return {name: policy.limit(name) for name in RequestClass} if policy else UNLIMITED


def write_off() -> None:
    """Books what leases that are gone held as lost, run by run."""
    for run_id in sql.orphaned_runs():
        with transaction.atomic():
            sql.write_off(run_id)
