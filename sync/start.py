"""Starting sync-like runs: what chunks they begin with, and who is due."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import F
from django.db.models.functions import Now

from indexing.manifest.publish import publish_chunks
from sync.options import SyncOptions
from vaulthalla.vaults.models import SyncPolicy, Vault
from vaulthalla.work.drive import OnProgress
from vaulthalla.work.engine import Busy, NewChunk, Phase, attach_or_create
from vaulthalla.work.models import ACTIVE, SYNC_LIKE, Queue, Run, RunKind, RunStatus, Trigger
from vaulthalla.work.runs import create_run

# A tick takes this many vaults; the next one the rest.
MOST_DUE = 500
LONGEST_BACKOFF = timedelta(hours=24)


def start(vault: Vault, kind: RunKind, options: SyncOptions, *, on_progress: OnProgress | None = None) -> Run:
    """A run asked for by hand; works on the one in the way until there is room for it."""
    return attach_or_create(
        vault,
        kind,
        options=options.as_options(vault.policy),
        chunks=first_chunks(vault, options),
        on_progress=on_progress,
    )


def first_chunks(vault: Vault, options: SyncOptions | None = None, *, dry: bool = False) -> list[NewChunk]:
    """Look, then plan; what the plan holds becomes further chunks. A plan that was seen needs no look.

    `dry`: the run ends with its plan.
    """
    # Who allows deletes says that a mount which is gone was taken away on purpose.
    payload = {"forget_mounts": options is not None and options.allow_deletes}
    looks = [
        NewChunk("sync.scan", Phase.SCAN, Queue.TRANSFER, payload=payload, pool=vault.pool),
        NewChunk("sync.hash", Phase.HASH, Queue.TRANSFER, pool=vault.pool),
    ]
    return [
        NewChunk("sync.prepare", Phase.PREPARE, Queue.CONTROL, pool=vault.pool),
        *([] if options is not None and options.plan is not None else looks),
        # Space is the root's business, so the planner must reach it.
        NewChunk("sync.plan", Phase.PLAN, Queue.CONTROL, pool=vault.pool),
        *([] if dry else publish_chunks(vault)),
    ]


def start_due() -> list[int]:
    """Starts the vaults whose time has come; ids of the runs. Two callers at once start each vault once.

    A vault that is at work is not queued again: its next sync is due one interval after this one ends.
    """
    started = []
    for policy in due():
        claimed = SyncPolicy.objects.filter(pk=policy.pk, next_sync_at=policy.next_sync_at).update(
            next_sync_at=Now() + timedelta(seconds=policy.interval_seconds)
        )
        busy = Run.objects.filter(vault=policy.vault, kind__in=SYNC_LIKE, status__in=(*ACTIVE, RunStatus.QUEUED))
        if claimed and not busy.exists():
            started += _scheduled(policy.vault)
    return started


def _scheduled(vault: Vault) -> list[int]:
    """The id of the new run, or nothing where somebody started one a moment ago: the others are still due."""
    options = SyncOptions().as_options(vault.policy)
    try:
        run = create_run(vault, RunKind.SYNC, trigger=Trigger.SCHEDULE, options=options, chunks=first_chunks(vault))
    except Busy:
        return []
    return [run.pk]


def due() -> list[SyncPolicy]:
    """Enabled policies whose time has come, longest waiting first; new ones get a time here."""
    SyncPolicy.objects.filter(enabled=True, next_sync_at__isnull=True).update(next_sync_at=Now())
    found = SyncPolicy.objects.filter(enabled=True, next_sync_at__lte=Now()).select_related("vault")
    return list(found.order_by(F("next_sync_at"))[:MOST_DUE])


def next_sync_at(policy: SyncPolicy, run: Run, *, now: datetime) -> tuple[datetime, int]:
    """(when the vault is due again, back-off level) after `run`.

    A stall doubles the interval each time, up to a day: nothing changed that would let it pass. A request
    budget is different, since the next run goes on from where this one stopped.
    """
    interval = timedelta(seconds=policy.interval_seconds)
    if run.status != RunStatus.STALLED or run.stall_code.startswith("budget_"):
        return now + interval, 0
    level = policy.backoff_level + 1
    return now + max(interval, min(interval * 2 ** min(level, 20), LONGEST_BACKOFF)), level
