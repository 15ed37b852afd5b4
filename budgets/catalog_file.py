"""A price list as a file: how it is read, and what is refused before anything is stored.

    {"format": "vaulthalla-prices", "format_version": 1, "provider": "wasabi", "region": "*", "currency": "USD",
     "version": "2026-11", "valid_from": "2026-11-01T00:00:00Z", "source": "contract 4711",
     "rates": [{"storage_class": "STANDARD", "operation": "put", "unit": "1000_requests", "price": "0.005"}]}

Region and storage class may be "*": any. The provider's own list of S3 prices (AWS) is read as it is.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import msgspec

from budgets.amounts import amount, currency
from budgets.pricing import BYTE_CHARGES, Catalog, Charge, Rate, Unit
from vaulthalla.errors import Refused
from vaulthalla.stores.profiles import PROFILES

FORMAT = "vaulthalla-prices"
FORMAT_VERSION = 1
LARGEST_FILE = 256 * 2**20
# What the decoder raises for bytes that are no such JSON; it lets pass what is not UTF-8 or nested too deeply.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
BYTE_UNITS = frozenset({Unit.GB, Unit.GIB})
STORAGE_UNITS = frozenset({Unit.GB_MONTH, Unit.GIB_MONTH})
REQUEST_UNITS = frozenset(Unit) - BYTE_UNITS - STORAGE_UNITS
PROVIDERS = sorted(profile.price_key for profile in PROFILES.values())


class FileRate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    storage_class: str
    operation: str
    unit: str
    price: str


class PriceFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    format_version: int
    provider: str
    region: str
    currency: str
    version: str
    valid_from: datetime
    source: str
    rates: list[FileRate]


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """A verified list: rates, and where and since when they hold."""

    catalog: Catalog
    valid_from: datetime
    source: str


def read_prices(content: bytes) -> Prices:
    """A list in our format. Raises Refused naming the field."""
    try:
        found = msgspec.json.decode(content, type=PriceFile)
    except UNDECODABLE as error:
        raise malformed(str(error)) from None
    return verified(found)


def verified(found: PriceFile) -> Prices:
    """Raises Refused for values that fit their types but not each other."""
    if (found.format, found.format_version) != (FORMAT, FORMAT_VERSION):
        raise malformed(f"format must be {FORMAT!r}, format_version {FORMAT_VERSION}")
    if found.provider not in PROVIDERS:
        raise malformed(f"provider must be one of {', '.join(PROVIDERS)}")
    if found.valid_from.tzinfo is None:
        raise malformed("valid_from must name its time zone, like 2026-11-01T00:00:00Z")
    # In every time zone a date that the database knows.
    if not 2000 <= found.valid_from.year < 9999:
        raise malformed("valid_from must be of the years 2000 to 9998")
    _check_texts(found)
    rates = tuple(_rate(position, rate) for position, rate in enumerate(found.rates))
    _check_rates(rates)
    catalog = Catalog(
        provider=found.provider,
        region=found.region,
        currency=currency(found.currency, option="currency"),
        version=found.version,
        rates=rates,
    )
    return Prices(catalog=catalog, valid_from=found.valid_from, source=found.source)


def malformed(why: str) -> Refused:
    return Refused(
        f"The price list is malformed: {why}.",
        code="price_list_malformed",
        remedy="Nothing was stored. docs/cost-control.md shows the format.",
    )


def _check_texts(found: PriceFile) -> None:
    for name, text in (("region", found.region), ("version", found.version), ("source", found.source)):
        if not text or len(text) > 200 or not text.isprintable():
            raise malformed(f"{name} must be 1 to 200 printable characters")


def _rate(position: int, rate: FileRate) -> Rate:
    name = f"rates[{position}]"
    if rate.operation not in list(Charge):
        raise malformed(f"{name}.operation {rate.operation[:40]!r} is none of {', '.join(Charge)}")
    charge = Charge(rate.operation)
    accepted = [unit for unit in Unit if unit in _units(charge)]
    if rate.unit not in accepted:
        raise malformed(f"{name}.unit of {charge.value} must be {' or '.join(accepted)}, not {rate.unit[:40]!r}")
    if not rate.storage_class or len(rate.storage_class) > 64 or not rate.storage_class.isprintable():
        raise malformed(f"{name}.storage_class must be 1 to 64 printable characters")
    price = amount(rate.price, option=f"{name}.price")
    return Rate(storage_class=rate.storage_class, charge=charge, unit=Unit(rate.unit), price=price)


def _units(charge: Charge) -> frozenset[Unit]:
    if charge is Charge.STORAGE:
        return STORAGE_UNITS
    return BYTE_UNITS if charge in BYTE_CHARGES else REQUEST_UNITS


def _check_rates(rates: tuple[Rate, ...]) -> None:
    if not rates:
        raise malformed("rates must not be empty")
    twice = [pair for pair, times in Counter((rate.storage_class, rate.charge) for rate in rates).items() if times > 1]
    if twice:
        raise malformed(f"rates has {twice[0][1].value} of {twice[0][0]} more than once")
