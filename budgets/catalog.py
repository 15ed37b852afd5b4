"""The price lists in the database: which one holds, how old it is, and how new ones get in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.db.models.functions import Now

from budgets.catalog_builtin import BUILTIN, FREE, builtin
from budgets.catalog_file import Prices
from budgets.models import PriceList, PriceRate
from budgets.pricing import ANY, Catalog, Charge, Rate, Unit
from vaulthalla.errors import Refused
from vaulthalla.stores.profiles import profile_of, region_of
from vaulthalla.vaults.models import ApiKey, Vault

# Providers change their prices about once a year.
STALE_AFTER = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The list that holds, and how long ago it was seen to hold."""

    catalog: Catalog
    source: str
    age: timedelta

    @property
    def stale(self) -> bool:
        """What costs nothing stays so."""
        return self.catalog.provider not in FREE and self.age > STALE_AFTER

    def as_json(self) -> dict[str, Any]:
        return {
            "version": self.catalog.version,
            "age_seconds": int(self.age.total_seconds()),
            "stale": self.stale,
        }


def price_key(vault: Vault) -> tuple[str, str]:
    """Provider and region a vault's bucket is billed by."""
    if vault.api_key is None:
        raise AssertionError("a bucket without a key")
    return price_key_of(vault.api_key)


def price_key_of(key: ApiKey) -> tuple[str, str]:
    return profile_of(key.provider).price_key, region_of(key.provider, key.endpoint, key.region)


def listed(provider: str, region: str, *, before: datetime | None = None) -> Listed | None:
    """The newest of the lists that are valid by now: of the region, else of all. None: the prices are unknown.

    `before`: as it was until then. A built-in list, whose date is that of this software, only stands in where there
    is no other.
    """
    lists = PriceList.objects.filter(provider=provider, valid_from__lte=Now()).annotate(
        now=Now(), is_builtin=ExpressionWrapper(Q(version__startswith=BUILTIN), output_field=BooleanField())
    )
    if before is not None:
        lists = lists.filter(valid_from__lt=before)
    for where in (region, ANY):
        found = lists.filter(region=where).order_by("is_builtin", "-valid_from", "-checked_at", "-id").first()
        if found is not None:
            age = max(timedelta(0), found.now - found.checked_at)
            return Listed(catalog=catalog_of(found), source=found.source, age=age)
    return None


def store(prices: Prices, *, checked_at: datetime | None = None) -> bool:
    """Adds a version; False when it was there already, which renews its age. Raises Refused if it differs."""
    catalog = prices.catalog
    checked = checked_at or Now()
    with transaction.atomic():
        row, added = PriceList.objects.get_or_create(
            provider=catalog.provider,
            region=catalog.region,
            version=catalog.version,
            defaults={
                "currency": catalog.currency,
                "source": prices.source,
                "valid_from": prices.valid_from,
                "checked_at": checked,
            },
        )
        if added:
            PriceRate.objects.bulk_create(_rows(row, catalog))
        elif set(catalog_of(row).rates) != set(catalog.rates) or row.currency != catalog.currency:
            raise Refused(
                f"Version {catalog.version} of {catalog.provider} {catalog.region} is stored with other prices.",
                code="price_list_conflict",
                remedy="Give the new list a version of its own.",
            )
        else:
            PriceList.objects.filter(pk=row.pk).update(checked_at=checked)
    return added


def seed() -> None:
    """The built-in lists, once; their age counts from their date. Nothing while the tables are migrated away."""
    if PriceRate._meta.db_table not in connection.introspection.table_names():
        return
    for prices in builtin():
        catalog = prices.catalog
        known = PriceList.objects.filter(
            provider=catalog.provider, region=catalog.region, version=catalog.version
        ).exists()
        if not known:
            store(prices, checked_at=prices.valid_from)


def catalog_of(row: PriceList) -> Catalog:
    rates = tuple(
        Rate(storage_class=rate.storage_class, charge=Charge(rate.charge), unit=Unit(rate.unit), price=rate.price)
        for rate in row.rates.all()
    )
    return Catalog(provider=row.provider, region=row.region, currency=row.currency, version=row.version, rates=rates)


def _rows(row: PriceList, catalog: Catalog) -> list[PriceRate]:
    return [
        PriceRate(
            price_list=row,
            storage_class=rate.storage_class,
            charge=rate.charge.value,
            unit=rate.unit.value,
            price=rate.price,
        )
        for rate in catalog.rates
    ]
