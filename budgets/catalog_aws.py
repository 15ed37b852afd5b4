"""Amazon's public list of S3 prices: one JSON file per region, readable without credentials.

It holds prices of requests, retrieval and storage, but of no traffic: what leaves the region is in a list of its own,
so a refresh keeps the egress rate that is known.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal, InvalidOperation

import msgspec

from budgets.catalog_file import FORMAT, FORMAT_VERSION, UNDECODABLE, FileRate, PriceFile, Prices, malformed, verified
from budgets.pricing import ANY, CENT, Charge, Unit

HOST = "https://pricing.us-east-1.amazonaws.com"
PATH = "/offers/v1.0/aws/AmazonS3/current/{region}/index.json"
# Part of a list's version: what is read of the same offer in another way is another list.
READER = 2
WRITES = (Charge.PUT, Charge.COPY)
READS = (Charge.GET, Charge.HEAD)
# Of one request or byte. What is within these is exact, also a thousand times; Amazon writes ten decimals.
MOST, DECIMALS = 10**8, 20
# Usage types carry the region's short name in front, but for us-east-1.
_USAGE = re.compile(r"(?:[A-Z]{2,4}[0-9]?-)?((?:Requests|Retrieval|TimedStorage)-.+)")
_CLASSES = {
    "": "STANDARD",
    "INT-": "INTELLIGENT_TIERING",
    "SIA-": "STANDARD_IA",
    "ZIA-": "ONEZONE_IA",
    "GIR-": "GLACIER_IR",
    "GLACIER-": "GLACIER",
    "GDA-": "DEEP_ARCHIVE",
}
_STORAGE = {
    "TimedStorage-ByteHrs": "STANDARD",
    "TimedStorage-INT-FA-ByteHrs": "INTELLIGENT_TIERING",
    "TimedStorage-SIA-ByteHrs": "STANDARD_IA",
    "TimedStorage-ZIA-ByteHrs": "ONEZONE_IA",
    "TimedStorage-GIR-ByteHrs": "GLACIER_IR",
    "TimedStorage-GlacierByteHrs": "GLACIER",
    "TimedStorage-GDA-ByteHrs": "DEEP_ARCHIVE",
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
    except UNDECODABLE as error:
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
        version=f"{offer.version}-{READER}",
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
        usage = _USAGE.fullmatch(product.attributes.get("usagetype", ""))
        if usage and usage[1].startswith("Requests-"):
            yield product.attributes


def _rates(offer: Offer) -> Iterator[FileRate]:
    """What the list does not tell, or tells in several ways, stays unknown."""
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
    for usage, storage_class in _STORAGE.items():
        if usage in prices:
            yield _rate(storage_class, Charge.STORAGE, Unit.GIB_MONTH, prices[usage])
    for free in ("STANDARD", "INTELLIGENT_TIERING"):
        yield _rate(free, Charge.RETRIEVAL, Unit.GIB, Decimal(0))
    # A LIST costs the Standard rate whatever the class; a DELETE nothing. Neither has a line of its own.
    yield _rate(ANY, Charge.LIST, Unit.THOUSAND, prices["Requests-Tier1"] * 1000)
    yield _rate(ANY, Charge.DELETE, Unit.THOUSAND, Decimal(0))


def _prices(offer: Offer) -> dict[str, Decimal]:
    """One price a usage type. Where several operations share it, what names none, else what a PUT costs."""
    found: defaultdict[str, defaultdict[str, set[Decimal]]] = defaultdict(lambda: defaultdict(set))
    for product in offer.products.values():
        usage = _USAGE.fullmatch(product.attributes.get("usagetype", ""))
        if usage:
            operation = product.attributes.get("operation", "")
            found[usage[1]][operation].update(_first_tier(offer, product.sku))
    known = {usage: _one(prices) for usage, prices in found.items()}
    return {usage: price for usage, price in known.items() if price is not None}


def _one(prices: dict[str, set[Decimal]]) -> Decimal | None:
    wanted = next((prices[operation] for operation in ("", "PutObject") if prices.get(operation)), None)
    every = wanted or set().union(*prices.values())
    return min(every) if len(every) == 1 else None


def _first_tier(offer: Offer, sku: str) -> Iterator[Decimal]:
    for term in offer.terms.on_demand.get(sku, {}).values():
        for dimension in term.price_dimensions.values():
            if dimension.begin_range == "0" and "USD" in dimension.price_per_unit:
                yield _decimal(dimension.price_per_unit["USD"], sku)


def _decimal(text: str, sku: str) -> Decimal:
    refused = malformed(f"of the product {sku[:40]!r}, {text[:40]!r} is no price")
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise refused from None
    if not value.is_finite() or not 0 <= value < MOST or int(value.as_tuple().exponent) < -DECIMALS:
        raise refused
    return value


def _rate(storage_class: str, charge: Charge, unit: Unit, price: Decimal) -> FileRate:
    # Longer fractions are kept, so that they are refused rather than rounded.
    exact = price.quantize(CENT) if price == price.quantize(CENT) else price
    return FileRate(storage_class=storage_class, operation=charge, unit=unit, price=f"{exact:f}")


def price_list_path(region: str) -> str:
    return PATH.format(region=region)
