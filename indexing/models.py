"""What is known of the remote side: one row per object, one state row per vault."""

from __future__ import annotations

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models.functions import Now
from encrypted_fields.fields import EncryptedTextField

from indexing.terms import Source
from vaulthalla.stores.base import Restore
from vaulthalla.vaults.models import Vault

__all__ = [
    "EventFeed",
    "FeedKind",
    "Finding",
    "IndexCount",
    "IndexState",
    "RemoteObject",
    "ScanRange",
    "ScannedKey",
    "SetAside",
    "Source",
    "Webhook",
]


class RemoteObject(models.Model):
    """One key of a vault's remote side, relative to the vault's prefix.

    `observed_at` is store time. A tombstone remembers a delete so that older news cannot undo it.
    `doubtful` rows never lead to an action until a HEAD settles them; a doubtful delete is shown as a live
    row without an ETag, so that nobody takes it for an absent object. See `indexing.order` for the rules.
    """

    pk = models.CompositePrimaryKey("vault_id", "key")
    # The state's own reference holds the vault while a merge is under way: one check instead of one a row.
    vault = models.ForeignKey(Vault, on_delete=models.DO_NOTHING, db_index=False, db_constraint=False, related_name="+")
    key = models.TextField(db_collation="C")
    size = models.BigIntegerField(default=0)
    etag = models.TextField(default="")
    last_modified = models.DateTimeField(null=True)
    storage_class = models.TextField(default="STANDARD")
    archive_status = models.TextField(default="")
    restore = models.CharField(max_length=8, default=Restore.NONE.value)
    restore_expires = models.DateTimeField(null=True)
    version_id = models.TextField(default="")
    sequencer = models.TextField(default="")
    sha256 = models.BinaryField(null=True)
    mtime_ns = models.BigIntegerField(null=True)
    source = models.CharField(max_length=16, choices=Source.choices)
    observed_at = models.DateTimeField()
    tombstone = models.BooleanField(default=False)
    doubtful = models.BooleanField(default=False)
    rival_at = models.DateTimeField(null=True, help_text="When something else was seen that could be as new: doubt.")
    revision = models.BigIntegerField(default=0, help_text="The merge that last wrote this row.")

    class Meta:
        indexes = [
            # Old tombstones are dropped after each complete scan without looking at live rows.
            models.Index(fields=["vault", "observed_at"], name="remote_tombstones", condition=models.Q(tombstone=True)),
            # What the manifest lacks yet. Of a few bytes per hundred pages, so that merges need not pay for it.
            BrinIndex(fields=["vault", "revision"], name="remote_unpublished", pages_per_range=32, autosummarize=True),
        ]

    def __str__(self) -> str:
        return self.key


class IndexState(models.Model):
    """How far the index of one vault can be trusted."""

    vault = models.OneToOneField(Vault, on_delete=models.CASCADE, related_name="index_state")
    source = models.CharField(max_length=16, choices=Source.choices, default=Source.NONE.value)
    complete = models.BooleanField(default=False)
    indexed_at = models.DateTimeField(null=True, help_text="When the last snapshot was committed here.")
    snapshot_as_of = models.DateTimeField(null=True, help_text="Store time at which the newest snapshot's scan began.")
    floor_at = models.DateTimeField(
        null=True, help_text="What happened before is in the index already, where that is not snapshot_as_of."
    )
    events_through = models.DateTimeField(null=True)
    manifest_etag = models.TextField(default="", blank=True)
    manifest_generated_at = models.DateTimeField(null=True)
    manifest_object_count = models.BigIntegerField(null=True)
    manifest_root = models.JSONField(null=True, help_text="The manifest as it was last read or written.")
    manifest_pending = models.JSONField(
        default=list, help_text="Objects sent to the bucket that no manifest may name: to be retired."
    )
    published_revision = models.BigIntegerField(default=0, help_text="The manifest holds what rows up to it say.")
    base_revision = models.BigIntegerField(default=0, help_text="The manifest's shards hold what rows up to it say.")

    # Counted by every merge, so that nobody counts ten million rows.
    revision = models.BigIntegerField(default=0, help_text="Grows with every merge.")
    object_count = models.BigIntegerField(default=0)
    total_bytes = models.DecimalField(max_digits=30, decimal_places=0, default=0)
    doubtful_count = models.BigIntegerField(default=0)

    # An unfinished LIST of the whole vault, in key order: the next one goes on with its ranges.
    scan_started_at = models.DateTimeField(null=True, help_text="Store time of the scan's first page.")

    def __str__(self) -> str:
        return f"index of {self.vault}"


