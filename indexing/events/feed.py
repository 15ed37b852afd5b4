"""How far events extend what is known: of one file, and of a queue that is polled again and again. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

# An event usually arrives within seconds; what happened so long before an empty queue has arrived.
DELIVERY = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The times of a vault's own events in one file, and whether one came from a lifecycle rule.

    `everything`: they came by a switch that leaves out no kind of event, or lifecycle events were seen.
    """

    first: datetime | None = None
    last: datetime | None = None
    lifecycle: bool = False
    everything: bool = False

    def also(self, at: datetime, *, lifecycle: bool, everything: bool = False) -> Told:
        return Told(
            first=at if self.first is None else min(self.first, at),
            last=at if self.last is None else max(self.last, at),
            lifecycle=self.lifecycle or lifecycle,
            everything=self.everything or lifecycle or everything,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """What a queue has told: every event from `since` to `through`, as far as its notifications tell all kinds.

    `drained_at` is the beginning of the poll that last found it empty; `gap`: something was lost before `since`.
    """

    since: datetime | None = None
    through: datetime | None = None
    drained_at: datetime | None = None
    gap: bool = False


def known_through(as_of: datetime | None, told: Told, *, vouched: datetime | None = None) -> datetime | None:
    """The instant up to which every change is known now; None: the file moves nothing.

    A file counts only when it is contiguous: its first event is not after `as_of`, what is known already.
    `vouched` is the operator's word that the file lacks nothing up to then. Without a complete index
    (`as_of` None) there is nothing to extend, and time never goes back.
    """
    if as_of is None:
        return None
    reached = [as_of]
    if vouched is not None:
        reached.append(vouched)
    if told.first is not None and told.last is not None and told.first <= max(reached):
        reached.append(told.last)
    through = max(reached)
    return through if through > as_of else None


def drained(cover: Cover, *, started: datetime, retention: timedelta, first: datetime | None = None) -> Cover:
    """The cover once a poll that began at `started` (the queue's clock) has found the queue empty.

    `first` is the earliest event that was seen: notifications have been on since then, at least. A queue forgets
    what is older than its retention, so a longer pause is a gap.
    """
    if cover.drained_at is None or cover.since is None:
        # What could not be read before the queue was first empty is lost still.
        since, gap = max(cover.since or min(started, first or started), started - retention), cover.gap
    elif started - cover.drained_at > retention:
        # Never before what could not be read: that is lost, however it is counted.
        since, gap = max(cover.since, started - retention), True
    else:
        since, gap = cover.since, cover.gap
    through = max(cover.through or started - DELIVERY, started - DELIVERY)
    return Cover(since=since, through=through, drained_at=max(cover.drained_at or started, started), gap=gap)


def broken(cover: Cover, *, at: datetime) -> Cover:
    """The cover after an event that could not be read: nothing before `at` follows on any more."""
    return replace(cover, since=at, gap=True)


def extends(
    as_of: datetime | None, cover: Cover, *, everything: bool, vouched: datetime | None = None
) -> datetime | None:
    """The instant up to which every change is known by a queue; None: it moves nothing.

    It counts only where it is contiguous from a point at or before `as_of`, and tells every kind of event.
    """
    if as_of is None:
        return None
    reached = max(as_of, vouched or as_of)
    if everything and follows_on(reached, cover) and cover.through is not None:
        reached = max(reached, cover.through)
    return reached if reached > as_of else None


def follows_on(as_of: datetime, cover: Cover) -> bool:
    """Whether a queue lacks nothing after `as_of`."""
    return cover.since is not None and cover.since <= as_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A feed as `info` judges it; texts are parts of sentences and commands."""

    name: str
    remedy: str
    cover: Cover
    everything: bool
    set_aside: int = 0
    error: str = ""


def warnings(as_of: datetime | None, feed: Seen) -> Iterator[str]:
    """Why a queue makes the index no younger, or could not be read, and what helps."""
    if feed.error:
        yield f"{feed.name} could not be polled: {feed.error}"
    if not feed.everything:
        yield (
            f"{feed.name} has shown no lifecycle event, so it makes the index no younger: add LifecycleExpiration and"
            f" LifecycleTransition to the bucket's notifications; or, where no lifecycle rule is: {feed.remedy}"
            " --no-lifecycle-rules"
        )
    if as_of is not None and feed.cover.drained_at is not None and not follows_on(as_of, feed.cover):
        why = "has a gap" if feed.cover.gap else "was first heard"
        yield (
            f"{feed.name} {why} after what the index knows, so it makes the index no younger: reconcile, import an"
            f" inventory, or vouch that nothing is missing: {feed.remedy} --through TIME"
        )
    if feed.set_aside:
        yield f"{feed.name}: {feed.set_aside} messages could not be read and were set aside."
