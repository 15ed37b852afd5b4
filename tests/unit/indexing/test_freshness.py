"""Age tells the truth, and what follows from it is a table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from indexing.freshness import Freshness, Status, Trust, Usable, freshness, list_requests, resumable, usable

NOW = datetime(2026, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)


def verdict(trust: Trust, max_age: timedelta | None = DAY) -> Freshness:
    return freshness(trust, max_age=max_age, now=NOW)


@pytest.mark.parametrize(
    ("trust", "status"),
    [
        (Trust(), Status.MISSING),
        # Events alone never make an index, nor does an unfinished snapshot.
        (Trust(events_through=NOW), Status.MISSING),
        (Trust(snapshot_as_of=NOW), Status.MISSING),
        (Trust(complete=True, snapshot_as_of=NOW - DAY), Status.FRESH),
        (Trust(complete=True, snapshot_as_of=NOW - DAY - timedelta(microseconds=1)), Status.STALE),
        (Trust(complete=True, snapshot_as_of=NOW - 9 * DAY, events_through=NOW), Status.FRESH),
        (Trust(complete=True, snapshot_as_of=NOW, events_through=NOW - 9 * DAY), Status.FRESH),
        # A store's clock may be ahead of ours.
        (Trust(complete=True, snapshot_as_of=NOW + DAY), Status.FRESH),
    ],
)
def test_freshness(trust: Trust, status: Status) -> None:
    assert verdict(trust).status is status


def test_an_unlimited_age_is_never_stale() -> None:
    assert verdict(Trust(complete=True, snapshot_as_of=NOW - 9000 * DAY), None).status is Status.FRESH


def test_the_reason_names_both_ages() -> None:
    trust = Trust(complete=True, snapshot_as_of=NOW - timedelta(hours=26, minutes=5))
    assert verdict(trust).why == "What is known is 1 d 2 h old; the policy allows 1 d."


@pytest.mark.parametrize(
    ("status", "list_budget", "estimate", "may_reconcile", "expected"),
    [
        (Status.FRESH, 0, None, False, Usable.USE),
        (Status.MISSING, 1, None, True, Usable.RECONCILE),
        (Status.MISSING, 1, None, False, Usable.RECONCILE),
        (Status.MISSING, 0, None, True, Usable.STALL_MISSING),
        (Status.MISSING, None, None, True, Usable.STALL_MISSING),
        (Status.STALE, 10, 10, True, Usable.RECONCILE),
        (Status.STALE, 9, 10, True, Usable.STALL_STALE),
        (Status.STALE, None, 10, True, Usable.STALL_STALE),
        (Status.STALE, 10, 10, False, Usable.STALL_STALE),
    ],
)
def test_usable(
    status: Status, list_budget: int | None, estimate: int | None, may_reconcile: bool, expected: Usable
) -> None:
    assert usable(status, list_budget=list_budget, estimate=estimate, may_reconcile=may_reconcile) is expected


@pytest.mark.parametrize(("objects", "requests"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (1_000_000, 1000)])
def test_a_listing_costs_a_request_per_thousand_objects(objects: int, requests: int) -> None:
    assert list_requests(objects) == requests


@pytest.mark.parametrize(
    ("age", "max_age", "expected"),
    [
        (timedelta(hours=23), None, True),
        (timedelta(hours=25), None, False),
        (timedelta(hours=2), timedelta(hours=1), False),
        (timedelta(hours=25), timedelta(days=7), False),
    ],
)
def test_a_scan_is_finished_only_while_that_is_worth_it(
    age: timedelta, max_age: timedelta | None, expected: bool
) -> None:
    assert resumable(NOW - age, max_age=max_age, now=NOW) is expected


def test_nothing_begun_is_nothing_to_resume() -> None:
    assert not resumable(None, max_age=None, now=NOW)
