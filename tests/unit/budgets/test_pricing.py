"""Worked examples: what the providers' own pages make of them, to eight decimals."""

from __future__ import annotations

import dataclasses
import typing
from decimal import Decimal

import pytest

from budgets import pricing
from budgets.catalog_builtin import builtin
from budgets.pricing import Catalog, Charge, Price, Rate, Unit, Usage, money, month_price, per_month, price
from vaulthalla.requests import RequestClass as R

CATALOGS = {prices.catalog.provider: prices.catalog for prices in builtin()}
AWS, R2, MINIO = CATALOGS["aws-s3"], CATALOGS["cloudflare-r2"], CATALOGS["minio"]
GIB = 2**30


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
        ([use("STANDARD_IA", downloaded_bytes=1)], "0.01"),
        ([use(delete=5_000_000)], "0"),
        ([], "0"),
    ],
)
def test_r2_rounds_the_month_up(usages: list[Usage], amount: str) -> None:
    assert month_price(R2, usages).amount == Decimal(amount)


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
    each = price(AWS, [use(list=100_000)]).amount
    assert each is not None
    assert per_month(each, 900) == Decimal("1440")
    assert per_month(each, 7) == Decimal("185142.85714286")


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
