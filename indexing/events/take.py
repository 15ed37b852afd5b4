"""Messages of a feed, each with one or more events in whatever envelope: sorted, then into the index, or set aside.

One message that cannot be read is nobody's obstacle: it is kept with its reason, and the others go on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO

import msgspec
from django.db import DataError

from indexing.events import apply as applying
from indexing.events.envelopes import items
from indexing.events.feed import Told, broken
from indexing.events.freshen import cover_of, put_cover
from indexing.events.records import Change, Skip, change_of, is_event
from indexing.inputs import Damaged
from indexing.models import EventFeed, SetAside
from vaulthalla.vaults.models import Vault

OUTCOMES = ("upserted", "deleted", "stale", "duplicate", "doubtful")
NOT_JSON, NO_EVENT, DAMAGED = "not_json", "no_s3_event", "damaged_event"
EXCERPT = 2_000
# Of one vault; the oldest make room.
MOST_SET_ASIDE = 10_000
MERGE = 5_000
# Numbers that are too large, times out of range, texts that are none: found only when they are merged.
UNMERGEABLE = (DataError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One delivery of a feed."""

    body: bytes
    id: str = ""
    receipt: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poison:
    """A message that holds no readable event."""

    message: Message
    reason: str
    detail: str


@dataclass(slots=True)
class Sorted:
    """What messages hold for one vault."""

    messages: int = 0
    records: int = 0
    changes: list[Change] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    poison: list[Poison] = field(default_factory=list)
    told: Told = field(default_factory=Told)
    # Since when the notifications are on, as a test event of the bucket tells.
    tested: datetime | None = None

    def take(self, change: Change, vault: Vault) -> None:
        self.records += 1
        skip = applying.skip_of(change, vault)
        if skip is Skip.TEST_EVENT and change.at is not None and change.bucket == vault.bucket:
            self.tested = min(self.tested or change.at, change.at)
        elif change.at is not None and (skip is None or skip is change.skip):
            self.told = self.told.also(change.at, lifecycle=change.lifecycle, everything=change.everything)
        if skip is None:
            self.changes.append(change)
        else:
            self.skipped[skip] += 1


def sort(vault: Vault, messages: Iterable[Message]) -> Sorted:
    """Reads every message; no database."""
    found = Sorted()
    for message in messages:
        found.messages += 1
        try:
            changes = list(changes_in(message.body))
        except Damaged as error:
            reason = DAMAGED if _is_json(message.body) else NOT_JSON
            found.poison.append(Poison(message=message, reason=reason, detail=error.message))
            continue
        if not changes:
            detail = "It is JSON, but holds no S3 event."
            found.poison.append(Poison(message=message, reason=NO_EVENT, detail=detail))
        for change in changes:
            found.take(change, vault)
    return found


def unmergeable(message: Message, error: Exception) -> Sorted:
    """A message that reads well, but whose values no index can hold."""
    why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return Sorted(messages=1, poison=[Poison(message=message, reason=DAMAGED, detail=f"message: {why}")])


def changes_in(body: bytes, name: str = "message") -> Iterator[Change]:
    """The events of one body. Raises Damaged."""
    for item, place in items(BytesIO(body), name):
        change = change_of(item, name, place)
        if is_event(change):
            yield change


def record(vault: Vault, feed: EventFeed, found: Sorted, *, at: datetime) -> Counter[str]:
    """What was sorted into the index and the feed's row, in the caller's transaction; `at`: when it was asked for.

    Counts by what became of each record, as `vh vault sync events` tells them; `set_aside` are messages.
    """
    counts: Counter[str] = Counter(records=found.records, messages=found.messages, set_aside=len(found.poison))
    for start in range(0, len(found.changes), MERGE):
        counts.update(applying.apply(vault, found.changes[start : start + MERGE]))
    # Locked after the index, as every merge does.
    feed = EventFeed.objects.select_for_update().get(pk=feed.pk)
    set_aside(vault, feed, found.poison)
    if any(poison.reason == DAMAGED for poison in found.poison):
        put_cover(feed, broken(cover_of(feed), at=at))
    _tell(feed, found)
    feed.save()
    return counts


def ensured(vault: Vault, kind: str, name: str = "") -> EventFeed:
    """The row of a feed, made on first use."""
    return EventFeed.objects.get_or_create(vault=vault, kind=kind, name=name)[0]


def set_aside(vault: Vault, feed: EventFeed, poison: Iterable[Poison]) -> None:
    """Keeps what could not be read; the same message again is kept once."""
    rows = [
        SetAside(
            vault=vault,
            feed=feed.name or feed.kind,
            message_id=one.message.id,
            digest=hashlib.sha256(one.message.body).hexdigest(),
            reason=one.reason,
            detail=_text(one.detail),
            excerpt=_text(one.message.body[:EXCERPT].decode(errors="backslashreplace")),
            size=len(one.message.body),
        )
        for one in poison
    ]
    if not rows:
        return
    SetAside.objects.bulk_create(rows, ignore_conflicts=True)
    feed.set_aside += len(rows)
    kept = SetAside.objects.filter(vault=vault).order_by("-id").values_list("id", flat=True)
    oldest = kept[MOST_SET_ASIDE : MOST_SET_ASIDE + 1].first()
    if oldest is not None:
        SetAside.objects.filter(vault=vault, id__lte=oldest).delete()


def _tell(feed: EventFeed, found: Sorted) -> None:
    feed.messages += found.messages
    feed.records += found.records
    feed.everything = feed.everything or found.told.everything
    heard = [moment for moment in (feed.first_event_at, found.told.first, found.tested) if moment is not None]
    feed.first_event_at = min(heard, default=None)
    newest = [moment for moment in (feed.newest_event_at, found.told.last) if moment is not None]
    feed.newest_event_at = max(newest, default=None)


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _text(text: str) -> str:
    """PostgreSQL keeps no NUL, and nothing that is no character."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()
