"""The local side, the base both sides last agreed on, the plan, and the conflicts."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from vaulthalla.vaults.models import Vault
from vaulthalla.work.models import Run


class LocalFile(models.Model):
    """One path below a vault's root, as the last scan saw it. `dir` is "" or ends with "/".

    Hashes are NULL until somebody needed them, and again as soon as the fingerprint changes.
    `skip` names why a name cannot be a key (symlink, special, undecodable …); such rows are never planned.
    """

    pk = models.CompositePrimaryKey("vault_id", "path")
    vault = models.ForeignKey(Vault, on_delete=models.DO_NOTHING, db_index=False, related_name="+")
    path = models.TextField(db_collation="C")
    dir = models.TextField(db_collation="C")
    size = models.BigIntegerField()
    mtime_ns = models.BigIntegerField()
    ctime_ns = models.BigIntegerField()
    inode = models.BigIntegerField()
    racy = models.BooleanField(default=False, help_text="mtime within 2 s of the scan: it may have changed since.")
    read_again = models.BooleanField(
        db_default=False, help_text="A scan found it racy: no base vouches for it before its content was compared."
    )
    skip = models.CharField(max_length=20, default="")
    sha256 = models.BinaryField(null=True)
    md5 = models.BinaryField(null=True)
    multipart_etag = models.TextField(
        default="", help_text="The remote multipart ETag this content was proved equal to."
    )

    class Meta:
        indexes = [
            # The scan replaces the rows of one directory at a time.
            models.Index(fields=["vault", "dir"], name="local_by_dir"),
        ]

    def __str__(self) -> str:
        return self.path


class DirState(models.TextChoices):
    READ = "read", "its entries are known"
    UNREADABLE = "unreadable", "below it everything is unknown"
    UNMOUNTED = "unmounted", "was a mount point and is none now; below it everything is unknown"


class LocalDir(models.Model):
    """One directory below a root. `digest` sums up its files so that an unchanged one costs no row traffic."""

    pk = models.CompositePrimaryKey("vault_id", "dir")
    vault = models.ForeignKey(Vault, on_delete=models.DO_NOTHING, db_index=False, related_name="+")
    dir = models.TextField(db_collation="C")
    digest = models.BinaryField(null=True)
    state = models.CharField(max_length=10, choices=DirState.choices, default=DirState.READ)
    is_mount = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.dir


class Base(models.Model):
    """What is remembered of a path: the state both sides last agreed on, or a settled verdict, or both.

    With `etag` set, both sides agreed on these fingerprints. `settled_*` remember a no-op verdict for
    exactly those versions and policy, so that the path leaves the diff query.
    """

    pk = models.CompositePrimaryKey("vault_id", "path")
    vault = models.ForeignKey(Vault, on_delete=models.DO_NOTHING, db_index=False, related_name="+")
    path = models.TextField(db_collation="C")
    etag = models.TextField(null=True)
    version_id = models.TextField(default="")
    size = models.BigIntegerField(null=True)
    mtime_ns = models.BigIntegerField(null=True)
    ctime_ns = models.BigIntegerField(null=True)
    inode = models.BigIntegerField(null=True)
    sha256 = models.BinaryField(null=True)
    verdict = models.CharField(max_length=20, default="")
    reason = models.CharField(max_length=40, default="")
    settled_local = models.TextField(null=True, help_text="Local version the verdict was given for.")
    settled_remote = models.TextField(null=True, help_text="Remote version the verdict was given for.")
    settled_policy = models.TextField(null=True, help_text="Policy the verdict was given under.")

    class Meta:
        indexes = [
            # The standing counts of a run.
            models.Index(fields=["vault", "verdict", "reason"], name="base_by_verdict", condition=~Q(verdict="")),
        ]

    def __str__(self) -> str:
        return self.path


class OperationStatus(models.TextChoices):
    PENDING = "pending", "to do"
    STAGED = "staged", "body verified beside its target, not yet renamed"
    DONE = "done", "done"
    SKIPPED = "skipped", "skipped by rule"
    REPLAN = "replan", "a side changed since planning: the next run decides again"
    PARKED = "parked", "waits for budget"
    FAILED = "failed", "failed"


class Operation(models.Model):
    """One planned action on one path, for exactly the versions it was planned with.

    A chunk owns the ordinals its payload names; `planned` is a `sync.decide.Sides`.
    """

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="operations")
    ordinal = models.PositiveIntegerField()
    path = models.TextField(db_collation="C")
    action = models.CharField(max_length=20)
    reason = models.TextField(default="")
    status = models.CharField(max_length=8, choices=OperationStatus.choices, default=OperationStatus.PENDING)
    size = models.BigIntegerField(default=0)
    planned = models.JSONField(default=dict)
    source = models.TextField(default="", help_text="The path a server-side copy takes its content from.")
    progress = models.JSONField(default=dict, help_text="The staged file: what a crash must not lose.")
    cut_short = models.DecimalField(
        max_digits=30,
        decimal_places=0,
        null=True,
        help_text="Byte-seconds of the object's minimum duration that it ends.",
    )

    class Meta:
        ordering = ["run", "ordinal"]
        constraints = [models.UniqueConstraint(fields=["run", "ordinal"], name="operation_ordinal")]
        indexes = [
            # Finishing counts what is left; history lists what failed.
            models.Index(fields=["run", "status"], name="operation_by_status"),
            # What is priced for ending an object before its time: of most plans nothing.
            models.Index(fields=["run"], name="operation_cut_short", condition=Q(cut_short__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.path}"


class Direction(models.TextChoices):
    UP = "up", "multipart upload"
    DOWN = "down", "download in ranges"


class Transfer(models.Model):
    """A large body under way. Outlives its run, so the next one goes on with the parts that are there.

    `version` is the local fingerprint (up) or the ETag (down) the parts belong to; `parts` maps part
    numbers, from 1, to ETags (up) or to true (down).
    """

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="transfers")
    path = models.TextField(db_collation="C")
    direction = models.CharField(max_length=4, choices=Direction.choices)
    version = models.TextField()
    size = models.BigIntegerField()
    part_size = models.BigIntegerField()
    upload_id = models.TextField(default="", blank=True)
    staged = models.TextField(default="", blank=True, help_text="The file the ranges are written to.")
    sha256 = models.BinaryField(null=True)
    part_checksums = models.JSONField(default=list)
    parts = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["vault", "path"], name="one_transfer_per_path")]

    def __str__(self) -> str:
        return self.path


class ConflictStatus(models.TextChoices):
    OPEN = "open", "waits for the operator"
    RESOLVED = "resolved", "decided by the operator"
    CLOSED = "closed", "the sides agree again, or changed"


class Conflict(models.Model):
    """Both sides changed and the policy asks. A resolution holds only for the versions recorded here."""

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="conflicts")
    path = models.TextField(db_collation="C")
    reason = models.CharField(max_length=40)
    local = models.JSONField(default=dict)
    remote = models.JSONField(default=dict)
    local_version = models.TextField()
    remote_version = models.TextField()
    status = models.CharField(max_length=10, choices=ConflictStatus.choices, default=ConflictStatus.OPEN)
    resolution = models.CharField(max_length=12, blank=True)
    detected_at = models.DateTimeField(db_default=Now())
    closed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["vault", "path"]
        constraints = [
            # A path has one open conflict, whatever the number of runs that find it.
            models.UniqueConstraint(fields=["vault", "path"], name="one_open_conflict", condition=Q(status="open")),
        ]

    def __str__(self) -> str:
        return self.path
