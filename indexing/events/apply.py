"""A batch of changes into the index of a vault, each counted by what became of it.

The merge is the index's own (`merge_known`); the same rule (`order.join`) is followed here only to count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from indexing import merge, sql
from indexing.events import sql as statements
from indexing.events.records import Change, Effect, Skip
from indexing.order import CLOSE, Known, join, older_sequencer
from indexing.sql import Moment
from indexing.terms import Source
from vaulthalla.vaults.models import Vault

UPSERTED, DELETED, STALE, DUPLICATE, DOUBTFUL = "upserted", "deleted", "stale", "duplicate", "doubtful"


def skip_of(change: Change, vault: Vault) -> Skip | None:
    """Why a change is none of this vault's."""
    if change.skip in (Skip.TEST_EVENT, Skip.NOT_S3):
        return change.skip
    if change.bucket != vault.bucket:
        return Skip.OTHER_BUCKET
    below = change.key.removeprefix(vault.prefix)
    if not change.key.startswith(vault.prefix) or not below:
        return Skip.OTHER_PREFIX
    if below.startswith(merge.OWN_KEYS):
        return Skip.CONTROL
    if not merge.storable(below):
        return Skip.NOT_TEXT
    return change.skip


def apply(vault: Vault, changes: Sequence[Change]) -> Counter[str]:
    """Merges changes that are this vault's (`skip_of` is None), in the caller's transaction.

    Returns how many came to what: `upserted`, `deleted`, `stale`, `duplicate`, `doubtful`, or a Skip.
    """
    moment = sql.begin(vault.pk)
    batch = _Batch(vault, moment)
    batch.read({change.key for change in changes})
    for change in changes:
        batch.take(change)
    merge.merge_known(vault.pk, batch.told, source=Source.EVENT)
    statements.doubt(vault.pk, list(batch.doubts()), moment)
    return batch.counts


class _Batch:
    """What is known of the batch's keys, change by change."""

    def __init__(self, vault: Vault, moment: Moment) -> None:
        self.vault, self.moment = vault, moment
        self.counts: Counter[str] = Counter()
        self.known: dict[str, Known] = {}
        self.told: dict[str, Known] = {}
        self.doubted: dict[str, Change] = {}

    def read(self, keys: Iterable[str]) -> None:
        below = [key.removeprefix(self.vault.prefix) for key in keys]
        self.known = statements.known(self.vault.pk, below)

    def take(self, change: Change) -> None:
        key = change.key.removeprefix(self.vault.prefix)
        before = self.known.get(key)
        told = None if change.effect is Effect.DOUBT else knowledge(change, before)
        outcome = self._doubt(key, change, before) if told is None else self._merge(key, told, before)
        self.counts[outcome] += 1

    def doubts(self) -> Iterable[tuple[str, datetime, str]]:
        """Those that nothing later in the batch has settled."""
        for key, change in self.doubted.items():
            known = self.known.get(key)
            if self._undecided(key, change, known):
                sequencer = known.sequencer if known else ""
                newest = change.sequencer if older_sequencer(sequencer, change.sequencer) else sequencer
                yield key, _at(change), newest

    def _merge(self, key: str, told: Known, before: Known | None) -> str:
        floor = self._floor(key)
        after = join(before, told, floor=floor)
        if after is not None:
            self.known[key] = after
        earlier = self.told.get(key)
        self.told[key] = told if earlier is None else join(earlier, told) or told
        return outcome_of(before, told, after)

    def _doubt(self, key: str, change: Change, before: Known | None) -> str:
        if before is not None and change.lifecycle and _other_version(change, before):
            return Skip.OLD_VERSION
        if before is not None and change.sequencer and _same_sequencer(change.sequencer, before.sequencer):
            return DUPLICATE
        if not self._undecided(key, change, before):
            return STALE
        earlier = self.doubted.get(key)
        if earlier is not None and _at(earlier) >= _at(change):
            return DUPLICATE
        self.doubted[key] = change
        return DOUBTFUL

    def _undecided(self, key: str, change: Change, known: Known | None) -> bool:
        """Whether nothing is known that is later than the change."""
        at, floor = _at(change), self._floor(key)
        if floor is not None and at < floor - CLOSE:
            return False
        if known is None:
            return True
        if known.sequenced and change.sequencer:
            return older_sequencer(known.sequencer, change.sequencer)
        return known.observed_at <= at

    def _floor(self, key: str) -> datetime | None:
        """As in `indexing.sql`: what happened before is in the index already."""
        floors = [self.moment.snapshot_as_of]
        if self.moment.scanned(key):
            floors.append(self.moment.scan_started_at)
        return max((floor for floor in floors if floor is not None), default=None)


def knowledge(change: Change, before: Known | None) -> Known | None:
    """What a change tells of its key; None when only a HEAD could say.

    An event tells no storage class where the content is new, so that of the same content is kept.
    """
    if change.effect is Effect.REMOVED:
        return Known(
            observed_at=_at(change),
            source=Source.EVENT,
            gone=True,
            sequencer=change.sequencer,
            version_id=change.version_id,
        )
    same = before is not None and not before.gone and before.etag == change.etag
    if not change.etag or (change.effect is Effect.STORED and not change.storage_class and not same):
        return None
    told = Known(
        observed_at=_at(change),
        source=Source.EVENT,
        etag=change.etag,
        size=change.size,
        storage_class=change.storage_class or "STANDARD",
        archive_status=change.archive_status,
        restore=change.restore,
        restore_expires=change.restore_expires,
        version_id=change.version_id,
        sequencer=change.sequencer,
    )
    return told if before is None or not same else _completed(told, change, before)


def _completed(told: Known, change: Change, before: Known) -> Known:
    """What the event leaves out about content that is known."""
    if change.effect is Effect.CREATED:
        kept = {"restore": before.restore, "restore_expires": before.restore_expires}
        return replace(told, storage_class=before.storage_class, archive_status=before.archive_status, **kept)  # type: ignore[arg-type]
    return replace(
        told,
        size=change.size or before.size,
        storage_class=change.storage_class or before.storage_class,
    )


def outcome_of(before: Known | None, told: Known, after: Known | None) -> str:
    """How one change counts, from what was known before and after it."""
    if before is not None and _again(before, told):
        return DUPLICATE
    if after is None:
        return DELETED if told.gone else STALE
    if after is before or after.content != told.content or (before is not None and after == before):
        return STALE
    if before is not None and before.content == after.content and told.observed_at < before.observed_at:
        return STALE
    return DELETED if told.gone else UPSERTED


def _again(before: Known, told: Known) -> bool:
    if told.sequencer and before.sequencer:
        return _same_sequencer(told.sequencer, before.sequencer)
    return (
        before.source is Source.EVENT
        and told.observed_at == before.observed_at
        and before == replace(told, revision=before.revision, rival_at=before.rival_at, sequencer=before.sequencer)
    )


def _same_sequencer(left: str, right: str) -> bool:
    return bool(right) and not older_sequencer(left, right) and not older_sequencer(right, left)


def _other_version(change: Change, before: Known) -> bool:
    """Lifecycle rules remove old versions days after they became old: no event of theirs is still on its way."""
    return bool(before.version_id) and not before.gone and before.version_id != change.version_id


def _at(change: Change) -> datetime:
    if change.at is None:
        raise AssertionError("a change without a time")
    return change.at
