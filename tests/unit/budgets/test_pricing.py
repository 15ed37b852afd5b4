"""Worked examples: what the providers' own pages make of them, to eight decimals."""

from __future__ import annotations

import dataclasses
import typing
from decimal import Decimal

import pytest

from budgets import pricing
from budgets.catalog_builtin import builtin
from budgets.pricing import (
    MINIMUMS,
    Catalog,
    Charge,
    Price,
    Rate,
    Unit,
    Usage,
    is_billed,
    money,
    month_price,
    per_month,
    price,
)
from vaulthalla.requests import RequestClass as R

CATALOGS = {prices.catalog.provider: prices.catalog for prices in builtin()}
AWS, R2, MINIO = CATALOGS["aws-s3"], CATALOGS["cloudflare-r2"], CATALOGS["minio"]
GIB = 2**30
DAY = 86_400


def use(storage_class: str = "STANDARD", **requests: int) -> Usage:
    return Usage(storage_class=storage_class, requests={R(name): count for name, count in requests.items()})


@pytest.mark.parametrize(
    ("catalog", "usages", "amount"),
    [
        (AWS, [], "0"),
        (AWS, [use(put=1)], "0.000005"),
        (AWS, [use(get=1)], "0.0000004"),
        (AWS, [use(put=1000, copy=1000, list=1000)], "0.015"),
        (AWS, [use(get=1000, head=1000)], "0.0008"),
        (AWS, [use(delete=1_000_000)], "0"),
        # One pass over 100 M objects, and a HEAD of each.
        (AWS, [use(list=100_000)], "0.5"),
        (AWS, [use(head=100_000_000)], "40"),
        # The class of the objects makes no difference to a LIST.
        (AWS, [use("DEEP_ARCHIVE", list=1000)], "0.005"),
        (AWS, [use("STANDARD_IA", put=1000, get=1000)], "0.011"),
        (AWS, [use("ONEZONE_IA", head=1000)], "0.001"),
        (AWS, [use("GLACIER_IR", put=1000, get=1000)], "0.03"),
        (AWS, [use("GLACIER", put=1000, head=1000)], "0.0304"),
        (AWS, [use("DEEP_ARCHIVE", put=1000, head=1000)], "0.0504"),
        (AWS, [use(get=1, downloaded_bytes=GIB)], "0.0900004"),
        # Egress and retrieval of the same bytes.
        (AWS, [use("STANDARD_IA", get=1, downloaded_bytes=GIB)], "0.100001"),
        (AWS, [use("GLACIER_IR", get=1, downloaded_bytes=10 * GIB)], "1.20001"),
        (AWS, [use(put=1), use("STANDARD_IA", put=1)], "0.000015"),
        # A byte is a fraction of the ninth decimal: rounded once, at the end.
        (AWS, [use(downloaded_bytes=1)], "0"),
        (AWS, [use(downloaded_bytes=60)], "0.00000001"),
        (AWS, [use(downloaded_bytes=1)] * 60, "0.00000001"),
        (R2, [use(put=1_000_000)], "4.5"),
        (R2, [use(list=1, put=1, copy=1)], "0.0000135"),
        (R2, [use(get=1_000_000)], "0.36"),
        (R2, [use(delete=10**9, downloaded_bytes=10**15)], "0"),
        (R2, [use("STANDARD_IA", put=1_000_000, get=1_000_000)], "9.9"),
        (R2, [use("STANDARD_IA", downloaded_bytes=10**9)], "0.01"),
        (MINIO, [use("ANYTHING", list=9, head=9, get=9, put=9, copy=9, delete=9, downloaded_bytes=9)], "0"),
    ],
)
def test_worked_examples(catalog: Catalog, usages: list[Usage], amount: str) -> None:
    assert price(catalog, usages) == Price(amount=Decimal(amount).quantize(Decimal("0.00000001")))


@pytest.mark.parametrize(
    ("usages", "amount"),
    [
        ([use(put=1)], "4.5"),
        ([use(put=1_000_000)], "4.5"),
        ([use(put=1_000_001)], "9"),
        # The members of a class are rounded up together, and the runs of a month, too.
        ([use(put=400_000), use(list=300_000), use(copy=300_000)], "4.5"),
        ([use(get=9_999_999, head=1)], "3.6"),
        ([use(put=1), use("STANDARD_IA", put=1)], "13.5"),
        # A LIST is of no class, and costs what it costs in Standard.
        ([use("STANDARD_IA", list=1, put=1)], "13.5"),
        ([use("STANDARD_IA", list=1), use(put=999_999)], "4.5"),
        ([use("STANDARD_IA", downloaded_bytes=1)], "0.01"),
        ([use(delete=5_000_000)], "0"),
        ([], "0"),
    ],
)
def test_r2_rounds_the_month_up(usages: list[Usage], amount: str) -> None:
    assert month_price(R2, usages).amount == Decimal(amount)


