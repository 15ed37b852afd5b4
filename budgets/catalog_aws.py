"""Amazon's public list of S3 prices: one JSON file per region, readable without credentials.

It holds prices of requests and retrieval, but of no traffic: what leaves the region is in a list of its own,
so a refresh keeps the egress rate that is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal, InvalidOperation

import msgspec

from budgets.catalog_file import FORMAT, FORMAT_VERSION, FileRate, PriceFile, Prices, malformed, verified
from budgets.pricing import ANY, CENT, Charge, Unit

HOST = "https://pricing.us-east-1.amazonaws.com"
PATH = "/offers/v1.0/aws/AmazonS3/current/{region}/index.json"
WRITES = (Charge.PUT, Charge.COPY)
READS = (Charge.GET, Charge.HEAD)
# Usage types carry the region's short name in front, but for us-east-1.
_USAGE = re.compile(r"(?:[A-Z]{2,4}[0-9]?-)?((?:Requests|Retrieval)-.+)")
_CLASSES = {
    "": "STANDARD",
    "INT-": "INTELLIGENT_TIERING",
    "SIA-": "STANDARD_IA",
    "ZIA-": "ONEZONE_IA",
    "GIR-": "GLACIER_IR",
    "GLACIER-": "GLACIER",
    "GDA-": "DEEP_ARCHIVE",
}
_RETRIEVALS = {"Retrieval-SIA": "STANDARD_IA", "Retrieval-ZIA": "ONEZONE_IA", "Retrieval-GIR": "GLACIER_IR"}


class Product(msgspec.Struct, frozen=True):
    sku: str
    attributes: dict[str, str]


class Dimension(msgspec.Struct, frozen=True, rename="camel"):
    unit: str
    price_per_unit: dict[str, str]
    begin_range: str = "0"


class Term(msgspec.Struct, frozen=True, rename="camel"):
    price_dimensions: dict[str, Dimension]


class Terms(msgspec.Struct, frozen=True):
    on_demand: dict[str, dict[str, Term]] = msgspec.field(name="OnDemand")


class Offer(msgspec.Struct, frozen=True, rename="camel"):
    offer_code: str
    version: str
    publication_date: datetime
    products: dict[str, Product]
    terms: Terms


def is_offer(content: bytes) -> bool:
    return b'"offerCode"' in content[:4096]


Egress = Callable[[str], tuple[Unit, Decimal] | None]


def read_offer(content: bytes, *, egress: Egress = lambda region: None) -> Prices:
    """The S3 prices of the one region in an offer file; `egress` knows what leaves a region. Raises Refused."""
    try:
        offer = msgspec.json.decode(content, type=Offer)
    except msgspec.DecodeError as error:
        raise malformed(str(error)) from None
    if offer.offer_code != "AmazonS3":
        raise malformed(f"offerCode is {offer.offer_code}, not AmazonS3")
    region = _region(offer)
    rates = list(_rates(offer))
    leaving = egress(region)
    if leaving is not None:
        rates.append(_rate(ANY, Charge.EGRESS, *leaving))
    found = PriceFile(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        provider="aws-s3",
        region=region,
        currency="USD",
        version=offer.version,
        valid_from=offer.publication_date,
        source="Amazon S3 price list",
        rates=rates,
    )
    return verified(found)


def _region(offer: Offer) -> str:
    """Of requests: traffic names the regions on both of its ends."""
    regions = {attributes.get("regionCode", "") for attributes in _requests(offer)}
    if len(regions) != 1:
        raise malformed("it must hold the requests of one region")
    return regions.pop()


def _requests(offer: Offer) -> Iterator[dict[str, str]]:
    for product in offer.products.values():
        if _USAGE.fullmatch(product.attributes.get("usagetype", "")):
            yield product.attributes


def _rates(offer: Offer) -> Iterator[FileRate]:
    """A usage type with several different prices stays unknown."""
    prices = _prices(offer)
    if "Requests-Tier1" not in prices or "Requests-Tier2" not in prices:
        raise malformed("it lacks the prices of Standard requests")
    for part, storage_class in _CLASSES.items():
        for tier, charges in (("Tier1", WRITES), ("Tier2", READS)):
            price = prices.get(f"Requests-{part}{tier}")
            if price is not None:
                yield from (_rate(storage_class, charge, Unit.THOUSAND, price * 1000) for charge in charges)
    for usage, storage_class in _RETRIEVALS.items():
        if usage in prices:
            yield _rate(storage_class, Charge.RETRIEVAL, Unit.GIB, prices[usage])
    for free in ("STANDARD", "INTELLIGENT_TIERING"):
        yield _rate(free, Charge.RETRIEVAL, Unit.GIB, Decimal(0))
    # A LIST costs the Standard rate whatever the class; a DELETE nothing. Neither has a line of its own.
    yield _rate(ANY, Charge.LIST, Unit.THOUSAND, prices["Requests-Tier1"] * 1000)
    yield _rate(ANY, Charge.DELETE, Unit.THOUSAND, Decimal(0))


def _prices(offer: Offer) -> dict[str, Decimal]:
    found: dict[str, set[Decimal]] = {}
    for product in offer.products.values():
        usage = _USAGE.fullmatch(product.attributes.get("usagetype", ""))
        if usage:
            found.setdefault(usage[1], set()).update(_first_tier(offer, product.sku))
    return {usage: prices.pop() for usage, prices in found.items() if len(prices) == 1}


def _first_tier(offer: Offer, sku: str) -> Iterator[Decimal]:
    for term in offer.terms.on_demand.get(sku, {}).values():
        for dimension in term.price_dimensions.values():
            if dimension.begin_range == "0" and "USD" in dimension.price_per_unit:
                yield _decimal(dimension.price_per_unit["USD"])


def _decimal(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise malformed(f"{text!r} is no price") from None
    if not value.is_finite() or value < 0:
        raise malformed(f"{text!r} is no price")
    return value


def _rate(storage_class: str, charge: Charge, unit: Unit, price: Decimal) -> FileRate:
    # Longer fractions are kept, so that they are refused rather than rounded.
    exact = price.quantize(CENT) if price == price.quantize(CENT) else price
    return FileRate(storage_class=storage_class, operation=charge, unit=unit, price=f"{exact:f}")


def price_list_path(region: str) -> str:
    return PATH.format(region=region)
