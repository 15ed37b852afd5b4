"""Disjoint ranges of keys: together they are all keys, whatever they are cut at."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexing.ranges import Range, evenly, how_many, raw
from vaulthalla.stores.base import ObjectInfo, Page

NOW = datetime(2026, 11, 1, tzinfo=UTC)
KEYS = st.text(st.sampled_from("ab/é\U0001f600\udc80"), min_size=1, max_size=4)


def page(*keys: str, following: str | None = None) -> Page:
    infos = [ObjectInfo(key=key, size=0, etag="e", last_modified=NOW, observed_at=NOW) for key in keys]
    return Page(objects=infos, next_after=following, observed_at=NOW)


def keys(of: Page) -> list[str]:
    return [info.key for info in of.objects]


@pytest.mark.parametrize(
    ("pages", "limit", "expected"),
    [
        (1, None, 1),
        (19, None, 1),
        (20, None, 2),
        (80, None, 8),
        (5_000, None, 8),
        (20, 20, 1),
        (20, 21, 2),
        (100, 100, 1),
        (100, 104, 5),
        (100, 3, 1),
    ],
)
def test_a_small_scan_has_one_range_and_none_has_more_than_the_budget(
    pages: int, limit: int | None, expected: int
) -> None:
    assert how_many(pages, limit=limit) == expected


@given(st.lists(KEYS, unique=True), st.sets(KEYS))
def test_every_key_is_in_exactly_one_range(cuts: list[str], all_keys: set[str]) -> None:
    cuts.sort(key=raw)
    parts = Range().divided(cuts)
    assert len(parts) == len(cuts) + 1
    for key in all_keys:
        holders = [one for one in parts if raw(one.low) < raw(key) and (one.high is None or raw(key) <= raw(one.high))]
        assert len(holders) == 1


@given(st.lists(KEYS, unique=True, min_size=1), KEYS)
def test_a_page_ends_where_its_range_does(all_keys: list[str], high: str) -> None:
    all_keys.sort(key=raw)
    own = Range(high=high).own(page(*all_keys, following=all_keys[-1]))
    assert keys(own) == [key for key in all_keys if raw(key) <= raw(high)]
    assert (own.next_after is None) == (raw(all_keys[-1]) >= raw(high))


def test_a_range_is_done_at_its_last_key() -> None:
    one = Range(low="a", high="m", reached="a", after="a")
    one = one.past(page("b", "c", following="c"), "c")
    assert (one.reached, one.after, one.done) == ("c", "c", False)
    assert [one.covers(key) for key in ("a", "b", "c", "d")] == [False, True, True, False]
    one = one.past(page("d"), "d")
    assert one.done
    assert [one.covers(key) for key in ("m", "n")] == [True, False]


def test_the_last_range_reaches_to_the_end() -> None:
    one = Range(low="m", reached="m", after="m").past(page(), None)
    assert one.done
    assert one.covers("zzz")
    assert not one.covers("m")


def test_only_what_is_left_is_divided() -> None:
    one = Range(reached="f", after="f\udc80")
    parts = one.divided(["a", "f", "k", "p"])
    assert [(part.low, part.high, part.reached) for part in parts] == [
        ("", "k", "f"),
        ("k", "p", "k"),
        ("p", None, "p"),
    ]
    assert parts[0].after == "f\udc80"
    done = Range(low="a", high="b", reached="b")
    assert done.divided(["aa"]) == [done]


@given(st.integers(0, 50), st.integers(1, 9))
def test_even_cuts_are_few_and_ascend(count: int, parts: int) -> None:
    found = evenly([f"{number:02}" for number in range(count)], parts)
    assert len(found) == max(0, min(parts, count) - 1)
    assert found == sorted(set(found))
    assert "00" not in found
