"""`vh vault sync dry-run`: the plan a sync would execute, with what it needs, before anything moves.

A run that stops after planning. It writes its own operations and nothing else, so `--plan ID` can execute
exactly what was seen.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.db.models.functions import Now

from budgets.access import limits, spent
from budgets.pricing import money
from indexing.describe import index_info
from indexing.manifest.state import kept_back, refresh_needs
from indexing.usable import require_fresh_index
from sync import sql
from sync.decide import Action
from sync.finish import COUNTED, SKIPS
from sync.models import Operation
from sync.options import SyncOptions
from sync.prices import plan_price, price_decision
from sync.rows import policy_key
from sync.start import first_chunks
from vaulthalla import units
from vaulthalla.console import fields
from vaulthalla.errors import NotFound, Refused
from vaulthalla.remedies import sync_of
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.lookup import row_id
from vaulthalla.vaults.models import SyncPolicy, Vault, VaultKind
from vaulthalla.vaults.policy import apply_policy_options
from vaulthalla.work.engine import create_run
from vaulthalla.work.models import Run, RunKind, RunStatus

# How long a plan may wait for its `--plan`.
PLAN_KEPT = timedelta(hours=24)
PAGE = 5_000
NOTHING = money(Decimal(0))


def start_dry_run(vault: Vault, *, refresh_index: bool, strategy: str | None, conflict: str | None) -> Run:
    """The run to drive. Raises Refused without a usable index, or for a policy that cannot be supposed."""
    supposed = {name: value for name, value in (("strategy", strategy), ("conflict", conflict)) if value}
    if supposed:
        policy = SyncPolicy.objects.select_related("vault__api_key").get(vault=vault)
        apply_policy_options(policy, supposed)
        strategy, conflict = policy.strategy, policy.conflict_policy
    if vault.kind == VaultKind.S3 and not refresh_index:
        require_fresh_index(vault)
    options = SyncOptions(refresh_index=refresh_index, strategy=strategy, conflict=conflict)
    return create_run(
        vault, RunKind.DRY_RUN, options=options.as_options(vault.policy), chunks=first_chunks(vault, options, dry=True)
    )


def check_plan(vault: Vault, plan: str) -> int:
    """The id of a dry-run that may be executed. Raises NotFound or Refused."""
    again = f"Make a new one: vh vault sync dry-run {shlex.quote(vault.name)}"
    found = Run.objects.filter(vault=vault, kind=RunKind.DRY_RUN, pk=row_id(plan)).first()
    if found is None or found.status != RunStatus.SUCCESS:
        raise NotFound(f"Vault {vault.name!r} has no finished plan {plan!r}.", remedy=again)
    if not Run.objects.filter(pk=found.pk, finished_at__gte=Now() - PLAN_KEPT).exists():
        raise Refused(f"Plan {plan} is older than 24 hours.", code="plan_expired", remedy=again)
    supposed = SyncOptions.of(found).supposed(SyncPolicy.objects.get(vault=vault))
    if policy_key(supposed) != policy_key(vault.policy):
        raise Refused(f"Plan {plan} was made under another policy.", code="plan_outdated", remedy=again)
    return found.pk


def dry_run_json(run: Run, vault: Vault, *, pricing: bool = True) -> dict[str, Any]:
    """DESIGN's dry-run: the plan in full, whatever the budget says of it."""
    planned = Counter(run.result.get("requests", {}))
    requests = {c.value: planned[c.value] for c in RequestClass}
    exceeded = _exceeded(run, vault, requests)
    return {
        "vault": vault.name,
        "plan": str(run.pk),
        "operations": _operations(run, vault),
        "skipped": _skipped(run, vault),
        "requests": requests,
        "traffic": {
            "download_bytes": requests[RequestClass.DOWNLOAD_BYTES.value],
            "upload_bytes": run.result.get("plan", {}).get("bytes_up", 0),
        },
        "planning_requests": spent(run.pk).as_json(),
        "budget": {"fits": not exceeded, "stalls": _stalls(run, vault), "exceeded": exceeded},
        "price": plan_price(run, vault, Requests({c: planned[c.value] for c in RequestClass})) if pricing else None,
        "price_budget": price_decision(run, vault, Requests({c: planned[c.value] for c in RequestClass})),
        "index": index_info(vault),
    }


def dry_run_text(value: dict[str, Any]) -> str:
    operations = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in value["operations"].items() if n)
    skipped = ", ".join(f"{n} {reason}" for reason, n in value["skipped"].items())
    requests = ", ".join(f"{n} {name}" for name, n in value["requests"].items() if n and name != "downloaded_bytes")
    traffic = value["traffic"]
    lines: list[tuple[str, Any]] = [
        ("Plan", f"{value['plan']} of {value['vault']}, kept for 24 h"),
        ("Operations", operations or "nothing to do"),
        *([("Skipped", skipped)] if skipped else []),
        ("Requests", requests or "none"),
        ("Download", units.format_size(traffic["download_bytes"])),
        ("Upload", units.format_size(traffic["upload_bytes"])),
        ("Budget", _budget_text(value["budget"])),
    ]
    lines += [
        (f"  {over['field']}", f"{over['planned']} planned, {over['limit']} allowed: {over['remedy']}")
        for over in value["budget"]["exceeded"]
    ]
    if value["price"]:
        lines += _price_lines(value["price"])
    lines += _decision_lines(value["price_budget"])
    lines.append(("Index", f"{value['index']['freshness']}: {value['index']['why']}"))
    lines.append(("Run it", f"{sync_of(value['vault'])} --plan {value['plan']}"))
    return fields(lines)


