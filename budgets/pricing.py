"""What requests and bytes cost, from a catalog value: exact decimals, no database, no clock.

Prices are of requests and of traffic: storage at rest, early deletion and free tiers are not in them.
What the catalog does not list is unknown, never free; an amount with an unknown part is no amount.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_HALF_UP, Context, Decimal
from enum import StrEnum

from vaulthalla.requests import RequestClass

# Enough digits that a sum of products of 63-bit counts and 8-decimal prices is exact before it is rounded.
EXACT = Context(prec=60, rounding=ROUND_HALF_UP)
CENT = Decimal("0.00000001")
ANY = "*"
# The month that recurring costs are told for.
MONTH_SECONDS = 30 * 86_400


class Charge(StrEnum):
    """What a provider charges for: each class of requests, bytes leaving it, and bytes read from a colder class."""

    LIST = "list"
    HEAD = "head"
    GET = "get"
    PUT = "put"
    COPY = "copy"
    DELETE = "delete"
    EGRESS = "egress"
    RETRIEVAL = "retrieval"


class Unit(StrEnum):
    """What one price is for."""

    THOUSAND = "1000_requests"
    MILLION = "1000000_requests"
    GB = "gb"
    GIB = "gib"


SIZES = {Unit.THOUSAND: 1_000, Unit.MILLION: 1_000_000, Unit.GB: 10**9, Unit.GIB: 2**30}
BYTE_CHARGES = frozenset({Charge.EGRESS, Charge.RETRIEVAL})
# R2 counts these as class A; GET and HEAD are class B.
CLASS_A = (Charge.LIST, Charge.PUT, Charge.COPY)
CLASS_B = (Charge.HEAD, Charge.GET)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One price. `storage_class` "*" holds for every class that has no rate of its own."""

    storage_class: str
    charge: Charge
    unit: Unit
    price: Decimal

    def of(self, quantity: int) -> Decimal:
        return EXACT.divide(EXACT.multiply(self.price, Decimal(quantity)), Decimal(SIZES[self.unit]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The rates of one provider in one region ("*": in all of them)."""

    provider: str
    region: str
    currency: str
    version: str
    rates: tuple[Rate, ...]

    def rate(self, storage_class: str, charge: Charge) -> Rate | None:
        """A LIST costs the same whatever the class of the objects."""
        wanted = ANY if charge is Charge.LIST else storage_class
        found = {rate.storage_class: rate for rate in self.rates if rate.charge is charge}
        return found.get(wanted) or found.get(ANY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Requests and downloaded bytes on objects of one storage class, and bytes that a server-side copy reads."""

    storage_class: str
    requests: Mapping[RequestClass, int]
    copied_bytes: int = 0

    def quantities(self) -> Iterable[tuple[Charge, int]]:
        """A downloaded byte is charged as leaving the provider, and as retrieved where the class has a fee.

        A copied byte does not leave, but is retrieved.
        """
        downloaded = self.requests.get(RequestClass.DOWNLOAD_BYTES, 0)
        for request_class in RequestClass:
            if request_class is not RequestClass.DOWNLOAD_BYTES:
                yield Charge(request_class.value), self.requests.get(request_class, 0)
        yield Charge.EGRESS, downloaded
        yield Charge.RETRIEVAL, downloaded + self.copied_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Eight decimals. `amount` is None when a part of it is unknown; `unknowns` say which."""

    amount: Decimal | None
    unknowns: tuple[str, ...] = field(default=())


def price(catalog: Catalog, usages: Iterable[Usage]) -> Price:
    """The marginal price of what was used: no free tier, rounded once, to eight decimals."""
    total, unknowns = Decimal(0), set()
    for usage in usages:
        for charge, quantity in usage.quantities():
            rate = catalog.rate(usage.storage_class, charge)
            if quantity > 0 and rate is None:
                unknowns.add(f"{catalog.provider}/{catalog.region}: {charge.value} of {usage.storage_class}")
            elif quantity > 0 and rate is not None:
                total = EXACT.add(total, rate.of(quantity))
    if unknowns:
        return Price(amount=None, unknowns=tuple(sorted(unknowns)))
    return Price(amount=rounded(total))


def unit_price(catalog: Catalog, storage_classes: Iterable[str], request_class: RequestClass) -> Decimal | None:
    """One request, or one byte, in the dearest of some storage classes, unrounded; None when any is unknown."""
    charges = (Charge.EGRESS, Charge.RETRIEVAL)
    if request_class is not RequestClass.DOWNLOAD_BYTES:
        charges = (Charge(request_class.value),)  # type: ignore[assignment]
    dearest = Decimal(0)
    for name in storage_classes:
        rates = [catalog.rate(name, charge) for charge in charges]
        if any(rate is None for rate in rates):
            return None
        each = Decimal(0)
        for rate in rates:
            each = EXACT.add(each, rate.of(1) if rate else Decimal(0))
        dearest = max(dearest, each)
    return dearest


def per_month(each: Decimal, interval_seconds: int) -> Decimal:
    """What `each` comes to in thirty days, once per interval."""
    return rounded(EXACT.divide(EXACT.multiply(each, Decimal(MONTH_SECONDS)), Decimal(interval_seconds)))


def month_price(catalog: Catalog, usages: Iterable[Usage]) -> Price:
    """A whole month's bill of one account. R2 rounds the month's class A and class B requests up to the next million.

    Free tiers are left out: they belong to the account, which is used by others, too.
    """
    whole = tuple(usages)
    if not any(rate.unit is Unit.MILLION for rate in catalog.rates):
        return price(catalog, whole)
    return price(catalog, [part for group in _by_class(whole) for part in _rounded_up(group)])


def rounded(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, context=EXACT)


def money(amount: Decimal) -> str:
    """Plain digits: at least two decimals, at most eight."""
    text = f"{rounded(amount):f}"
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals[:2]}{decimals[2:].rstrip('0')}"


def _by_class(usages: tuple[Usage, ...]) -> Iterable[Usage]:
    for storage_class in sorted({usage.storage_class for usage in usages}):
        parts = [usage for usage in usages if usage.storage_class == storage_class]
        requests = {c: sum(part.requests.get(c, 0) for part in parts) for c in RequestClass}
        copied = sum(part.copied_bytes for part in parts)
        yield Usage(storage_class=storage_class, requests=requests, copied_bytes=copied)


def _rounded_up(usage: Usage) -> Iterable[Usage]:
    """The same usage with each class of requests at the next million, and its bytes at the next GB."""
    requests = dict(usage.requests)
    for charges in (CLASS_A, CLASS_B):
        classes = [RequestClass(charge.value) for charge in charges]
        total = sum(requests.get(c, 0) for c in classes)
        for c in classes:
            requests[c] = 0
        # Members of a class cost the same, so the sum may stand for any of them.
        requests[classes[-1]] = _up(total, 10**6)
    # Only retrieved bytes cost anything there, so that copied ones may stand for all of them.
    read = requests.pop(RequestClass.DOWNLOAD_BYTES, 0) + usage.copied_bytes
    yield Usage(storage_class=usage.storage_class, requests=requests, copied_bytes=_up(read, 10**9))


def _up(quantity: int, step: int) -> int:
    return int((Decimal(quantity) / step).to_integral_value(ROUND_CEILING)) * step
