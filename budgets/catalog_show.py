"""Price lists for people and scripts: what holds, what is missing, what was imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from budgets.catalog import Listed, listed
from budgets.catalog_file import LARGEST_FILE, PROVIDERS, Prices
from budgets.catalog_refresh import regions_in_use
from budgets.models import PriceList
from budgets.price_remedies import READABLE
from budgets.pricing import ANY, MINIMUMS, Catalog, Charge, Unit, money
from vaulthalla.console import table
from vaulthalla.errors import Refused
from vaulthalla.units import format_duration

DEFAULT_REGION = "us-east-1"
UNIT_NAMES = {Unit.GB: "GB", Unit.GIB: "GiB", Unit.GB_MONTH: "GB and month", Unit.GIB_MONTH: "GiB and month"}


def read_file(path: str) -> bytes:
    """Raises Refused for what cannot be read or is far too large."""
    try:
        if Path(path).stat().st_size > LARGEST_FILE:
            raise Refused(f"{path} is too large for a price list.", remedy="Give one region's list.")
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}.", code="file_unreadable", remedy="Name a readable file.") from None


def wanted(provider: str | None, region: str | None) -> list[tuple[str, str]]:
    """The lists to refresh. Raises Refused for a provider nobody knows."""
    check_provider(provider)
    if region:
        return [(provider or READABLE[0], region)]
    pairs = [pair for pair in regions_in_use() if provider in (None, pair[0])]
    name = provider or READABLE[0]
    return pairs or [(name, DEFAULT_REGION if name in READABLE else ANY)]


def check_provider(provider: str | None) -> None:
    if provider is not None and provider not in PROVIDERS:
        accepted = ", ".join(PROVIDERS)
        raise Refused(f"--provider must be one of {accepted}.", code="invalid_value", remedy="Name one of them.")


def current(*, provider: str | None = None, region: str | None = None) -> list[dict[str, Any]]:
    """Every list that holds now. Raises Refused for a provider nobody knows."""
    check_provider(provider)
    return [_list_json(found) for found in _current() if _fits(found.catalog, provider, region)]


def current_text(value: dict[str, Any]) -> str:
    return (
        "\n\n".join(_list_text(one) for one in value["lists"]) or "There is no such price list: its prices are unknown."
    )


def imported(prices: Prices, *, stored: bool) -> dict[str, Any]:
    catalog = prices.catalog
    return {
        "provider": catalog.provider,
        "region": catalog.region,
        "version": catalog.version,
        "valid_from": prices.valid_from,
        "rates": len(catalog.rates),
        "stored": stored,
    }


def imported_text(value: dict[str, Any]) -> str:
    verb = "Stored" if value["stored"] else "Already stored, and seen again"
    return f"{verb}: version {value['version']} of {value['provider']} {value['region']}, {value['rates']} prices."


def verified_file(prices: Prices) -> dict[str, Any]:
    catalog = prices.catalog
    one = {"provider": catalog.provider, "region": catalog.region, "version": catalog.version}
    return {"ok": True, "lists": [{**one, "stale": False, "missing": missing(catalog)}]}


def verified_lists() -> dict[str, Any]:
    """The lists that price the vaults there are; a bucket without one is told, since its prices are unknown."""
    lists = []
    for provider, region in regions_in_use():
        found = listed(provider, region)
        one = {"provider": provider, "region": region, "version": found.catalog.version if found else None}
        lacks = missing(found.catalog) if found else ["every price"]
        lists.append({**one, "stale": found.stale if found else False, "missing": lacks})
    return {"ok": not any(one["stale"] for one in lists), "lists": lists}


def verified_text(value: dict[str, Any]) -> str:
    rows = [
        (one["provider"], one["region"], one["version"], "stale" if one["stale"] else "ok", "; ".join(one["missing"]))
        for one in value["lists"]
    ]
    return table(("PROVIDER", "REGION", "VERSION", "STATE", "UNKNOWN"), rows)


def missing(catalog: Catalog) -> list[str]:
    """Charges without a price, of every class that the list names: of storage, where some of it may be cut short."""
    classes = sorted({rate.storage_class for rate in catalog.rates} - {ANY}) or ["STANDARD"]
    return [
        f"{charge.value} of {name}"
        for name in classes
        for charge in Charge
        if charge is not Charge.STORAGE or (catalog.provider, name) in MINIMUMS
        if catalog.rate(name, charge) is None
    ]


def _current() -> list[Listed]:
    pairs = PriceList.objects.order_by("provider", "region").values_list("provider", "region").distinct()
    found = (listed(provider, region) for provider, region in pairs)
    return [one for one in found if one is not None]


def _fits(catalog: Catalog, provider: str | None, region: str | None) -> bool:
    return provider in (None, catalog.provider) and (region is None or catalog.region in (region, ANY))


def _list_json(found: Listed) -> dict[str, Any]:
    catalog = found.catalog
    rates = [
        {"storage_class": r.storage_class, "operation": r.charge.value, "unit": r.unit.value, "price": money(r.price)}
        for r in catalog.rates
    ]
    return {
        "provider": catalog.provider,
        "region": catalog.region,
        "currency": catalog.currency,
        "source": found.source,
        **found.as_json(),
        "rates": rates,
    }


def _list_text(value: dict[str, Any]) -> str:
    age = f"{format_duration(value['age_seconds'])} old" + (", stale" if value["stale"] else "")
    head = f"{value['provider']} {value['region']}: {value['version']} ({value['source']}, {age})"
    rows = [(r["storage_class"], r["operation"], r["price"], _per(r, value["currency"])) for r in value["rates"]]
    return f"{head}\n{table(('CLASS', 'FOR', 'PRICE', 'UNIT'), rows)}"


def _per(rate: dict[str, Any], currency: str) -> str:
    unit = Unit(rate["unit"])
    if unit in UNIT_NAMES:
        return f"{currency} per {UNIT_NAMES[unit]}"
    return f"{currency} per {rate['unit'].partition('_')[0]}"