class ScanRange(models.Model):
    """How far a part of a vault's unfinished scan is; together they hold every key. See `indexing.ranges`."""

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="+")
    low = models.TextField(db_collation="C", help_text="The range begins after this key.")
    high = models.TextField(null=True, db_collation="C", help_text="Its last key; NULL: to the end.")
    reached = models.TextField(null=True, db_collation="C", help_text="The last key merged; as high: done.")
    after = models.BinaryField(help_text="The key the store goes on after, which may be no text.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["vault", "low"], name="scan_ranges_are_disjoint")]

    def __str__(self) -> str:
        return f"{self.low!r} to {self.high!r}"


class ScannedKey(models.Model):
    """A key that a running scan has seen, where the store does not list in order. Gone when the scan is."""

    pk = models.CompositePrimaryKey("run_id", "key")
    run_id = models.BigIntegerField()
    key = models.TextField(db_collation="C")

    def __str__(self) -> str:
        return self.key


class Finding(models.Model):
    """What a run noted of a key, for its `--list`: a difference, or the verdict on a sampled row.

    Of each vault only those of its last such run are kept.
    """

    pk = models.CompositePrimaryKey("run_id", "key")
    run_id = models.BigIntegerField()
    key = models.TextField(db_collation="C")
    change = models.CharField(max_length=8, help_text="Empty: sampled, but not yet looked at.")

    def __str__(self) -> str:
        return f"{self.change} {self.key}"


class IndexCount(models.Model):
    """The rows of a vault by storage class, counted at one revision: nobody counts ten million rows twice."""

    vault = models.OneToOneField(Vault, on_delete=models.CASCADE, related_name="+")
    revision = models.BigIntegerField()
    counted_at = models.DateTimeField()
    classes = models.JSONField(default=dict, help_text="Objects and bytes of live rows, by storage class.")
    tombstones = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"counts of {self.vault}"


class FeedKind(models.TextChoices):
    QUEUE = "queue", "SQS queue"
    WEBHOOK = "webhook", "webhook"


class EventFeed(models.Model):
    """One continuous feed of events of a vault: what it told, and how far it lacks nothing (see `events.feed`)."""

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="event_feeds")
    kind = models.CharField(max_length=8, choices=FeedKind.choices)
    name = models.TextField(blank=True, help_text="The queue's URL.")
    messages = models.BigIntegerField(default=0)
    records = models.BigIntegerField(default=0)
    set_aside = models.BigIntegerField(default=0, help_text="Messages that could not be read, ever.")
    everything = models.BooleanField(default=False, help_text="It has shown lifecycle events, or leaves out no kind.")
    vouched = models.BooleanField(default=False, help_text="The operator says that the bucket has no lifecycle rule.")
    first_event_at = models.DateTimeField(null=True)
    newest_event_at = models.DateTimeField(null=True)
    last_poll_at = models.DateTimeField(null=True)
    next_poll_at = models.DateTimeField(null=True)
    drained_at = models.DateTimeField(null=True, help_text="Beginning of the poll that last found the queue empty.")
    since = models.DateTimeField(null=True, help_text="It lacks nothing from here")
    through = models.DateTimeField(null=True, help_text="to here.")
    gap = models.BooleanField(default=False, help_text="Something was lost before `since`.")
    waiting = models.BigIntegerField(null=True, help_text="Messages in the queue, as it last told.")
    error = models.TextField(blank=True, help_text="Why the last poll failed.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["vault", "kind", "name"], name="feed_of_vault")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.name}".strip()


class SetAside(models.Model):
    """A message that could not be read: taken out of its queue, so that it is in nobody's way, and kept here."""

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="+")
    feed = models.TextField(help_text="The queue's URL, or webhook.")
    message_id = models.TextField(blank=True)
    digest = models.CharField(max_length=64, help_text="SHA-256 of the body: the same message again is one row.")
    reason = models.CharField(max_length=16)
    detail = models.TextField()
    excerpt = models.TextField()
    size = models.BigIntegerField()
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "messages set aside"
        constraints = [models.UniqueConstraint(fields=["vault", "digest"], name="set_aside_once")]

    def __str__(self) -> str:
        return f"{self.reason}: {self.excerpt[:40]}"


class Webhook(models.Model):
    """How senders of events prove themselves for one vault. The secret is encrypted at rest, shown once."""

    vault = models.OneToOneField(Vault, on_delete=models.CASCADE, related_name="webhook")
    secret = EncryptedTextField()
    topic_arn = models.CharField(max_length=400, blank=True, help_text="The SNS topic that may subscribe.")
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"webhook of {self.vault}"
