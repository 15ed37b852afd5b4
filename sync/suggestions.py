"""`vh vault sync suggest`: a request budget proposed from what a vault's runs needed. Reads only."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from budgets.report import by_run
from indexing.state import estimate, max_age_of
from sync.prices import estimate_json
from sync.suggest import Past, Proposal, shown, suggest
from vaulthalla.console import table
from vaulthalla.errors import Refused
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.models import StaleIndexPolicy, Vault, VaultKind
from vaulthalla.vaults.presets import CUSTOM, preset_of
from vaulthalla.work.models import TERMINAL, Run, RunKind

# Event feeds are polled every minute and spend nothing but what a queue costs; checks have a budget of their own.
ASKED = (
    *(RunKind.SYNC, RunKind.FETCH, RunKind.RESOLVE, RunKind.RECONCILE, RunKind.INVENTORY, RunKind.AUDIT),
    RunKind.DRY_RUN,
)
# How far back runs are looked for that had something to do.
MOST_LOOKED_AT = 2_000


def suggestion(vault: Vault, *, runs: int) -> dict[str, Any]:
    """What the last `runs` runs that had something to do speak for. Raises Refused for a vault without budgets."""
    if vault.kind == VaultKind.LOCAL:
        raise Refused(
            f"VAULT {vault.name!r} is local: it has no request budget.",
            code="not_for_local_vaults",
            remedy="Name a vault that is kept in step with a bucket.",
        )
    pasts: list[Past] = []
    idle = 0
    for past in _pasts(vault):
        if past.idle:
            idle += 1
        elif len(pasts) < runs:
            pasts.append(past)
    limits = {name: vault.policy.limit(name) for name in RequestClass}
    found = suggest(pasts, limits, pages=_pages(vault))
    return {
        "vault": vault.name,
        "runs": len(pasts),
        "idle": idle,
        "fields": [_field(one) for one in found],
        "command": _command(vault, found),
    }


def _pasts(vault: Vault) -> Iterator[Past]:
    found = Run.objects.filter(vault=vault, kind__in=ASKED, status__in=TERMINAL).order_by("-id")[:MOST_LOOKED_AT]
    booked = by_run([run.pk for run in found])
    for run in found:
        expected = estimate_json(run)
        planned = Requests({RequestClass(n): c for n, c in expected["requests"].items()}) if expected else None
        spent, lost = booked[run.pk]
        yield Past(run=run.pk, planned=planned, spent=spent, lost=lost, stall=run.stall_code)


def _pages(vault: Vault) -> int | None:
    """What listing the bucket takes, where a stale index is made fresh by that."""
    lists = vault.policy.on_stale_index == StaleIndexPolicy.RECONCILE and max_age_of(vault) is not None
    return estimate(vault) if lists else None


def _field(one: Proposal) -> dict[str, Any]:
    return {
        "field": one.name.field,
        "current": one.current,
        "proposed": one.proposed,
        "needed": one.needed,
        "run": None if one.run is None else str(one.run),
        "changes": one.changes,
        "reason": one.reason,
    }


def _command(vault: Vault, found: list[Proposal]) -> str | None:
    """By the preset's name where the whole is one, else by the fields that change."""
    changed = [one for one in found if one.changes]
    if not changed:
        return None
    preset = preset_of({one.name: one.proposed for one in found})
    fields = " ".join(f"{one.name.option} {shown(one.name, one.proposed or 0)}" for one in changed)
    return f"vh vault sync set {shlex.quote(vault.name)} " + (
        fields if preset == CUSTOM else f"--s3-budget-preset {preset}"
    )


def suggestion_text(value: dict[str, Any]) -> str:
    idle = f"; {value['idle']} that had nothing to do are left out" if value["idle"] else ""
    names = {name.field: name for name in RequestClass}

    def limit(field: str, count: int | None) -> str:
        return "unlimited" if count is None else shown(names[field], count)

    rows = [
        (f["field"], limit(f["field"], f["current"]), limit(f["field"], f["proposed"]), f["reason"])
        for f in value["fields"]
    ]
    said = value["command"] or "Nothing needs to be changed."
    return f"From {value['runs']} runs{idle}.\n\n{table(('FIELD', 'NOW', 'PROPOSED', 'WHY'), rows)}\n\n{said}"
