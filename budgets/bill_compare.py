"""What we counted beside what the provider says: per bucket, class by class, in one month. Pure.

Of a request that a killed worker may have sent, nobody here knows whether it was, and some answers are not billed:
counted - unbilled <= billed <= counted + lost is all that can be asked. Below it the provider bills less than we sent;
above it somebody else used the bucket.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum

from budgets.bill_map import GROUPS, Format
from budgets.pricing import EXACT
from vaulthalla.requests import RequestClass

# What providers need not tell, since it costs nothing or is billed in another way.
FREE_OF_CHARGE = frozenset({"delete", "free", "bytes"})
HUNDREDTH = Decimal("0.01")


class Verdict(StrEnum):
    WITHIN = "within"
    BELOW = "below"
    ABOVE = "above"
    NOT_TOLD = "not_told"


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledSum:
    """So many requests of one operation, as the provider says; an empty bucket: it does not say of which."""

    bucket: str
    tier: str
    request_class: RequestClass | None
    operation: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedSum:
    """What we booked of one class on one bucket, and for which vaults."""

    bucket: str
    request_class: RequestClass
    used: int
    lost: int
    unbilled: int = 0
    vaults: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One class, or one sum of classes that are billed alike. `billed` None: the source does not tell it."""

    name: str
    tier: str
    classes: tuple[RequestClass, ...]
    counted: int
    lost: int
    unbilled: int = 0
    billed: int | None

    @property
    def drift(self) -> int | None:
        """How many more the provider says than we counted."""
        return None if self.billed is None else self.billed - self.counted

    @property
    def percent(self) -> Decimal | None:
        """The drift in hundredths of what we counted; None where that is nothing."""
        if self.drift is None or not self.counted:
            return None
        share = EXACT.divide(Decimal(self.drift * 100), Decimal(self.counted))
        return share.quantize(HUNDREDTH, rounding=ROUND_HALF_UP, context=EXACT)

    @property
    def verdict(self) -> Verdict:
        if self.billed is None:
            return Verdict.NOT_TOLD
        if self.billed < self.counted - self.unbilled:
            return Verdict.BELOW
        return Verdict.WITHIN if self.billed <= self.counted + self.lost else Verdict.ABOVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A bucket, or all of them together where the source names none."""

    bucket: str
    vaults: tuple[int, ...]
    tiers: tuple[Row, ...]
    classes: tuple[Row, ...]
    # Requests of the tiers that no vault sends, by operation.
    other: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One source. `unattributed`: billed on no bucket, by operation; `foreign`: on buckets of no vault."""

    places: tuple[Place, ...]
    unattributed: Mapping[str, int] = field(default_factory=dict)
    foreign_buckets: int = 0
    foreign_requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """Our side of one place."""

    used: Counter[RequestClass]
    lost: Counter[RequestClass]
    unbilled: Counter[RequestClass]

    def row(self, name: str, tier: str, classes: tuple[RequestClass, ...], *, billed: int | None) -> Row:
        return Row(
            name=name,
            tier=tier,
            classes=classes,
            counted=sum(self.used[one] for one in classes),
            lost=sum(self.lost[one] for one in classes),
            unbilled=sum(self.unbilled[one] for one in classes),
            billed=billed,
        )


def compare(source: Format, billed: Iterable[BilledSum], counted: Iterable[CountedSum]) -> Comparison:
    """Buckets that both or one of them know; as a whole account where no line names a bucket."""
    theirs, ours = list(billed), list(counted)
    told = frozenset(one.tier for one in theirs)
    if not any(one.bucket for one in theirs):
        return Comparison(places=(_place(source, "", theirs, ours, told),) if theirs else ())
    mine = sorted({one.bucket for one in ours if one.bucket})
    places = tuple(
        _place(source, name, [t for t in theirs if t.bucket == name], [o for o in ours if o.bucket == name], told)
        for name in mine
    )
    foreign = [one for one in theirs if one.bucket and one.bucket not in mine and one.tier != "bytes"]
    return Comparison(
        places=places,
        unattributed=_by_operation(one for one in theirs if not one.bucket),
        foreign_buckets=len({one.bucket for one in foreign}),
        foreign_requests=sum(one.quantity for one in foreign),
    )


def _place(source: Format, bucket: str, theirs: list[BilledSum], ours: list[CountedSum], told: frozenset[str]) -> Place:
    used, lost, unbilled = Counter[RequestClass](), Counter[RequestClass](), Counter[RequestClass]()
    for one in ours:
        used[one.request_class] += one.used
        lost[one.request_class] += one.lost
        unbilled[one.request_class] += one.unbilled
    by_tier: Counter[str] = Counter()
    by_class: defaultdict[str, Counter[RequestClass]] = defaultdict(Counter)
    for line in theirs:
        by_tier[line.tier] += line.quantity
        if line.request_class is not None:
            by_class[line.tier][line.request_class] += line.quantity
    tiers, classes = [], []
    for tier, members in GROUPS[source].items():
        silent = tier in FREE_OF_CHARGE and tier not in told
        ordered = tuple(name for name in RequestClass if name in members)
        booked = Booked(used=used, lost=lost, unbilled=unbilled)
        tiers.append(booked.row(tier, tier, ordered, billed=None if silent else by_tier[tier]))
        if len(ordered) > 1 and _tells_classes(source, tier):
            classes += [booked.row(name.value, tier, (name,), billed=by_class[tier][name]) for name in ordered]
    return Place(
        bucket=bucket,
        vaults=tuple(sorted({vault for one in ours for vault in one.vaults})),
        tiers=tuple(row for row in tiers if row.counted or row.lost or row.billed),
        classes=tuple(row for row in classes if row.counted or row.lost or row.billed),
        other=_by_operation(one for one in theirs if one.request_class is None and _tells_classes(source, one.tier)),
    )


def _tells_classes(source: Format, tier: str) -> bool:
    """Whether lines of a tier name an operation: a PUT of Storage Lens may be a copy."""
    return not (source is Format.STORAGE_LENS and tier == "put_post")


def _by_operation(lines: Iterable[BilledSum]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for line in lines:
        found[line.operation] += line.quantity
    return dict(sorted(found.items()))
