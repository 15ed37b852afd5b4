"""Price lists from files: ours, and Amazon's of one region."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from budgets.catalog_aws import is_offer, read_offer
from budgets.catalog_file import read_prices
from budgets.pricing import Catalog, Charge, Unit
from vaulthalla.errors import Refused

EGRESS = {"storage_class": "*", "operation": "egress", "unit": "gb", "price": "1"}
LIST: dict[str, Any] = {
    "format": "vaulthalla-prices",
    "format_version": 1,
    "provider": "wasabi",
    "region": "us-east-1",
    "currency": "eur",
    "version": "2026-11",
    "valid_from": "2026-11-01T00:00:00Z",
    "source": "a contract",
    "rates": [EGRESS],
}
USAGES = {
    "Requests-Tier1": "0.0000054000",
    "Requests-Tier2": "0.0000004300",
    "Requests-SIA-Tier1": "0.0000100000",
    "Requests-SIA-Tier2": "0.0000010000",
    "Retrieval-SIA": "0.0100000000",
    "TimedStorage-ByteHrs": "0.0245000000",
}


def offer(usages: dict[str, str], **change: Any) -> bytes:
    """A price list of eu-central-1 as Amazon writes it, of one product per usage type and `@` operation."""
    products = {
        usage: {
            "sku": usage,
            "productFamily": "API Request",
            "attributes": {
                "usagetype": f"EUC1-{usage.partition('@')[0]}",
                "operation": usage.partition("@")[2],
                "regionCode": "eu-central-1",
            },
        }
        for usage in usages
    }
    terms = {
        usage: {f"{usage}.T": {"priceDimensions": {"one": _dimension(price)}, "sku": usage}}
        for usage, price in usages.items()
    }
    whole = {
        "formatVersion": "v1.0",
        "offerCode": "AmazonS3",
        "version": "20261101000000",
        "publicationDate": "2026-11-01T00:00:00Z",
        "products": products,
        "terms": {"OnDemand": terms},
    }
    return json.dumps({**whole, **change}).encode()


def _dimension(price: str) -> dict[str, Any]:
    return {"unit": "Requests", "beginRange": "0", "endRange": "Inf", "pricePerUnit": {"USD": price}}


def priced(catalog: Catalog, storage_class: str, charge: Charge) -> Decimal | None:
    rate = catalog.rate(storage_class, charge)
    return rate.price if rate else None


def test_our_format() -> None:
    prices = read_prices(json.dumps(LIST).encode())
    assert (prices.catalog.currency, prices.catalog.version, prices.source) == ("EUR", "2026-11", "a contract")
    assert priced(prices.catalog, "STANDARD", Charge.EGRESS) == Decimal(1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rates": [{**EGRESS, "price": "-1"}]}, "rates[0].price"),
        ({"rates": [{**EGRESS, "price": "1e-3"}]}, "rates[0].price"),
        ({"rates": [{**EGRESS, "price": "NaN"}]}, "rates[0].price"),
        ({"rates": [{**EGRESS, "price": ""}]}, "rates[0].price"),
        ({"rates": [{**EGRESS, "price": "0.123456789"}]}, "rates[0].price"),
        ({"rates": [{**EGRESS, "price": 0.5}]}, "$.rates[0].price"),
        ({"rates": [EGRESS, {**EGRESS, "unit": "1000_requests"}]}, "rates[1].unit"),
        ({"rates": [{**EGRESS, "unit": "gb_month"}]}, "rates[0].unit"),
        ({"rates": [{**EGRESS, "operation": "storage"}]}, "rates[0].unit"),
        ({"rates": [{**EGRESS, "operation": "storage", "unit": "1000_requests"}]}, "rates[0].unit"),
        (
            {"rates": [{**EGRESS, "operation": "put", "unit": "gib_month"}]},
            "rates[0].unit of put must be 1000_requests or 1000000_requests, not 'gib_month'",
        ),
        ({"rates": [{**EGRESS, "unit": "box"}]}, "rates[0].unit of egress must be gb or gib"),
        ({"rates": [{**EGRESS, "operation": "stat"}]}, "rates[0].operation 'stat' is none of list, head, get, put"),
        ({"rates": [{**EGRESS, "storage_class": ""}]}, "rates[0].storage_class"),
        ({"rates": [EGRESS, EGRESS]}, "more than once"),
        ({"rates": []}, "rates"),
        ({"provider": "nobody"}, "provider"),
        ({"currency": "dollars!"}, "currency"),
        ({"valid_from": "yesterday"}, "$.valid_from"),
        ({"valid_from": "2026-11-01T00:00:00"}, "valid_from"),
        ({"valid_from": "9999-12-31T23:59:59-12:00"}, "valid_from"),
        ({"valid_from": "0001-01-01T00:00:00+12:00"}, "valid_from"),
        ({"format": "other"}, "format"),
        ({"format_version": 2}, "format_version"),
        ({"version": ""}, "version"),
        ({"more": 1}, "more"),
    ],
)
def test_malformed_lists_name_the_field(change: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused) as refused:
        read_prices(json.dumps({**LIST, **change}).encode())
    assert named in refused.value.message
    assert refused.value.exit_code == 2


def test_amazons_list() -> None:
    content = offer(USAGES)
    assert is_offer(content)
    assert not is_offer(json.dumps(LIST).encode())
    catalog = read_offer(content, egress=lambda region: (Unit.GIB, Decimal("0.09"))).catalog
    assert (catalog.provider, catalog.region, catalog.version) == ("aws-s3", "eu-central-1", "20261101000000-2")
    assert priced(catalog, "STANDARD", Charge.PUT) == Decimal("0.0054")
    assert priced(catalog, "STANDARD_IA", Charge.GET) == Decimal("0.001")
    assert priced(catalog, "STANDARD_IA", Charge.LIST) == Decimal("0.0054")
    assert priced(catalog, "STANDARD_IA", Charge.RETRIEVAL) == Decimal("0.01")
    assert priced(catalog, "STANDARD_IA", Charge.DELETE) == 0
    assert priced(catalog, "STANDARD", Charge.STORAGE) == Decimal("0.0245")
    assert priced(catalog, "STANDARD_IA", Charge.STORAGE) is None
    assert priced(catalog, "STANDARD", Charge.EGRESS) == Decimal("0.09")
    # What the list lacks is unknown.
    assert priced(catalog, "GLACIER_IR", Charge.PUT) is None
    assert priced(read_offer(content).catalog, "STANDARD", Charge.EGRESS) is None


@pytest.mark.parametrize(
    ("others", "price"),
    [
        ({}, "0.01"),
        # The same price under several operations is one price.
        ({"Requests-SIA-Tier1@Restore": "0.00001"}, "0.01"),
        # What names no operation is meant for all that are not named.
        ({"Requests-SIA-Tier1@Restore": "0.00002"}, "0.01"),
    ],
)
def test_a_usage_with_operations(others: dict[str, str], price: str) -> None:
    catalog = read_offer(offer({**USAGES, **others})).catalog
    assert priced(catalog, "STANDARD_IA", Charge.PUT) == Decimal(price)


def test_of_a_usage_that_only_operations_tell_a_put_counts() -> None:
    only = {"Requests-GLACIER-Tier1@PutObject": "0.00003", "Requests-GLACIER-Tier1@S3-Transition": "0.00005"}
    assert priced(read_offer(offer({**USAGES, **only})).catalog, "GLACIER", Charge.PUT) == Decimal("0.03")
    unclear = {"Requests-GLACIER-Tier1@A": "0.00003", "Requests-GLACIER-Tier1@B": "0.00005"}
    assert priced(read_offer(offer({**USAGES, **unclear})).catalog, "GLACIER", Charge.PUT) is None


def test_storage_of_other_products_is_another() -> None:
    catalog = read_offer(offer({**USAGES, "Tables-TimedStorage-ByteHrs": "9"})).catalog
    assert priced(catalog, "STANDARD", Charge.STORAGE) == Decimal("0.0245")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (offer({}), "of one region"),
        (offer({"Requests-Tier1": "0.000005"}), "Standard requests"),
        (offer({**USAGES, "Requests-Tier1": "-1"}), "no price"),
        (offer({**USAGES, "Requests-Tier1": "NaN"}), "no price"),
        (offer({**USAGES, "Requests-Tier1": "free"}), "'Requests-Tier1', 'free' is no price"),
        *(
            (offer({**USAGES, "Requests-Tier2": price}), "'Requests-Tier2', .* is no price")
            for price in ("1e30", "1E+400", "1e999999999", "1e-999999999", "1e99999999999999999999", "1" * 5000)
        ),
        (offer(USAGES, publicationDate="9999-12-31T23:59:59Z"), "valid_from"),
        (offer(USAGES).replace(b"eu-central-1", b"\xff"), "utf-8"),
        (offer(USAGES, notes=[]).replace(b"[]", b"[" * 10**5 + b"]" * 10**5), "recursion"),
        (offer({**USAGES, "Requests-Tier1": "0.000000000001"}), "8 decimals"),
        (offer(USAGES, offerCode="AmazonEC2"), "AmazonEC2"),
        (offer(USAGES, terms={}), "OnDemand"),
        (b'{"offerCode": "AmazonS3"', "malformed"),
    ],
)
def test_a_bad_list_of_amazons(content: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why):
        read_offer(content)
