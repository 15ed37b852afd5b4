"""The last chunk of a sync-like run: what came of it, in numbers; and what the schedule learns from it."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sync import sql
from sync.decide import Action
from sync.models import Operation, OperationStatus
from sync.options import SyncOptions
from sync.root import open_root
from sync.start import next_sync_at
from vaulthalla.errors import Stall, StallCode, VaulthallaError
from vaulthalla.stores.base import AccessDenied, BucketMissing
from vaulthalla.vaults.models import SyncPolicy, Vault
from vaulthalla.work.engine import Lease, handler, on_run_finished, record_error
from vaulthalla.work.models import SYNC_LIKE, Run, RunKind, RunStatus

TRASH_DAYS = 7
MOST_FAILURES_TOLD = 100

# The keys of `operations` in JSON, all of which are always there.
COUNTED = (
    Action.UPLOAD,
    Action.DOWNLOAD,
    Action.INDEX_ONLY,
    Action.DELETE_REMOTE,
    Action.DELETE_LOCAL,
    Action.COPY,
    Action.CONVERGE,
    Action.CONFLICT,
    Action.FOREIGN,
    Action.ARCHIVE_SKIPPED,
    Action.PATH_SKIPPED,
)
# Verdicts that hold until a version or the policy changes: every sync tells them again.
STANDING = (Action.INDEX_ONLY, Action.CONFLICT, Action.FOREIGN, Action.ARCHIVE_SKIPPED, Action.LEAVE)
# Verdicts that are told by their reason, since each skips something.
SKIPS = (Action.ARCHIVE_SKIPPED, Action.PATH_SKIPPED, Action.LEAVE)

# What every operation of a run would meet again, whichever it was.
STORE_CODES = (BucketMissing.code, AccessDenied.code)
REMEDIES = {
    "store_contradicts_itself": "Ask the provider about this key, or rename the file; what succeeded stays done.",
}


@handler("finish.sync")
@handler("finish.fetch")
@handler("finish.resolve")
def finish(lease: Lease) -> None:
    """Sums up, closes conflicts that are over, names what failed, and empties old trash."""
    run = lease.load_run()
    vault = run.vault
    if vault is None:
        raise AssertionError("a sync without a vault")
    with lease.commit():
        sql.execute(sql.CLOSE_CONFLICTS, (vault.pk,))
        if run.stall_code == StallCode.STORE_UNAVAILABLE:
            # The stall tells why, once.
            sql.execute(sql.PARK_UNREACHED, (run.pk,))
        run.result = {**run.result, **summary(run)}
        run.save(update_fields=["result"])
        failures = run.result["failures"]
        if failures:
            record_error(run.pk, failed(run.result["operations"]["failed"], failures, vault=vault.name))
    with ThreadPoolExecutor(1) as pruner:
        lease.outlast(pruner.submit(prune, vault))


def summary(run: Run) -> dict[str, Any]:
    """`operations`, `skipped`, `bytes` and `failures` of a run, from what its operations came to."""
    operations: Counter[str] = Counter()
    skipped: Counter[str] = Counter(run.result.get("skipped", {}))
    moved = Counter[str]()
    operations[Action.PATH_SKIPPED] = sum(skipped.values())
    operations[Action.CONVERGE] = run.result.get("planned", {}).get(Action.CONVERGE, 0)
    for outcome in map(Outcome._make, sql.outcomes(run.pk)):
        if run.kind == RunKind.SYNC and outcome.action in STANDING:
            continue  # a second look that ended in a verdict stands with the others
        _count(operations, skipped, moved, outcome)
    if run.kind == RunKind.SYNC:
        for verdict, reason, count in sql.standing(run.vault_id or 0):
            operations[verdict] += count
            if verdict in SKIPS:
                skipped[reason] += count
    failures = Operation.objects.filter(run=run, status=OperationStatus.FAILED).order_by("ordinal")
    return {
        "operations": {**{a.value: operations[a.value] for a in COUNTED}, "failed": operations["failed"]},
        "skipped": dict(sorted(skipped.items())),
        "bytes": {"up": moved["up"], "down": moved["down"]},
        "failures": list(failures.values("path", "action", "reason")[:MOST_FAILURES_TOLD]),
    }


class Outcome(NamedTuple):
    """A group of operations that ended alike; bytes of their local and their remote sides."""

    action: str
    status: str
    reason: str
    number: int
    here: int
    there: int


def _count(operations: Counter[str], skipped: Counter[str], moved: Counter[str], outcome: Outcome) -> None:
    match outcome.status:
        case OperationStatus.DONE:
            _count_done(operations, moved, outcome)
        case OperationStatus.FAILED:
            operations["failed"] += outcome.number
        case OperationStatus.SKIPPED | OperationStatus.REPLAN:
            skipped[outcome.reason] += outcome.number
            archived = outcome.action == Action.ARCHIVE_SKIPPED
            operations[Action.ARCHIVE_SKIPPED if archived else Action.PATH_SKIPPED] += outcome.number
        case _:
            pass


def _count_done(operations: Counter[str], moved: Counter[str], outcome: Outcome) -> None:
    # Keeping both is a download at the path and an upload beside it.
    both = outcome.action == Action.KEEP_BOTH
    for part in (Action.DOWNLOAD, Action.UPLOAD) if both else (outcome.action,):
        operations[part] += outcome.number
    if both or outcome.action == Action.DOWNLOAD:
        moved["down"] += outcome.there
    if both or outcome.action == Action.UPLOAD:
        moved["up"] += outcome.here


def failed(count: int, failures: list[dict[str, str]], *, vault: str) -> VaulthallaError:
    """What failed first, and what helps: the same sync again, unless the store itself has to change first."""
    first = failures[0]
    code = first["reason"].partition(":")[0]
    more = f" (and {count - 1} more)" if count > 1 else ""
    return VaulthallaError(
        f"{first['action']} of {first['path']!r} failed: {first['reason']}{more}",
        code=code if code in STORE_CODES else "operations_failed",
        remedy=f"vh vault info {shlex.quote(vault)}  # check bucket, endpoint and credentials"
        if code in STORE_CODES
        else REMEDIES.get(code, "Run the same sync again; what succeeded stays done."),
    )


def prune(vault: Vault) -> None:
    """Trash and abandoned stages older than a week, on both disks of a local vault. What is gone has neither."""
    for root in filter(None, (vault.root, vault.replica)):
        with suppress(Stall, OSError), open_root(root, vault.marker, vault=vault.name) as tree:
            tree.prune(before_ns=time.time_ns() - TRASH_DAYS * 86_400 * 10**9)


@on_run_finished
def reschedule(run: Run) -> None:
    """When the vault is due again, how it went, and which strategy its state belongs to."""
    if run.kind not in SYNC_LIKE or run.vault_id is None:
        return
    now = run.finished_at or datetime.now(UTC)
    policy = SyncPolicy.objects.select_for_update().get(vault=run.vault_id)
    policy.last_sync_at = now
    fields = ["last_sync_at"]
    if run.kind == RunKind.SYNC:
        policy.next_sync_at, policy.backoff_level = next_sync_at(policy, run, now=now)
        fields += ["next_sync_at", "backoff_level"]
    # What was agreed was agreed under the run's own strategy, whatever the policy says by now.
    strategy = SyncOptions.of(run).strategy or policy.strategy
    succeeded = run.kind == RunKind.SYNC and run.status == RunStatus.SUCCESS
    if succeeded or not policy.synced_strategy:
        policy.synced_strategy = strategy
        fields.append("synced_strategy")
    if succeeded:
        policy.last_success_at = now
        fields.append("last_success_at")
    policy.save(update_fields=fields)
