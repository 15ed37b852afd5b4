"""How far a queue makes the index younger: the truth table, and what `info` says where it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from indexing.events.feed import DELIVERY, Cover, Seen, broken, drained, extends, warnings

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def cover(since: datetime, emptied: datetime, *, gap: bool = False) -> Cover:
    return Cover(since=since, through=emptied - DELIVERY, drained_at=emptied, gap=gap)


@pytest.mark.parametrize(
    ("before", "first", "after"),
    [
        # Never empty before: it is known to tell since the first event it told, else since now.
        (Cover(), None, cover(NOON, NOON)),
        (Cover(), NOON - HOUR, cover(NOON - HOUR, NOON)),
        (Cover(), NOON + HOUR, cover(NOON, NOON)),
        # What is older than the retention was lost if it was there.
        (Cover(), NOON - 5 * DAY, cover(NOON - 4 * DAY, NOON)),
        # Something could not be read before it was first empty.
        (broken(Cover(), at=NOON - HOUR), NOON - DAY, cover(NOON - HOUR, NOON, gap=True)),
        # Empty often enough: nothing was lost.
        (cover(NOON - DAY, NOON - HOUR), NOON - DAY, cover(NOON - DAY, NOON)),
        (cover(NOON - 9 * DAY, NOON - 4 * DAY), None, cover(NOON - 9 * DAY, NOON)),
        # A pause that is longer than the retention.
        (cover(NOON - 9 * DAY, NOON - 4 * DAY - HOUR), None, cover(NOON - 4 * DAY, NOON, gap=True)),
        # A gap stays a gap, and time never goes back.
        (cover(NOON - HOUR, NOON - HOUR, gap=True), None, cover(NOON - HOUR, NOON, gap=True)),
        (cover(NOON - HOUR, NOON + HOUR), None, cover(NOON - HOUR, NOON + HOUR)),
    ],
)
def test_an_empty_queue(before: Cover, first: datetime | None, after: Cover) -> None:
    assert drained(before, started=NOON, retention=4 * DAY, first=first) == after


@pytest.mark.parametrize(
    ("as_of", "since", "through", "everything", "vouched", "moved"),
    [
        (None, NOON - HOUR, NOON, True, NOON, None),  # nothing complete to extend
        (NOON, NOON, NOON + HOUR, True, None, NOON + HOUR),  # contiguous
        (NOON, NOON - HOUR, NOON + HOUR, True, None, NOON + HOUR),
        (NOON, NOON + timedelta(seconds=1), NOON + HOUR, True, None, None),  # begins later than what is known
        (NOON, NOON - HOUR, NOON + HOUR, False, None, None),  # no lifecycle family
        (NOON, NOON - HOUR, NOON, True, None, None),  # nothing newer
        (NOON, NOON - HOUR, NOON - HOUR, True, None, None),  # time never goes back
        (NOON, None, None, True, None, None),  # never empty
        (NOON, NOON + HOUR, NOON + 2 * HOUR, True, NOON + HOUR, NOON + 2 * HOUR),  # vouched up to where it begins
        (NOON, NOON + 2 * HOUR, NOON + 3 * HOUR, True, NOON + HOUR, NOON + HOUR),
        (NOON, NOON - HOUR, NOON + 2 * HOUR, False, NOON + HOUR, NOON + HOUR),
        (NOON, NOON - HOUR, NOON, True, NOON - HOUR, None),
    ],
)
def test_what_a_queue_adds(
    *,
    as_of: datetime | None,
    since: datetime | None,
    through: datetime | None,
    everything: bool,
    vouched: datetime | None,
    moved: datetime | None,
) -> None:
    told = Cover(since=since, through=through, drained_at=through)
    assert extends(as_of, told, everything=everything, vouched=vouched) == moved


polls = st.lists(st.tuples(st.integers(0, 400), st.booleans()), min_size=1, max_size=12)


@example(polls=[(0, False), (55, True), (56, False)], retention=1, as_of=54)
@given(polls=polls, retention=st.integers(1, 60), as_of=st.integers(0, 400))
def test_nothing_that_was_lost_is_ever_called_known(polls: list[tuple[int, bool]], retention: int, as_of: int) -> None:
    """An event an hour is sent; each is lost once it is as old as the retention, or when it cannot be read."""
    told, got = Cover(), set()
    lost: set[int] = set()
    for hour, unreadable in sorted(polls):
        waiting = {sent for sent in range(hour + 1) if sent >= hour - retention and sent not in got}
        if unreadable and waiting:
            lost.add(max(waiting))
            told = broken(told, at=NOON + hour * HOUR)
        got |= waiting
        told = drained(told, started=NOON + hour * HOUR, retention=retention * HOUR, first=NOON)
    moved = extends(NOON + as_of * HOUR, told, everything=True)
    if moved is not None:
        known = {hour for hour in range(500) if as_of < hour and NOON + hour * HOUR <= moved}
        assert known <= got - lost


def seen(**facts: object) -> Seen:
    whole = {"name": "The queue q", "remedy": "vh vault sync events v --queue q", "everything": True}
    return Seen(**{**whole, "cover": cover(NOON - HOUR, NOON), **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("as_of", "feed", "said"),
    [
        (NOON, seen(), []),
        (None, seen(), []),
        (NOON, seen(cover=Cover()), []),
        (NOON, seen(everything=False), ["--no-lifecycle-rules"]),
        (NOON - DAY, seen(), ["was first heard after"]),
        (NOON - DAY, seen(cover=cover(NOON - HOUR, NOON, gap=True)), ["has a gap after"]),
        (NOON, seen(cover=cover(NOON - HOUR, NOON, gap=True)), []),  # a newer snapshot has closed it
        (NOON, seen(set_aside=3, error="gone"), ["could not be polled: gone", "3 messages"]),
    ],
)
def test_warnings(as_of: datetime | None, feed: Seen, said: list[str]) -> None:
    found = list(warnings(as_of, feed))
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))
