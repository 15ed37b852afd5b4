"""Their count beside ours: the truth table."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from budgets.bill_compare import BilledSum, CountedSum, Row, Verdict, compare
from budgets.bill_map import Format
from budgets.bill_report import whole_days
from budgets.bill_sql import Covered
from budgets.class_use import apportion
from vaulthalla.requests import RequestClass as R

CUR, LENS, R2 = Format.AWS_CUR, Format.STORAGE_LENS, Format.R2_ANALYTICS


def billed(tier: str, name: R | None, quantity: int, *, bucket: str = "photos", operation: str = "X") -> BilledSum:
    return BilledSum(bucket=bucket, tier=tier, request_class=name, operation=operation, quantity=quantity)


def counted(name: R, used: int, lost: int = 0, *, bucket: str = "photos", vault: int = 1) -> CountedSum:
    return CountedSum(bucket=bucket, request_class=name, used=used, lost=lost, vaults=(vault,))


@pytest.mark.parametrize(
    ("ours", "theirs", "drift", "verdict"),
    [
        ((100, 0), 100, (0, "0.00"), Verdict.WITHIN),
        # What a killed worker held may have been sent, all of it or nothing.
        ((100, 5), 100, (0, "0.00"), Verdict.WITHIN),
        ((100, 5), 105, (5, "5.00"), Verdict.WITHIN),
        ((100, 5), 106, (6, "6.00"), Verdict.ABOVE),
        ((100, 5), 99, (-1, "-1.00"), Verdict.BELOW),
        ((3, 0), 4, (1, "33.33"), Verdict.ABOVE),
        ((0, 0), 7, (7, None), Verdict.ABOVE),
        ((0, 7), 7, (7, None), Verdict.WITHIN),
        ((0, 0), 0, (0, None), Verdict.WITHIN),
        ((5, 0), None, (None, None), Verdict.NOT_TOLD),
    ],
)
def test_a_row(
    ours: tuple[int, int], theirs: int | None, drift: tuple[int | None, str | None], verdict: Verdict
) -> None:
    row = Row(name="put", tier="tier1", classes=(R.PUT,), counted=ours[0], lost=ours[1], billed=theirs)
    assert (row.drift, row.verdict) == (drift[0], verdict)
    assert row.percent == (None if drift[1] is None else Decimal(drift[1]))


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        # Of the hundred, three were answered with a 5xx: the provider may tell of them, or not.
        (100, Verdict.WITHIN),
        (97, Verdict.WITHIN),
        (96, Verdict.BELOW),
        (101, Verdict.ABOVE),
    ],
)
def test_what_is_not_billed_may_be_missing(theirs: int, verdict: Verdict) -> None:
    ours = CountedSum(bucket="photos", request_class=R.PUT, used=100, lost=0, unbilled=3, vaults=(1,))
    [place] = compare(CUR, [billed("tier1", R.PUT, theirs)], [ours]).places
    assert [(row.unbilled, row.verdict) for row in place.tiers] == [(3, verdict)]


def test_a_tier_is_compared_as_a_sum_and_its_classes_apart() -> None:
    theirs = [
        billed("tier1", R.PUT, 10),
        billed("tier1", R.LIST, 3),
        billed("tier1", None, 2, operation="PutBucketTagging"),
        billed("tier2", R.GET, 7),
    ]
    ours = [counted(R.PUT, 9), counted(R.LIST, 2), counted(R.COPY, 2), counted(R.GET, 7), counted(R.DELETE, 4)]
    [place] = compare(CUR, theirs, ours).places
    assert [(row.name, row.counted, row.billed, row.verdict) for row in place.tiers] == [
        ("tier1", 13, 15, "above"),
        ("tier2", 7, 7, "within"),
        # Deletes are free: a report without any need not tell them.
        ("delete", 4, None, "not_told"),
    ]
    assert {row.name: (row.counted, row.billed) for row in place.classes} == {
        "list": (2, 3),
        "put": (9, 10),
        "copy": (2, 0),
        "get": (7, 7),
    }
    assert place.other == {"PutBucketTagging": 2}


def test_deletes_that_are_told_are_compared() -> None:
    places = compare(
        CUR, [billed("delete", R.DELETE, 4), billed("tier1", R.PUT, 1, bucket="other")], [counted(R.DELETE, 4)]
    ).places
    assert [(row.name, row.verdict) for row in places[0].tiers] == [("delete", "within")]


def test_a_report_without_buckets_is_compared_as_a_whole() -> None:
    theirs = [billed("tier1", R.PUT, 10, bucket="")]
    ours = [counted(R.PUT, 4), counted(R.PUT, 6, bucket="films", vault=2)]
    found = compare(CUR, theirs, ours)
    [place] = found.places
    assert (place.bucket, place.vaults, place.tiers[0].verdict, found.unattributed) == ("", (1, 2), "within", {})


def test_what_belongs_to_no_vault_is_told_and_not_compared() -> None:
    theirs = [
        billed("tier1", R.PUT, 10),
        billed("tier1", R.PUT, 99, bucket="of others"),
        billed("tier2", R.GET, 1, bucket="of yet others"),
        billed("tier1", None, 5, bucket="", operation="ListAllMyBuckets"),
    ]
    found = compare(CUR, theirs, [counted(R.PUT, 10), counted(R.PUT, 3, bucket="unbilled", vault=2)])
    assert [(place.bucket, place.tiers[0].verdict) for place in found.places] == [
        ("photos", "within"),
        ("unbilled", "below"),
    ]
    assert (found.unattributed, found.foreign_buckets, found.foreign_requests) == ({"ListAllMyBuckets": 5}, 2, 100)


def test_storage_lens_cannot_tell_a_copy_from_a_put() -> None:
    theirs = [
        billed("put_post", None, 12, operation="PutRequests"),
        billed("put_post", None, 2),
        billed("get", R.GET, 5),
    ]
    ours = [counted(R.PUT, 10), counted(R.COPY, 4), counted(R.GET, 5), counted(R.DOWNLOAD_BYTES, 10**6)]
    [place] = compare(LENS, theirs, ours).places
    assert [(row.name, row.counted, row.billed) for row in place.tiers] == [
        ("put_post", 14, 14),
        ("get", 5, 5),
        ("bytes", 10**6, None),
    ]
    assert (place.classes, place.other) == ((), {})


def test_r2_by_its_billing_classes() -> None:
    theirs = [billed("class_a", R.PUT, 5), billed("class_b", R.GET, 2), billed("free", R.DELETE, 1)]
    ours = [counted(R.PUT, 4), counted(R.LIST, 1), counted(R.GET, 2), counted(R.DELETE, 1)]
    [place] = compare(R2, theirs, ours).places
    assert [(row.name, row.verdict) for row in place.tiers] == [
        ("class_a", "within"),
        ("class_b", "within"),
        ("free", "within"),
    ]


def test_nothing_billed_is_no_place() -> None:
    assert compare(CUR, [], [counted(R.PUT, 1)]).places == ()


@pytest.mark.parametrize(
    ("first", "until", "imported", "days"),
    [
        # The whole month, told to its end.
        ("2026-11-01T00", "2026-12-01T00", "2026-12-01T06", ("2026-11-01", "2026-12-01")),
        # Nothing was asked for in the last hours, as is known two days later.
        ("2026-11-01T05", "2026-11-30T22", "2026-12-02T06", ("2026-11-01", "2026-12-01")),
        # Or the report lags: that day is left out.
        ("2026-11-01T05", "2026-11-30T22", "2026-12-01T06", ("2026-11-01", "2026-11-30")),
        ("2026-11-03T05", "2026-11-17T09", "2026-11-17T20", ("2026-11-03", "2026-11-17")),
        # Less than a day: nothing to compare.
        ("2026-11-17T05", "2026-11-17T09", "2026-11-17T20", ("2026-11-17", "2026-11-17")),
    ],
)
def test_only_whole_days_are_compared(first: str, until: str, imported: str, days: tuple[str, str]) -> None:
    at = [datetime.fromisoformat(f"{text}:00:00+00:00") for text in (first, until, imported)]
    source = Covered(source=CUR, provider="aws-s3", first=at[0], until=at[1], imported_at=at[2])
    found = whole_days(source, datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
    assert tuple(one.date().isoformat() for one in found) == days


@pytest.mark.parametrize(
    ("whole", "weights", "parts"),
    [
        (10, {1: 7}, {1: 10}),
        (10, {1: 5, 2: 5}, {1: 5, 2: 5}),
        # What is left over goes to the last month.
        (10, {1: 1, 2: 2}, {1: 3, 2: 7}),
        (1, {1: 1, 2: 1, 3: 1}, {1: 0, 2: 0, 3: 1}),
        (5, {}, {}),
    ],
)
def test_a_run_over_two_months_is_split_to_the_unit(whole: int, weights: dict[int, int], parts: dict[int, int]) -> None:
    months = {date(2026, month, 1): weight for month, weight in weights.items()}
    assert apportion(whole, months) == {date(2026, month, 1): part for month, part in parts.items()}
