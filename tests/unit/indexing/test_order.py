"""Newer knowledge wins, whatever order it arrives in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexing.models import Source
from indexing.order import Known, fold, join, older_sequencer

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def seen(seconds: float, etag: str = "x", source: Source = Source.LIST, **known: object) -> Known:
    """An object with this ETag; an empty ETag is a delete."""
    return Known(observed_at=at(seconds), source=source, etag=etag, gone=not etag, **known)  # type: ignore[arg-type]


def event(seconds: float, etag: str, sequencer: str) -> Known:
    return seen(seconds, etag, Source.EVENT, sequencer=sequencer)


@pytest.mark.parametrize(
    ("old", "new", "etag", "doubtful"),
    [
        # Plain time, in both directions.
        (seen(0, "x"), seen(10, "y"), "y", False),
        (seen(10, "y"), seen(0, "x"), "y", False),
        (seen(0, "x"), seen(10, ""), "", False),
        (seen(10, ""), seen(0, "x"), "", False),
        # The same content cannot contradict itself.
        (seen(0, "x"), seen(1, "x"), "x", False),
        # Two seconds are too close for two contents, a hair more is not.
        (seen(0, "x"), seen(2, "y"), "y", True),
        (seen(2, "y"), seen(0, "x"), "y", True),
        (seen(0, "x"), seen(2.001, "y"), "y", False),
        (seen(0, ""), seen(1, "y"), "y", True),
        # Sequencers settle what times cannot, even against them.
        (event(0, "x", "01"), event(1, "y", "02"), "y", False),
        (event(1, "x", "01"), event(0, "y", "02"), "y", False),
        (event(1, "y", "02"), event(2, "x", "01"), "y", False),
        (event(1, "y", "02"), event(1, "y", "02"), "y", False),
        # An event and a listing only have their times.
        (event(10, "x", "01"), seen(11, "y"), "y", True),
        (event(10, "x", "01"), seen(13, "y"), "y", False),
        # Our own write is newer than what was known up to its time, and than a listing two seconds later.
        (seen(10, "x"), seen(10, "y", Source.OWN), "y", False),
        (seen(12, "x"), seen(10, "y", Source.OWN), "y", False),
        (seen(12.5, "x"), seen(10, "y", Source.OWN), "x", False),
        (seen(10, "y", Source.OWN), seen(10, "x"), "y", False),
        (seen(10, "y", Source.OWN), seen(9, "x"), "y", False),
        (seen(10, "y", Source.OWN), seen(11, "x"), "x", True),
        (seen(10, "y", Source.OWN), seen(10, "", Source.OWN), "", False),
        # An event a little later than our write may be somebody's next one.
        (event(9, "x", "01"), seen(10, "y", Source.OWN), "y", False),
        (event(11, "x", "01"), seen(10, "y", Source.OWN), "x", True),
    ],
)
def test_two_observations(old: Known, new: Known, etag: str, doubtful: bool) -> None:
    known = join(old, new)
    assert known is not None
    assert (known.etag, known.doubtful, known.gone) == (etag, doubtful, not etag)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("0064D3901D00059242", "0064D3901E"),
        ("01", "02"),
        ("0a", "0B"),
        ("", "01"),
        ("0055AED6DCD90281E5", "0055aed6dcd90281e6"),
    ],
)
def test_sequencers_are_padded_on_the_right(left: str, right: str) -> None:
    assert older_sequencer(left, right)
    assert not older_sequencer(right, left)


def test_equal_sequencers_are_the_same_event() -> None:
    assert not older_sequencer("00A0", "00a")
    assert not older_sequencer("00a", "00A0")


def test_what_was_asked_after_the_row_was_known_is_newer_even_in_the_same_second() -> None:
    row = replace(seen(10, "x"), revision=7)
    after = join(row, seen(10, "a"), since=7)
    assert after is not None
    assert (after.etag, after.doubtful) == ("a", False)
    during = join(row, seen(10, "a"), since=6)
    assert during is not None
    assert (during.etag, during.doubtful) == ("x", True)


def test_what_was_asked_later_is_newer_than_a_row_from_the_future() -> None:
    row = replace(event(1000, "x", "01"), revision=7)
    for looked in (seen(10, "", Source.HEAD), seen(10, "y", Source.HEAD), seen(10, "y", Source.OWN), seen(10, "")):
        after = join(row, looked, since=7)
        assert after is not None
        assert (after.content, after.observed_at, after.doubtful) == (looked.content, at(10), False)
        # What is told next is later than that; the event that was wrong is none, when it comes again.
        assert join(after, event(1000, "x", "01")) == after
        following = join(after, event(20, "z", "02"))
        assert following is not None
        assert (following.etag, following.doubtful) == ("z", False)
        # Who did not know the row when asking has only its time.
        assert join(row, looked, since=6) == row


def test_a_scan_that_confirmed_a_row_has_the_last_word_on_it() -> None:
    row = replace(seen(0, "x"), revision=7)
    after = join(row, seen(50, "y", Source.OWN), since=7, floor=at(100))
    assert after is not None
    assert (after.etag, after.doubtful) == ("x", False)


def test_a_newer_observation_ends_doubt() -> None:
    known = fold([seen(0, "x"), seen(1, "y"), seen(3, "y")])
    assert known is not None
    assert known.doubtful is False


def test_what_happened_before_a_complete_scan_is_in_it() -> None:
    row = seen(0, "x")
    assert join(row, seen(50, "y"), floor=at(100)) == row
    assert join(None, seen(50, "y"), floor=at(100)) is None
    assert join(None, seen(101, ""), floor=at(90)) == seen(101, "")


def test_a_change_just_before_a_complete_scan_is_doubtful() -> None:
    row = join(seen(0, "x"), seen(99, "y"), floor=at(100))
    assert row is not None
    assert (row.etag, row.doubtful) == ("x", True)
    absent = join(None, seen(99, "y"), floor=at(100))
    assert absent is not None
    assert (absent.gone, absent.doubtful) == (True, True)


def test_our_own_write_is_kept_although_a_scan_began_in_the_same_second() -> None:
    known = join(None, seen(99, "y", Source.OWN), floor=at(100))
    assert known is not None
    assert (known.etag, known.gone, known.doubtful) == ("y", False, False)


def test_hashes_stay_known_while_the_content_is_the_same() -> None:
    hashed = seen(0, "x", Source.OWN, sha256=b"h" * 32, mtime_ns=7, version_id="v")
    known = fold([hashed, seen(60, "x")])
    assert known is not None
    assert (known.sha256, known.mtime_ns, known.version_id) == (b"h" * 32, 7, "v")
    changed = fold([hashed, seen(60, "y")])
    assert changed is not None
    assert changed.sha256 is None


def test_a_listing_does_not_unlearn_a_restore() -> None:
    head = seen(0, "x", Source.HEAD, storage_class="GLACIER", restore="active", restore_expires=at(1000))
    assert fold([head, seen(60, "x", storage_class="GLACIER")]).restore == "active"  # type: ignore[union-attr]
    assert fold([head, seen(2000, "x", storage_class="GLACIER")]).restore == ""  # type: ignore[union-attr]
    assert fold([head, seen(60, "x", Source.HEAD, storage_class="GLACIER")]).restore == ""  # type: ignore[union-attr]


times = st.integers(min_value=0, max_value=24).map(lambda quarter: quarter / 4)
etags = st.sampled_from(["", "x", "y", "z"])
foreign = st.builds(seen, times, etags, st.sampled_from([Source.LIST, Source.HEAD, Source.INVENTORY]))


@st.composite
def event_feeds(draw: st.DrawFn) -> list[Known]:
    """Events of one key; their times need not agree with their sequencers."""
    contents = draw(st.lists(st.tuples(times, etags), max_size=5))
    return [event(moment, etag, f"{number:04x}") for number, (moment, etag) in enumerate(contents)]


def said(known: Known | None) -> tuple[object, ...] | None:
    """A row without what only says which of two equal answers was kept."""
    return known and (known.observed_at, known.content, known.sequencer, known.rival_at)


@given(st.lists(foreign, max_size=5), st.data())
def test_any_order_and_repetition_gives_the_same_row(observations: list[Known], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(observations))
    repeated = data.draw(st.lists(st.sampled_from(observations), max_size=3)) if observations else []
    assert said(fold([*shuffled, *repeated])) == said(fold(observations))


@given(event_feeds(), st.data())
def test_any_order_and_repetition_of_sequenced_events_gives_the_same_row(
    events: list[Known], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(events))
    repeated = data.draw(st.lists(st.sampled_from(events), max_size=3)) if events else []
    assert said(fold([*shuffled, *repeated])) == said(events[-1] if events else None)


@given(st.lists(st.tuples(st.booleans(), etags), min_size=1, max_size=6))
def test_a_feed_and_listings_in_any_order_agree_when_they_are_far_enough_apart(steps: list[tuple[bool, str]]) -> None:
    story = [
        event(10 * number, etag, f"{number:04x}") if is_event else seen(10 * number, etag)
        for number, (is_event, etag) in enumerate(steps)
    ]
    outcomes = {said(fold(order)) for order in permutations(story[-4:])}
    assert len(outcomes) == 1
    last = fold(story)
    assert last is not None
    assert (last.content, last.doubtful) == (story[-1].content, False)


@given(st.lists(st.one_of(foreign, st.builds(seen, times, etags, st.just(Source.OWN))), max_size=6), times)
def test_a_floor_never_makes_a_row_older(observations: list[Known], floor: float) -> None:
    known = fold(observations, floor=at(floor))
    for observation in observations:
        again = join(known, observation, floor=at(floor))
        if observation.source is not Source.OWN:
            # Doubt may return within the two seconds that no order can tell apart; the row itself stays.
            assert (again and (again.content, again.observed_at)) == (known and (known.content, known.observed_at))
