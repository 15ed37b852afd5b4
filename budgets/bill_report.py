"""The comparison of a month for people and scripts: what was compared, over which days, and what could not be."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from budgets import bill_sql
from budgets.bill_compare import Comparison, CountedSum, Place, Row, compare
from budgets.bill_sql import Covered
from budgets.catalog import price_key
from budgets.ledger import vault_names
from budgets.reserve import NO_VAULT
from vaulthalla.console import table
from vaulthalla.errors import NotFound
from vaulthalla.requests import RequestClass
from vaulthalla.vaults.models import Vault, VaultKind

DAY = timedelta(days=1)
COLUMNS = (
    "month", "source", "provider", "from", "until", "bucket", "vaults", "kind", "tier", "name", "counted", "lost",
    "unbilled", "billed", "drift", "drift_percent", "verdict",
)  # fmt: skip


def comparison(first: date) -> dict[str, Any]:
    """Every source that tells of the month. Raises NotFound where none does."""
    begins = datetime.combine(first, time(), UTC)
    ends = datetime.combine((first + 31 * DAY).replace(day=1), time(), UTC)
    sources = bill_sql.covered(begins, ends)
    if not sources:
        raise NotFound(
            f"No bill tells of {first:%Y-%m}.",
            remedy="vh pricing bill import --format aws-cur|storage-lens|r2-analytics --file FILE",
        )
    return {"month": f"{first:%Y-%m}", "sources": [_source(one, begins, ends) for one in sources]}


def _source(source: Covered, begins: datetime, ends: datetime) -> dict[str, Any]:
    first, until = whole_days(source, begins, ends)
    within = bill_sql.counted(source.provider, first, until)
    billed = bill_sql.billed(source.source, source.provider, first, until)
    found = compare(source.source, billed, [*within, *_idle(source.provider)])
    # What we counted in this month on days that the source does not tell of.
    outside = _requests(bill_sql.counted(source.provider, begins, ends)) - _requests(within)
    return {
        "source": source.source.value,
        "provider": source.provider,
        "from": first.date().isoformat(),
        "until": (until - DAY).date().isoformat(),
        "counted_on_other_days": outside,
        "buckets": [_place(place) for place in found.places],
        "unattributed": {"requests": sum(found.unattributed.values()), "operations": dict(found.unattributed)},
        "foreign": {"buckets": found.foreign_buckets, "requests": found.foreign_requests},
        "notes": notes(source, found),
    }


def _idle(provider: str) -> Iterator[CountedSum]:
    """The buckets of today's vaults, so that one which sent nothing is known all the same."""
    for vault in Vault.objects.filter(kind=VaultKind.S3).select_related("api_key"):
        if price_key(vault)[0] == provider:
            yield CountedSum(bucket=vault.bucket, request_class=RequestClass.LIST, used=0, lost=0, vaults=(vault.pk,))


def _requests(sums: list[CountedSum]) -> int:
    return sum(one.used for one in sums if one.request_class is not RequestClass.DOWNLOAD_BYTES)


def whole_days(source: Covered, begins: datetime, ends: datetime) -> tuple[datetime, datetime]:
    """The days that can be compared: from the first that is told of to the last that is told of to its end.

    Reports lag. A last day whose last hour is missing counts as whole only if it was over for a day when it was
    imported: then nothing was asked for in that hour.
    """
    first = max(begins, datetime.combine(source.first.astimezone(UTC).date(), time(), UTC))
    until = source.until.astimezone(UTC)
    midnight = datetime.combine(until.date(), time(), UTC)
    if until > midnight:
        midnight += DAY if source.imported_at >= midnight + 2 * DAY else timedelta()
    return first, max(first, min(midnight, ends))


def notes(source: Covered, found: Comparison) -> list[str]:
    """What the figures cannot tell, in sentences."""
    told = []
    if any(not place.bucket for place in found.places):
        told.append("No line names a bucket: the whole account is compared with all vaults, and others may use it.")
    if any(row.verdict == "below" for place in found.places for row in place.tiers):
        told.append("Billed below counted, though the free answers (5xx) are allowed for: reports lag by up to a day.")
    if any(row.verdict == "above" for place in found.places for row in place.tiers):
        told.append("Billed above counted: others use the bucket, too.")
    if any(row.verdict == "not_told" for place in found.places for row in place.tiers):
        told.append("not_told: free of charge, so this source need not tell it.")
    if source.source == "r2-analytics":
        told.append("Analytics are sampled where there is much: they are no invoice.")
    return told


def _place(place: Place) -> dict[str, Any]:
    return {
        "bucket": place.bucket or None,
        "vaults": _names(place.vaults),
        "tiers": [{**_row(row), "classes": [name.value for name in row.classes]} for row in place.tiers],
        "classes": [_row(row) for row in place.classes],
        "other_operations": dict(place.other),
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "tier": row.tier,
        "counted": row.counted,
        "lost": row.lost,
        "unbilled": row.unbilled,
        "billed": row.billed,
        "drift": row.drift,
        "drift_percent": None if row.percent is None else f"{row.percent:f}",
        "verdict": row.verdict.value,
    }


def _names(vaults: tuple[int, ...]) -> list[str]:
    names = vault_names(vaults)
    return sorted(names.get(vault, str(vault)) for vault in vaults if vault != NO_VAULT)


def _flat(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for source in value["sources"]:
        head = {"month": value["month"], **{name: source[name] for name in ("source", "provider", "from", "until")}}
        for place in source["buckets"]:
            where = {"bucket": place["bucket"] or "", "vaults": " ".join(place["vaults"])}
            for kind in ("tier", "class"):
                for row in place["tiers" if kind == "tier" else "classes"]:
                    yield {**head, **where, "kind": kind, **{k: v for k, v in row.items() if k != "classes"}}


def as_csv(value: dict[str, Any]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(value))
    return out.getvalue().rstrip("\n")


def text(value: dict[str, Any]) -> str:
    return "\n\n".join(_source_text(source) for source in value["sources"])


def _source_text(source: dict[str, Any]) -> str:
    parts = [f"{source['source']} ({source['provider']}), {source['from']} to {source['until']}"]
    for place in source["buckets"]:
        rows = []
        for tier in place["tiers"]:
            rows.append(_cells(tier, "+".join(tier["classes"])))
            rows += [_cells(row, f"  {row['name']}") for row in place["classes"] if row["name"] in tier["classes"]]
        where = f"{place['bucket'] or 'All buckets'} ({', '.join(place['vaults']) or 'no vault'})"
        columns = ("TIER", "CLASSES", "COUNTED", "LOST", "UNBILLED", "BILLED", "DRIFT", "%", "VERDICT")
        parts.append(f"{where}\n{table(columns, rows)}")
        if place["other_operations"]:
            parts.append(f"In its tiers, but of no class of ours: {_counts(place['other_operations'])}")
    if source["unattributed"]["requests"]:
        parts.append(f"Billed on no bucket: {_counts(source['unattributed']['operations'])}")
    if source["foreign"]["buckets"]:
        told = source["foreign"]
        parts.append(f"On buckets of no vault ({told['buckets']}): {told['requests']} requests")
    if source["counted_on_other_days"]:
        parts.append(f"Counted on days that it does not tell of: {source['counted_on_other_days']} requests")
    return "\n\n".join([*parts, "\n".join(source["notes"])]).rstrip()


def _cells(row: dict[str, Any], classes: str) -> tuple[Any, ...]:
    values = (row[name] for name in ("counted", "lost", "unbilled", "billed", "drift", "drift_percent", "verdict"))
    return (row["tier"], classes, *values)


def _counts(operations: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in operations.items())
