"""Runs and the chunks they are cut into. The rows are the queue of record; messages are doorbells."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from vaulthalla.vaults.models import Vault


class RunKind(models.TextChoices):
    SYNC = "sync", "sync"
    DRY_RUN = "dry_run", "dry run"
    RECONCILE = "reconcile", "reconcile by LIST"
    INVENTORY = "inventory", "inventory import"
    EVENTS = "events", "event ingestion"
    FETCH = "fetch", "fetch bodies"
    RESOLVE = "resolve", "resolve conflicts"
    AUDIT = "audit", "index audit"
    CHECK = "check", "probe of a key or a store"


# Runs that change files or objects: one active and one queued per vault.
SYNC_LIKE = (RunKind.SYNC, RunKind.FETCH, RunKind.RESOLVE)
# Runs that replace the index wholesale exclude each other, not syncs.
SNAPSHOT_LIKE = (RunKind.RECONCILE, RunKind.INVENTORY)


class RunStatus(models.TextChoices):
    QUEUED = "queued", "waits for the active run of its vault"
    PLANNING = "planning", "looks at both sides"
    RUNNING = "running", "executes its plan"
    SUCCESS = "success", "done"
    STALLED = "stalled", "stopped by a protection"
    FAILED = "failed", "an operation or the run itself failed"
    CANCELLED = "cancelled", "stopped by the operator"


ACTIVE = (RunStatus.PLANNING, RunStatus.RUNNING)
TERMINAL = (RunStatus.SUCCESS, RunStatus.STALLED, RunStatus.FAILED, RunStatus.CANCELLED)


class Trigger(models.TextChoices):
    MANUAL = "manual", "command line or admin"
    SCHEDULE = "schedule", "due by its interval"


class Run(models.Model):
    """One command's or tick's worth of work. Ends in exactly one terminal status.

    `phase` is the lowest phase with an unfinished chunk; only chunks of that phase can be claimed.
    """

    vault = models.ForeignKey(Vault, null=True, on_delete=models.CASCADE, related_name="runs")
    kind = models.CharField(max_length=12, choices=RunKind.choices)
    status = models.CharField(max_length=10, choices=RunStatus.choices)
    trigger = models.CharField(max_length=10, choices=Trigger.choices, default=Trigger.MANUAL)
    phase = models.PositiveSmallIntegerField(default=0)
    options = models.JSONField(default=dict, help_text="What this run was asked to do; never a secret.")
    result = models.JSONField(default=dict, help_text="operations, skipped, bytes and kind-specific numbers.")
    stall_code = models.CharField(max_length=32, blank=True)
    stall_reason = models.TextField(blank=True)
    stall_remedy = models.TextField(blank=True)
    error_code = models.CharField(max_length=64, blank=True)
    error_message = models.TextField(blank=True)
    error_remedy = models.TextField(blank=True)
    cancel_requested = models.BooleanField(default=False)
    stopping = models.BooleanField(default=False, help_text="Only its last phase still runs; the rest is skipped.")
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            # Two syncs of one vault at once would each plan from what the other changes.
            models.UniqueConstraint(
                fields=["vault"],
                name="one_active_sync_per_vault",
                condition=models.Q(kind__in=SYNC_LIKE, status__in=ACTIVE),
            ),
            models.UniqueConstraint(
                fields=["vault"],
                name="one_queued_sync_per_vault",
                condition=models.Q(kind__in=SYNC_LIKE, status=RunStatus.QUEUED),
            ),
            # Two snapshots at once would each sweep what the other just saw.
            models.UniqueConstraint(
                fields=["vault"],
                name="one_snapshot_per_vault",
                condition=models.Q(kind__in=SNAPSHOT_LIKE, status__in=(*ACTIVE, RunStatus.QUEUED)),
            ),
        ]
        indexes = [
            # `history` and `info` read the newest runs of one vault.
            models.Index(fields=["vault", "-id"], name="run_by_vault"),
            # The sweeper looks only at runs that are not over.
            models.Index(
                fields=["id"], name="run_unfinished", condition=models.Q(status__in=(*ACTIVE, RunStatus.QUEUED))
            ),
        ]

    def __str__(self) -> str:
        return f"run {self.pk} ({self.kind})"


class Queue(models.TextChoices):
    CONTROL = "control", "start, plan, finalise, sweep"
    INDEX = "index", "inventory, events, reconcile"
    TRANSFER = "transfer", "scan, hash, bodies"


class ChunkStatus(models.TextChoices):
    WAITING = "waiting", "its phase has not begun"
    PENDING = "pending", "may be claimed"
    RUNNING = "running", "leased"
    DONE = "done", "finished"
    FAILED = "failed", "gave up after its attempts"
    SKIPPED = "skipped", "the run stopped before it"


UNFINISHED = (ChunkStatus.WAITING, ChunkStatus.PENDING, ChunkStatus.RUNNING)


class Chunk(models.Model):
    """A lease-guarded, idempotent piece of a run: 5 to 15 s of work, or released with a cursor."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="chunks")
    ordinal = models.PositiveIntegerField()
    phase = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=32)
    queue = models.CharField(max_length=10, choices=Queue.choices)
    pool = models.CharField(max_length=64, blank=True)
    status = models.CharField(max_length=8, choices=ChunkStatus.choices, default=ChunkStatus.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    worker = models.CharField(max_length=200, blank=True)
    not_before = models.DateTimeField(db_default=Now())
    payload = models.JSONField(default=dict)
    cursor = models.JSONField(null=True)
    items_total = models.PositiveIntegerField(default=0)
    items_done = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["run", "ordinal"]
        constraints = [
            # Cutting the same work twice makes the same chunks.
            models.UniqueConstraint(fields=["run", "ordinal"], name="chunk_ordinal"),
            models.CheckConstraint(
                name="chunk_lease_iff_running",
                condition=models.Q(status="running", lease_token__isnull=False, lease_until__isnull=False)
                | (~models.Q(status="running") & models.Q(lease_token__isnull=True, lease_until__isnull=True)),
            ),
        ]
        indexes = [
            # The claim query: oldest pending chunk of a queue.
            models.Index(
                fields=["queue", "run", "ordinal"], name="chunk_pending", condition=models.Q(status="pending")
            ),
            # The last finisher of a phase looks for the next unfinished one, however many chunks are done.
            models.Index(fields=["run", "phase"], name="chunk_unfinished", condition=models.Q(status__in=UNFINISHED)),
            # The sweeper: lapsed leases.
            models.Index(fields=["lease_until"], name="chunk_leased", condition=models.Q(status="running")),
        ]

    def __str__(self) -> str:
        return f"chunk {self.ordinal} of run {self.run_id}"