@pytest.mark.parametrize(
    ("usages", "amount"),
    [
        # "Standard storage example": 1,000 writes and a million reads of 1 GB each cost nothing but storage.
        ([use(put=1000, get=1_000_000, downloaded_bytes=10**15)], "0"),
        # "Asset hosting": 100,000 writes, 10 M reads a day for thirty days.
        ([use(put=100_000, get=300_000_000)], "104.40"),
        # "Infrequent access example": no free tier there. A day's storage and more is in the test of minimums.
        ([use("STANDARD_IA", put=1000, get=1_000_000, delete=1000, downloaded_bytes=10**12)], "19.90"),
        ([use(put=1_000_000, get=10_000_000)], "0"),
        ([use(put=1_000_001)], "4.5"),
        ([use(list=500_000, put=500_000, copy=1)], "4.5"),
        ([use(get=9_000_000, head=1_000_001)], "0.36"),
        ([use(put=1), use("STANDARD_IA", put=1)], "9"),
    ],
)
def test_r2_gives_away_standard_requests(usages: list[Usage], amount: str) -> None:
    assert month_price(R2, usages, free_tier=True).amount == Decimal(amount)


def test_only_r2_has_a_free_tier_and_rounds_up() -> None:
    assert month_price(AWS, [use(put=1000)], free_tier=True) == price(AWS, [use(put=1000)])
    rates = (
        Rate(storage_class="*", charge=Charge.PUT, unit=Unit.MILLION, price=Decimal(5)),
        Rate(storage_class="*", charge=Charge.EGRESS, unit=Unit.GB, price=Decimal("0.04")),
        Rate(storage_class="*", charge=Charge.RETRIEVAL, unit=Unit.GB, price=Decimal(0)),
    )
    wasabi = Catalog(provider="wasabi", region="*", currency="USD", version="1", rates=rates)
    used = [use(put=1, downloaded_bytes=10**9)]
    assert month_price(wasabi, used, free_tier=True) == price(wasabi, used) == Price(amount=Decimal("0.04000500"))


def test_r2_rounds_up_whatever_unit_its_prices_are_told_in() -> None:
    thousands = tuple(
        dataclasses.replace(rate, unit=Unit.THOUSAND, price=rate.price / 1000) if rate.unit is Unit.MILLION else rate
        for rate in R2.rates
    )
    used = [use(put=1_000_001, get=1), use("STANDARD_IA", get=1, downloaded_bytes=1)]
    for free_tier, amount in ((False, "10.27"), (True, "5.41")):
        for catalog in (R2, dataclasses.replace(R2, rates=thousands)):
            assert month_price(catalog, used, free_tier=free_tier).amount == Decimal(amount)


def test_what_leaves_r2_is_not_dropped_by_rounding() -> None:
    paid = tuple(
        dataclasses.replace(rate, price=Decimal("0.5")) if rate.charge is Charge.EGRESS else rate for rate in R2.rates
    )
    used = [use("STANDARD_IA", downloaded_bytes=2 * 10**8)]
    assert month_price(dataclasses.replace(R2, rates=paid), used).amount == Decimal("0.11")


def ended(catalog: Catalog, storage_class: str, size: int, *, days: int | Decimal, number: int = 1) -> Decimal | None:
    minimum = MINIMUMS.get((catalog.provider, storage_class))
    left = number * minimum.cut_short(size, int(days * DAY)) if minimum else 0
    return price(catalog, [Usage(storage_class=storage_class, requests={}, cut_short={R.DELETE: left})]).amount


@pytest.mark.parametrize(
    ("catalog", "storage_class", "size", "days", "amount"),
    [
        (AWS, "STANDARD", GIB, 0, "0"),
        # The rest of a month, in proportion.
        (AWS, "STANDARD_IA", GIB, 0, "0.0125"),
        (AWS, "STANDARD_IA", GIB, 10, "0.00833333"),
        (AWS, "STANDARD_IA", GIB, 30, "0"),
        (AWS, "STANDARD_IA", GIB, 4000, "0"),
        (AWS, "ONEZONE_IA", GIB, 15, "0.005"),
        (AWS, "GLACIER_IR", GIB, 0, "0.012"),
        # One of three months is over.
        (AWS, "GLACIER", GIB, 30, "0.0072"),
        (AWS, "DEEP_ARCHIVE", 1024 * GIB, 0, "6.082560"),
        # A small object is billed as 128 KB, and no more in the archives and in R2.
        (AWS, "STANDARD_IA", 1, 0, "0.00000153"),
        (AWS, "STANDARD_IA", 128 * 1024, 0, "0.00000153"),
        (AWS, "STANDARD_IA", 256 * 1024, 0, "0.00000305"),
        (AWS, "GLACIER", 1024, 0, "0.00000001"),
        (R2, "STANDARD_IA", 1024, 0, "0.00000001"),
        (R2, "STANDARD", 10**12, 0, "0"),
        # A clock that is behind the store's does not make a minimum longer.
        (AWS, "STANDARD_IA", GIB, -3, "0.0125"),
    ],
)
def test_minimum_sizes_and_durations(catalog: Catalog, storage_class: str, size: int, days: int, amount: str) -> None:
    assert ended(catalog, storage_class, size, days=days) == Decimal(amount).quantize(Decimal("0.00000001"))


