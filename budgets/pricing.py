"""What requests and bytes cost, from a catalog value: exact decimals, no database, no clock.

Prices are of requests, of traffic, and of storage that is billed though nothing is stored any more: what is left of a
minimum duration when an object ends. Storage at rest is not in them.
What the catalog does not list is unknown, never free; an amount with an unknown part is no amount.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, ROUND_HALF_UP, Context, Decimal
from enum import StrEnum

from vaulthalla.requests import RequestClass

# Enough digits that a sum of products of 63-bit counts and 8-decimal prices is exact before it is rounded.
EXACT = Context(prec=60, rounding=ROUND_HALF_UP)
CENT = Decimal("0.00000001")
ANY = "*"
STANDARD = "STANDARD"
DAY_SECONDS = 86_400
# The month that recurring costs and storage are told for.
MONTH_SECONDS = 30 * DAY_SECONDS


class Charge(StrEnum):
    """What a provider charges for.

    Each class of requests, bytes leaving it, bytes read from a colder class, and bytes kept for a while.
    """

    LIST = "list"
    HEAD = "head"
    GET = "get"
    PUT = "put"
    COPY = "copy"
    DELETE = "delete"
    EGRESS = "egress"
    RETRIEVAL = "retrieval"
    STORAGE = "storage"


class Unit(StrEnum):
    """What one price is for."""

    THOUSAND = "1000_requests"
    MILLION = "1000000_requests"
    GB = "gb"
    GIB = "gib"
    GB_MONTH = "gb_month"
    GIB_MONTH = "gib_month"


# Requests, bytes, or, of months, byte-seconds.
SIZES = {
    Unit.THOUSAND: 1_000,
    Unit.MILLION: 1_000_000,
    Unit.GB: 10**9,
    Unit.GIB: 2**30,
    Unit.GB_MONTH: 10**9 * MONTH_SECONDS,
    Unit.GIB_MONTH: 2**30 * MONTH_SECONDS,
}
BYTE_CHARGES = frozenset({Charge.EGRESS, Charge.RETRIEVAL})
# R2 counts these as class A; GET and HEAD are class B.
CLASS_A = (Charge.LIST, Charge.PUT, Charge.COPY)
CLASS_B = (Charge.HEAD, Charge.GET)
# Requests of Standard objects that an R2 account need not pay for each month (its pricing page, "Free tier").
R2_FREE_TIER: Mapping[tuple[Charge, ...], int] = {CLASS_A: 10**6, CLASS_B: 10**7}
FREE_TIERS = {"cloudflare-r2": R2_FREE_TIER}
# Who bills a month's requests by the million and retrieved bytes by the GB, whatever unit a list tells prices in.
ROUND_UP = frozenset({"cloudflare-r2"})
# "Billing for Amazon S3 error responses" (S3 User Guide); "Will I be charged for failed requests" (R2 pricing).
UNBILLED: dict[str, Container[int]] = {"aws-s3": range(500, 600), "cloudflare-r2": (401, 403)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimum:
    """What a storage class bills of an object at least: so many bytes, for so many seconds."""

    size: int
    seconds: int

    def cut_short(self, size: int, age_seconds: int) -> int:
        """The byte-seconds that are billed all the same when an object of this size and age ends."""
        return max(size, self.size) * max(0, self.seconds - max(0, age_seconds))


def _minimum(*, days: int, size: int = 0) -> Minimum:
    return Minimum(size=size, seconds=days * DAY_SECONDS)


# "Minimum storage duration" and "minimum billable object size" of "Comparing the Amazon S3 storage classes" (S3 User
# Guide) and of "R2 pricing". The overhead of archived objects, 40 KB each, is not in them.
MINIMUMS = {
    ("aws-s3", "STANDARD_IA"): _minimum(days=30, size=128 * 2**10),
    ("aws-s3", "ONEZONE_IA"): _minimum(days=30, size=128 * 2**10),
    ("aws-s3", "GLACIER_IR"): _minimum(days=90, size=128 * 2**10),
    ("aws-s3", "GLACIER"): _minimum(days=90),
    ("aws-s3", "DEEP_ARCHIVE"): _minimum(days=180),
    ("cloudflare-r2", "STANDARD_IA"): _minimum(days=30),
}


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
    """Requests and downloaded bytes on objects of one storage class, and bytes that a server-side copy reads.

    `cut_short`: byte-seconds of minimum durations that objects did not reach, by the class of the request that ended
    them.
    """

    storage_class: str
    requests: Mapping[RequestClass, int]
    copied_bytes: int = 0
    cut_short: Mapping[RequestClass, int] = field(default_factory=dict)

    @property
    def attempts(self) -> int:
        return sum(count for name, count in self.requests.items() if name is not RequestClass.DOWNLOAD_BYTES)

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
        yield Charge.STORAGE, sum(self.cut_short.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Eight decimals. `amount` is None when a part of it is unknown; `unknowns` say which."""

    amount: Decimal | None
    unknowns: tuple[str, ...] = field(default=())


