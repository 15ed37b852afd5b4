"""A feed's row and the index's age: the pure rules of `events.feed`, read from and written to the database."""

from __future__ import annotations

from datetime import datetime, timedelta
from shlex import quote
from typing import Any

from indexing import state
from indexing.events.feed import Cover, Seen, drained, extends, warnings
from indexing.models import EventFeed, FeedKind, IndexState, SetAside
from vaulthalla.vaults.models import Vault


def cover_of(feed: EventFeed) -> Cover:
    return Cover(since=feed.since, through=feed.through, drained_at=feed.drained_at, gap=feed.gap)


def put_cover(feed: EventFeed, cover: Cover) -> None:
    """Sets it; saves nothing."""
    feed.since, feed.through, feed.drained_at, feed.gap = cover.since, cover.through, cover.drained_at, cover.gap


def note_drained(feed_id: int, *, started: datetime, retention: timedelta) -> None:
    """The queue was found empty by the poll that began at `started`. In the caller's transaction."""
    feed = EventFeed.objects.select_for_update().get(pk=feed_id)
    put_cover(feed, drained(cover_of(feed), started=started, retention=retention, first=feed.first_event_at))
    feed.save()


def freshen(vault: Vault, feed_id: int, *, vouched: datetime | None = None) -> datetime | None:
    """Moves the index's age as far as the feed allows; the instant it moved to. In the caller's transaction."""
    found = IndexState.objects.select_for_update().filter(vault=vault)
    feed = EventFeed.objects.get(pk=feed_id)
    as_of = state.trust_of(found.first() or IndexState(vault=vault)).as_of
    through = extends(as_of, cover_of(feed), everything=feed.everything or feed.vouched, vouched=vouched)
    if through is not None:
        found.update(events_through=through)
    return through


def seen(feed: EventFeed) -> Seen:
    """A queue as it is judged."""
    vault = feed.vault
    return Seen(
        name=f"The queue {feed.name}",
        remedy=f"vh vault sync events {quote(vault.name)} --queue {quote(feed.name)}",
        cover=cover_of(feed),
        everything=feed.everything or feed.vouched,
        set_aside=SetAside.objects.filter(vault=vault, feed=feed.name).count(),
        error=feed.error,
    )


def feed_warnings(vault: Vault, as_of: datetime | None) -> list[str]:
    """What an operator should know of a vault's feeds."""
    found: list[str] = []
    for feed in EventFeed.objects.filter(vault=vault).select_related("vault").order_by("id"):
        if feed.kind == FeedKind.QUEUE:
            found += warnings(as_of, seen(feed))
            continue
        found.append("The webhook keeps rows current, but cannot tell that nothing is missing: the age stays.")
        if kept := SetAside.objects.filter(vault=vault, feed=feed.kind).count():
            found.append(f"{kept} messages of the webhook could not be read and were set aside.")
    return found


def feeds_json(vault: Vault, now: datetime) -> list[dict[str, Any]]:
    """The continuous feeds of a vault, for `info`."""
    return [_feed_json(feed, now) for feed in EventFeed.objects.filter(vault=vault).order_by("id")]


def _feed_json(feed: EventFeed, now: datetime) -> dict[str, Any]:
    lag = None if feed.through is None else max(0, round((now - feed.through).total_seconds()))
    return {
        "kind": feed.kind,
        "queue": feed.name or None,
        "last_poll_at": feed.last_poll_at,
        "drained_at": feed.drained_at,
        "newest_event_at": feed.newest_event_at,
        "contiguous_since": feed.since,
        "contiguous_through": feed.through,
        "gap": feed.gap,
        "lag_seconds": lag,
        "waiting": feed.waiting,
        "messages": feed.messages,
        "records": feed.records,
        "set_aside": feed.set_aside,
        "lifecycle_seen": feed.everything,
        "error": feed.error or None,
    }