def _budget_text(budget: dict[str, Any]) -> str:
    if budget["stalls"]:
        return "exceeded: the run would stall and go on later"
    return "fits" if budget["fits"] else "exceeded: the run would do it all, but its manifest may wait for a later one"


def _price_lines(price: dict[str, Any]) -> list[tuple[str, Any]]:
    """Unknown is told as unknown, with what is missing."""
    currency, catalog = price["currency"] or "", price["catalog"]

    def told(amount: str | None) -> str:
        return "unknown" if amount is None else f"{amount} {currency}"

    lines = [("Price", told(price["amount"])), *(("  unknown", what) for what in price["unknowns"])]
    if catalog:
        if price["early_deletion"] != NOTHING:
            lines.append(("  for minimum durations cut short", told(price["early_deletion"])))
        age = units.format_duration(catalog["age_seconds"])
        lines.append(("  per month, nothing changed", told(price["recurring_per_month"])))
        lines.append(("  prices", f"{catalog['version']}, {'stale, ' if catalog['stale'] else ''}{age} old"))
    return lines


def _decision_lines(decision: dict[str, Any]) -> list[tuple[str, Any]]:
    """What the price policies would say; nothing where there is none."""
    if not decision["policies"]:
        return []
    told = "fits" if decision["allowed"] else f"exceeded: {decision['reason']}"
    lines: list[tuple[str, Any]] = [("Price budget", told), *(("  warning", text) for text in decision["warnings"])]
    return [*lines, ("  remedy", decision["remedy"])] if decision["remedy"] else lines


def planned_operations(run: Run) -> Iterator[dict[str, Any]]:
    """Every operation of a plan in key order, for `--list`."""
    after = -1
    while True:
        rows = list(
            Operation.objects.filter(run=run, ordinal__gt=after)
            .order_by("ordinal")
            .values_list("ordinal", "action", "path", "size")[:PAGE]
        )
        yield from ({"action": action, "path": path, "bytes": size} for _, action, path, size in rows)
        if len(rows) < PAGE:
            return
        after = rows[-1][0]


def _operations(run: Run, vault: Vault) -> dict[str, int]:
    counts: Counter[str] = Counter(run.result.get("planned", {}))
    both = counts.pop(Action.KEEP_BOTH.value, 0)
    counts.update({Action.DOWNLOAD.value: both, Action.UPLOAD.value: both})
    for (verdict, _), count in _still_standing(run, vault).items():
        counts[verdict] += count
    return {**{action.value: counts[action.value] for action in COUNTED}, "failed": 0}


def _skipped(run: Run, vault: Vault) -> dict[str, int]:
    skipped: Counter[str] = Counter(run.result.get("skipped", {}))
    for (verdict, reason), count in _still_standing(run, vault).items():
        if verdict in SKIPS:
            skipped[reason] += count
    return {reason: count for reason, count in sorted(skipped.items()) if count}


def _still_standing(run: Run, vault: Vault) -> Counter[tuple[str, str]]:
    """Settled verdicts that the plan leaves as they are, and those that only a HEAD could change."""
    plan = run.result.get("plan", {})
    standing = Counter({(verdict, reason): count for verdict, reason, count in sql.standing(vault.pk)})
    standing[Action.ARCHIVE_SKIPPED.value, "needs_restore"] += plan.get("restore_checks", 0)
    for name, count in plan.get("released", {}).items():
        verdict, _, reason = name.partition("/")
        standing[verdict, reason] -= count
    return standing


def _stalls(run: Run, vault: Vault) -> bool:
    """Whether some operation finds nothing left; of what publishing takes, only what a run keeps back counts."""
    allowed = limits(run.pk)
    planned = Counter(run.result.get("plan", {}).get("requests", {}))
    before, after = refresh_needs(vault, allowed), kept_back(vault, allowed)
    return any(
        limit is not None and planned[name.value] and planned[name.value] + before[name] + after[name] > limit
        for name, limit in allowed.items()
    )


def _exceeded(run: Run, vault: Vault, requests: dict[str, int]) -> list[dict[str, Any]]:
    over = []
    for request_class, limit in limits(run.pk).items():
        planned = requests[request_class.value]
        if limit is not None and planned > limit:
            remedy = f"vh vault sync set {shlex.quote(vault.name)} {request_class.option} {planned}"
            over.append({"field": request_class.field, "planned": planned, "limit": limit, "remedy": remedy})
    return over