def is_billed(provider: str, status: int) -> bool:
    """Whether an answer is paid for. What a provider does not say to be free is: so is a 412 or 404 of either."""
    return status not in UNBILLED.get(provider, ())


def price(catalog: Catalog, usages: Iterable[Usage]) -> Price:
    """The marginal price of what was used: no free tier, rounded once, to eight decimals."""
    total, unknowns = _total(catalog, usages)
    return Price(amount=None, unknowns=tuple(sorted(unknowns))) if unknowns else Price(amount=rounded(total))


def _total(catalog: Catalog, usages: Iterable[Usage]) -> tuple[Decimal, set[str]]:
    """Unrounded, and what of it is unknown."""
    total, unknowns = Decimal(0), set()
    for usage in usages:
        for charge, quantity in usage.quantities():
            rate = catalog.rate(usage.storage_class, charge)
            if quantity > 0 and rate is None:
                unknowns.add(f"{catalog.provider}/{catalog.region}: {charge.value} of {usage.storage_class}")
            elif quantity > 0 and rate is not None:
                total = EXACT.add(total, rate.of(quantity))
    return total, unknowns


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


def per_month(catalog: Catalog, recurring: Iterable[tuple[Usage, int]]) -> Decimal | None:
    """What comes to in thirty days what is used once per so many seconds, rounded once; None when some is unknown."""
    month = Decimal(0)
    for usage, interval_seconds in recurring:
        each, unknowns = _total(catalog, [usage])
        if unknowns:
            return None
        month = EXACT.add(month, EXACT.divide(EXACT.multiply(each, Decimal(MONTH_SECONDS)), Decimal(interval_seconds)))
    return rounded(month)


def month_price(catalog: Catalog, usages: Iterable[Usage], *, free_tier: bool = False) -> Price:
    """A whole month's bill of one account. R2 rounds the month's class A and class B requests up to the next million.

    Each storage class by itself; a LIST, which is of no class, with the Standard ones, as it costs the same.
    `free_tier`: as if nobody else used the account, so that what Standard requests it gives away are not billed.
    """
    whole = tuple(usages)
    if catalog.provider not in ROUND_UP:
        return price(catalog, whole)
    free = FREE_TIERS.get(catalog.provider, {}) if free_tier else {}
    return price(catalog, [_rounded_up(one, free if one.storage_class == STANDARD else {}) for one in _by_class(whole)])


def rounded(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, context=EXACT)


def money(amount: Decimal) -> str:
    """Plain digits: at least two decimals, at most eight."""
    text = f"{rounded(amount):f}"
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals[:2]}{decimals[2:].rstrip('0')}"


def _by_class(usages: tuple[Usage, ...]) -> Iterable[Usage]:
    lists = sum(usage.requests.get(RequestClass.LIST, 0) for usage in usages)
    for storage_class in sorted({STANDARD, *(usage.storage_class for usage in usages)}):
        parts = [usage for usage in usages if usage.storage_class == storage_class]
        requests = {c: sum(part.requests.get(c, 0) for part in parts) for c in RequestClass}
        requests[RequestClass.LIST] = lists if storage_class == STANDARD else 0
        cut_short = {c: sum(part.cut_short.get(c, 0) for part in parts) for c in RequestClass}
        yield Usage(
            storage_class=storage_class,
            requests=requests,
            copied_bytes=sum(part.copied_bytes for part in parts),
            cut_short=cut_short,
        )


def _rounded_up(usage: Usage, free: Mapping[tuple[Charge, ...], int]) -> Usage:
    """The same usage with what is not free of each class of requests at the next million, and its bytes at the next GB.

    Storage that was cut short is not rounded: it is a part of what the account stores, which nobody here knows.
    """
    requests = dict(usage.requests)
    for charges in (CLASS_A, CLASS_B):
        classes = [RequestClass(charge.value) for charge in charges]
        total = sum(requests.get(c, 0) for c in classes)
        for c in classes:
            requests[c] = 0
        # Members of a class cost the same, so the sum may stand for any of them.
        requests[classes[-1]] = _up(max(0, total - free.get(charges, 0)), 10**6)
    downloaded = requests.get(RequestClass.DOWNLOAD_BYTES, 0)
    # Copied bytes are retrieved and do not leave: what they are rounded up to is not billed as egress.
    return replace(usage, requests=requests, copied_bytes=_up(downloaded + usage.copied_bytes, 10**9) - downloaded)


def _up(quantity: int, step: int) -> int:
    return int((Decimal(quantity) / step).to_integral_value(ROUND_CEILING)) * step
