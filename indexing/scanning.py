"""A listing asked for by hand: what it may cost, the run, and what came of it."""

from __future__ import annotations

import sys
from shlex import quote
from typing import Any

from budgets.access import spent
from indexing import findings, merge
from indexing.manifest.describe import warnings
from indexing.manifest.publish import publish_chunks
from indexing.reconcile import KIND, expected_requests, reconcile_chunks
from vaulthalla.console import Console, fields, printable
from vaulthalla.errors import DETACHED, Refused
from vaulthalla.remedies import OR, sync_of
from vaulthalla.requests import RequestClass
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.engine import Progress, attach_or_create, drive
from vaulthalla.work.models import TERMINAL, Run, RunKind, RunStatus
from vaulthalla.work.runs import failure_of

DIFFERENCES = ("added", "changed", "removed")


def start_reconcile(vault: Vault, *, allow_list_scan: bool = False, prefix: str = "", noted: bool = False) -> Run:
    """The run that lists; works first on a listing or an import that is in the way. The same one is gone on with.

    `noted`: each difference is kept for `--list`, unless the listing was begun without. Raises Refused without a
    finite LIST budget, unless the limit is lifted for this run.
    """
    check(vault, allow_list_scan=allow_list_scan, prefix=prefix)
    limit = None if allow_list_scan else vault.policy.limit(RequestClass.LIST)
    options: dict[str, Any] = {"prefix": prefix, "estimate": expected_requests(vault, prefix, limit=limit)}
    if allow_list_scan:
        options["limits"] = {RequestClass.LIST.field: None}
    chunks = [*reconcile_chunks(vault, prefix=prefix, noted=noted), *publish_chunks(vault)]
    return attach_or_create(vault, RunKind.RECONCILE, options=options, chunks=chunks)


def check(vault: Vault, *, allow_list_scan: bool, prefix: str) -> None:
    """Raises Refused for what must not be listed."""
    if vault.kind == VaultKind.LOCAL:
        raise Refused(
            f"{vault.name} is a local vault: reconcile is for S3 and R2; a second directory is read by every sync.",
            code="s3_only",
            remedy=sync_of(vault.name),
        )
    if not merge.storable(prefix):
        raise Refused("A prefix is text without NUL.", code="invalid_value", remedy="Correct --prefix.")
    if not allow_list_scan and vault.policy.limit(RequestClass.LIST) is None:
        raise _unbounded(vault, prefix)


def drive_reconcile(console: Console, vault: Vault, *, allow_list_scan: bool, prefix: str, listed: bool = False) -> int:
    """Estimate first, then the run to its end, then its numbers. Ctrl-C leaves it to the workers."""
    if vault.kind == VaultKind.S3:
        limit = None if allow_list_scan else vault.policy.limit(RequestClass.LIST)
        console.message(estimate_text(expected_requests(vault, prefix, limit=limit)))
    run = start_reconcile(vault, allow_list_scan=allow_list_scan, prefix=prefix, noted=listed)
    if listed and not _is_noted(run):
        console.message(f"Run {run.pk} was begun without --list, and is gone on with: it tells numbers only.")
        listed = False
    with console.progress("Listing") as bar:

        def show(now: Progress) -> None:
            bar.update(done=now.items_done, total=max(now.items_total, now.items_done) or None)

        run = drive(run.pk, on_progress=show if sys.stderr.isatty() else None)
    if listed:
        for difference in findings.noted(run.pk, DIFFERENCES):
            console.line(difference, f"{difference['change']:<7}  {printable(difference['key'])}")
    else:
        console.result(result_json(run), result_text)
    return exit_code(console, run, others="workers go on with it, or the next listing of the vault does")


def _is_noted(run: Run) -> bool:
    return run.chunks.filter(kind=KIND, payload__noted=True).exists()


def estimate_text(expected: int | None) -> str:
    if expected is None:
        return "Estimate: unknown, since there is no index yet; one LIST request per 1000 objects."
    requests = "request" if expected == 1 else "requests"
    return f"Estimate: {expected} LIST {requests} (one per 1000 indexed objects, one more per further key range)."


def result_json(run: Run) -> dict[str, Any]:
    """The contract's names; counts of what was merged, also when the run stopped before the end."""
    counts = {name: run.result.get(name, 0) for name in ("objects_indexed", "added", "changed", "removed")}
    return {
        "run": str(run.pk),
        "vault": run.vault.name if run.vault else None,
        "status": run.status,
        "estimate_list_requests": run.options.get("estimate"),
        **counts,
        "skipped": run.result.get("skipped", {}),
        "requests": spent(run.pk).as_json(),
        "warnings": warnings(run),
    }


def result_text(value: dict[str, Any]) -> str:
    requests = {name: count for name, count in value["requests"].items() if count}
    lines = [("Vault", value["vault"]), ("Status", value["status"]), ("Objects listed", value["objects_indexed"])]
    lines += [(name.capitalize(), value[name]) for name in ("added", "changed", "removed")]
    lines += [(f"Skipped: {reason.replace('_', ' ')}", count) for reason, count in value["skipped"].items()]
    lines.append(("Requests", ", ".join(f"{count} {name}" for name, count in requests.items()) or "none"))
    return fields(lines)


def exit_code(console: Console, run: Run, *, others: str) -> int:
    """Raises what stopped the run, so that it is told like every other error; `others`: who goes on with it."""
    for text in warnings(run):
        console.message(f"Warning: {text}")
    if run.status not in TERMINAL:
        console.message(f"Detached from run {run.pk}: {others}.")
        return DETACHED
    if run.status != RunStatus.SUCCESS:
        raise failure_of(run)
    return 0


def _unbounded(vault: Vault, prefix: str) -> Refused:
    """Unlimited is not configured: a listing that nothing bounds must be asked for."""
    expected = expected_requests(vault, prefix)
    name = quote(vault.name)
    part = f" --prefix {quote(prefix)}" if prefix else ""
    return Refused(
        f"{vault.name} has no LIST budget: unlimited is not configured. {estimate_text(expected)}",
        code="list_budget_missing",
        remedy=OR.join(
            (
                f"vh vault sync set {name} --s3-budget-list {expected or 100}",
                f"vh vault sync reconcile {name}{part} --allow-list-scan",
            )
        ),
    )
