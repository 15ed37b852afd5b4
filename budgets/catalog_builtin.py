"""The prices that every installation starts with, as of their date. What is not listed is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

from budgets.catalog_file import Prices
from budgets.pricing import ANY, BYTE_CHARGES, Catalog, Charge, Rate, Unit

SNAPSHOT_OF = datetime(2026, 11, 27, tzinfo=UTC)
BUILTIN = "builtin-"
VERSION = f"{BUILTIN}2026-11-27"
WRITES = (Charge.PUT, Charge.COPY)
READS = (Charge.GET, Charge.HEAD)
# Who runs these runs them himself: nobody bills a request. Every other provider without a list is unknown.
FREE = ("minio", "ceph")

# us-east-1, USD per 1 000: writes, reads, per GB retrieved (None: unknown), and per GB stored for a month.
AWS_US_EAST_1 = (
    ("STANDARD", "0.005", "0.0004", "0", "0.023"),
    ("STANDARD_IA", "0.01", "0.001", "0.01", "0.0125"),
    ("ONEZONE_IA", "0.01", "0.001", "0.01", "0.01"),
    ("GLACIER_IR", "0.02", "0.01", "0.03", "0.004"),
    ("GLACIER", "0.03", "0.0004", None, "0.0036"),
    ("DEEP_ARCHIVE", "0.05", "0.0004", None, "0.00099"),
)
# USD per million: class A, class B, per GB retrieved, and per GB stored for a month.
R2 = (("STANDARD", "4.50", "0.36", "0", "0.015"), ("STANDARD_IA", "9.00", "0.90", "0.01", "0.01"))
# What the same providers count in.
BINARY, DECIMAL = (Unit.GIB, Unit.GIB_MONTH), (Unit.GB, Unit.GB_MONTH)


def builtin() -> list[Prices]:
    aws = [
        *_classes(AWS_US_EAST_1, requests=Unit.THOUSAND, sizes=BINARY),
        _rate(ANY, Charge.LIST, Unit.THOUSAND, "0.005"),
        _rate(ANY, Charge.DELETE, Unit.THOUSAND, "0"),
        # The first 10 TB a month; more costs less.
        _rate(ANY, Charge.EGRESS, Unit.GIB, "0.09"),
    ]
    r2 = [
        *_classes(R2, requests=Unit.MILLION, sizes=DECIMAL),
        _rate(ANY, Charge.LIST, Unit.MILLION, "4.50"),
        _rate(ANY, Charge.DELETE, Unit.MILLION, "0"),
        _rate(ANY, Charge.EGRESS, Unit.GB, "0"),
    ]
    return [
        _prices("aws-s3", "us-east-1", aws, "Amazon S3 pricing page"),
        _prices("cloudflare-r2", ANY, r2, "Cloudflare R2 pricing page"),
        *(_prices(provider, ANY, list(_nothing()), "run by the operator: nothing is billed") for provider in FREE),
    ]


def _prices(provider: str, region: str, rates: list[Rate], source: str) -> Prices:
    catalog = Catalog(provider=provider, region=region, currency="USD", version=VERSION, rates=tuple(rates))
    return Prices(catalog=catalog, valid_from=SNAPSHOT_OF, source=source)


def _classes(
    table: Iterable[tuple[str, str, str, str | None, str]], *, requests: Unit, sizes: tuple[Unit, Unit]
) -> Iterable[Rate]:
    size, size_month = sizes
    for storage_class, write, read, retrieval, storage in table:
        yield from (_rate(storage_class, charge, requests, write) for charge in WRITES)
        yield from (_rate(storage_class, charge, requests, read) for charge in READS)
        if retrieval is not None:
            yield _rate(storage_class, Charge.RETRIEVAL, size, retrieval)
        yield _rate(storage_class, Charge.STORAGE, size_month, storage)


def _nothing() -> Iterable[Rate]:
    units = {**dict.fromkeys(BYTE_CHARGES, Unit.GB), Charge.STORAGE: Unit.GB_MONTH}
    for charge in Charge:
        yield _rate(ANY, charge, units.get(charge, Unit.THOUSAND), "0")


def _rate(storage_class: str, charge: Charge, unit: Unit, price: str) -> Rate:
    return Rate(storage_class=storage_class, charge=charge, unit=unit, price=Decimal(price))