def test_r2_bills_a_month_of_what_was_stored_for_five_days() -> None:
    """The whole of its "infrequent access example": 1,000 objects of 1 GB."""
    storage = R2.rate("STANDARD_IA", Charge.STORAGE)
    assert storage is not None
    stored = storage.of(1000 * 10**9 * 5 * DAY)
    rest = ended(R2, "STANDARD_IA", 10**9, days=5, number=1000)
    requests = month_price(R2, [use("STANDARD_IA", put=1000, get=1_000_000, downloaded_bytes=10**12)]).amount
    assert rest is not None
    assert requests is not None
    assert (stored + rest + requests).quantize(Decimal("0.01")) == Decimal("29.90")


def test_storage_without_a_price_is_unknown() -> None:
    bare = dataclasses.replace(AWS, rates=tuple(rate for rate in AWS.rates if rate.charge is not Charge.STORAGE))
    found = price(bare, [Usage(storage_class="GLACIER", requests={}, cut_short={R.DELETE: 1})])
    assert found == Price(amount=None, unknowns=("aws-s3/us-east-1: storage of GLACIER",))


@pytest.mark.parametrize(
    ("provider", "free"),
    [("aws-s3", {500, 502, 503, 504}), ("cloudflare-r2", {401, 403}), ("wasabi", set()), ("", set())],
)
def test_what_answers_are_not_billed(provider: str, free: set[int]) -> None:
    statuses = (200, 206, 304, 400, 401, 403, 404, 412, 416, 500, 502, 503, 504)
    assert {status for status in statuses if not is_billed(provider, status)} == free


def test_other_providers_bill_what_was_used() -> None:
    assert month_price(AWS, [use(put=1), use(put=1)]) == price(AWS, [use(put=2)])


def test_unknown_is_not_free() -> None:
    found = price(AWS, [use("INTELLIGENT_TIERING", put=1, head=2), use(put=1)])
    assert found.amount is None
    assert found.unknowns == (
        "aws-s3/us-east-1: head of INTELLIGENT_TIERING",
        "aws-s3/us-east-1: put of INTELLIGENT_TIERING",
    )
    assert price(AWS, [use("INTELLIGENT_TIERING", list=1, delete=1)]).amount == Decimal("0.000005")
    assert price(AWS, [use("GLACIER", get=1, downloaded_bytes=1)]).unknowns == (
        "aws-s3/us-east-1: retrieval of GLACIER",
    )


def test_what_is_not_used_need_not_be_known() -> None:
    assert price(AWS, [use("INTELLIGENT_TIERING", put=0)]) == Price(amount=Decimal("0E-8"))


def test_recurring() -> None:
    """100 M objects listed every 15 minutes."""
    assert per_month(AWS, [(use(list=100_000), 900)]) == Decimal("1440")
    assert per_month(AWS, [(use(list=100_000), 7)]) == Decimal("185142.85714286")
    assert per_month(AWS, [(use(list=100_000), 900), (use("INTELLIGENT_TIERING", get=1), 900)]) is None
    assert per_month(AWS, []) == Decimal(0)


def test_what_recurs_is_rounded_once() -> None:
    """A third of the eighth decimal each time, 43,200 times a month, and so again."""
    rate = Rate(storage_class="*", charge=Charge.GET, unit=Unit.MILLION, price=Decimal("0.00333333"))
    catalog = Catalog(provider="x", region="*", currency="USD", version="1", rates=(rate,))
    assert price(catalog, [use(get=1)]).amount == 0
    assert per_month(catalog, [(use(get=1), 60)]) == Decimal("0.00014400")
    assert per_month(catalog, [(use(get=1), 60)] * 2) == Decimal("0.00028800")


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0.00"),
        ("1", "1.00"),
        ("0.5", "0.50"),
        ("0.0000004", "0.0000004"),
        ("1E+3", "1000.00"),
        ("12.345", "12.345"),
    ],
)
def test_money_is_plain_digits(amount: str, text: str) -> None:
    assert money(Decimal(amount)) == text


def test_the_largest_counts_stay_exact() -> None:
    rate = Rate(storage_class="*", charge=Charge.PUT, unit=Unit.THOUSAND, price=Decimal("99999999999.99999999"))
    catalog = Catalog(provider="x", region="*", currency="USD", version="1", rates=(rate,))
    # (2**63 - 1) times the price, over 1 000, by integers.
    exact = (2**63 - 1) * 9_999_999_999_999_999_999
    assert price(catalog, [use(put=2**63 - 1)]).amount == Decimal(round(exact, -3) // 1000).scaleb(-8, pricing.EXACT)


def test_no_value_here_is_a_float() -> None:
    values = [value for value in vars(pricing).values() if dataclasses.is_dataclass(value)]
    assert values
    for value in values:
        assert float not in typing.get_type_hints(value).values()
    for catalog in CATALOGS.values():
        assert {type(rate.price) for rate in catalog.rates} == {Decimal}
