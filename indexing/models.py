"""What is known of the remote side: one row per object, one state row per vault."""

from __future__ import annotations

from django.contrib.postgres.indexes import BrinIndex
from django.db import models

from indexing.terms import Source
from vaulthalla.stores.base import Restore
from vaulthalla.vaults.models import Vault

__all__ = ["IndexState", "RemoteObject", "ScannedKey", "Source"]


class RemoteObject(models.Model):
    """One key of a vault's remote side, relative to the vault's prefix.

    `observed_at` is store time. A tombstone remembers a delete so that older news cannot undo it.
    `doubtful` rows never lead to an action until a HEAD settles them; a doubtful delete is shown as a live
    row without an ETag, so that nobody takes it for an absent object. See `indexing.order` for the rules.
    """

    pk = models.CompositePrimaryKey("vault_id", "key")
    vault = models.ForeignKey(Vault, on_delete=models.DO_NOTHING, db_index=False, related_name="+")
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

    # An unfinished LIST of the whole vault, in key order: the next one goes on from here.
    scan_started_at = models.DateTimeField(null=True, help_text="Store time of the scan's first page.")
    scan_cursor = models.TextField(null=True, db_collation="C", help_text="The last key scanned.")

    def __str__(self) -> str:
        return f"index of {self.vault}"


class ScannedKey(models.Model):
    """A key that a running scan has seen, where the store does not list in order. Gone when the scan is."""

    pk = models.CompositePrimaryKey("run_id", "key")
    run_id = models.BigIntegerField()
    key = models.TextField(db_collation="C")

    def __str__(self) -> str:
        return self.key
