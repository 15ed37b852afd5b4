"""In which storage classes a month's requests were: known of runs that are over, assumed of the rest.

A run's requests are split by class when it ends. One that crosses the end of a month is split in proportion to what it
sent in each, since nobody noted the class of each request.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from django.db.models import F, Sum
from django.db.models.functions import TruncMonth

from budgets.models import ClassUse, DaySpend
from budgets.pricing import STANDARD, Usage
from vaulthalla.requests import RequestClass
from vaulthalla.vaults.models import Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class ByClass:
    """What was used in each storage class; `assumed` requests are there for want of anything better."""

    usages: tuple[Usage, ...]
    assumed: int


def keep_classes(run_id: int, usages: Iterable[Usage]) -> None:
    """What a run that is over used, class by class, in the months in which it sent something."""
    sums: Counter[tuple[str, RequestClass]] = Counter()
    copied: Counter[str] = Counter()
    cut_short: Counter[tuple[str, RequestClass]] = Counter()
    for usage in usages:
        copied[usage.storage_class] += usage.copied_bytes
        cut_short.update({(usage.storage_class, name): amount for name, amount in usage.cut_short.items() if amount})
        sums.update({(usage.storage_class, name): count for name, count in usage.requests.items() if count})
    months = _months(run_id)
    for storage_class, name in {**sums, **cut_short}:
        weights = months[name]
        parts = apportion(sums[storage_class, name], weights)
        bytes_read = apportion(copied[storage_class] if name is RequestClass.COPY else 0, weights)
        ended = apportion(cut_short[storage_class, name], weights)
        ClassUse.objects.bulk_create(
            ClassUse(
                run_id=run_id,
                month=month,
                storage_class=storage_class,
                request_class=name.value,
                quantity=part,
                copied_bytes=bytes_read[month],
                cut_short=ended[month],
            )
            for month, part in parts.items()
            if part or ended[month]
        )


def apportion(whole: int, weights: Mapping[date, int]) -> dict[date, int]:
    """`whole` by weight, to the unit: what division leaves over goes to the last month. No weights, no parts."""
    total = sum(weights.values())
    parts = {month: whole * weight // total for month, weight in sorted(weights.items())} if total else {}
    if parts:
        parts[max(parts)] += whole - sum(parts.values())
    return parts


def by_storage_class(rows: Iterable[DaySpend]) -> ByClass:
    """The rows of one month. What no run told the class of is in the class that its vault writes, else Standard."""
    counted: Counter[tuple[int, RequestClass]] = Counter()
    vaults, months = {}, set()
    for row in rows:
        counted[row.run_id, RequestClass(row.request_class)] += row.used + row.lost - row.unbilled
        vaults[row.run_id] = row.vault_id
        months.add(row.day.replace(day=1))
    requests: defaultdict[str, Counter[RequestClass]] = defaultdict(Counter)
    copied: Counter[str] = Counter()
    cut_short: defaultdict[str, Counter[RequestClass]] = defaultdict(Counter)
    for use in ClassUse.objects.filter(month__in=months, run_id__in=vaults):
        name = RequestClass(use.request_class)
        requests[use.storage_class][name] += use.quantity
        copied[use.storage_class] += use.copied_bytes
        cut_short[use.storage_class][name] += int(use.cut_short)
        counted[use.run_id, name] -= use.quantity
    own = dict(Vault.objects.filter(pk__in=set(vaults.values())).values_list("pk", "storage_class"))
    assumed = 0
    for (run_id, name), count in counted.items():
        if count > 0:
            requests[own.get(vaults[run_id]) or STANDARD][name] += count
            assumed += count if name is not RequestClass.DOWNLOAD_BYTES else 0
    usages = (
        Usage(
            storage_class=storage_class,
            requests=counts,
            copied_bytes=copied[storage_class],
            cut_short=cut_short[storage_class],
        )
        for storage_class, counts in sorted(requests.items())
    )
    return ByClass(usages=tuple(usages), assumed=assumed)


def _months(run_id: int) -> defaultdict[RequestClass, dict[date, int]]:
    """What the run sent of each class in each month, and was billed for."""
    found: defaultdict[RequestClass, dict[date, int]] = defaultdict(dict)
    rows = DaySpend.objects.filter(run_id=run_id, used__gt=0).annotate(month=TruncMonth("day"))
    for name, month, used in rows.values_list("request_class", "month").annotate(there=Sum(F("used") - F("unbilled"))):
        found[RequestClass(name)][month] = used
    return found
