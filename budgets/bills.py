"""Bills into the database: all files of a report together, or nothing of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from budgets import bill_sql
from budgets.bill_map import Format
from budgets.bill_read import Line, malformed, read
from budgets.catalog_file import PROVIDERS
from vaulthalla.console import fields
from vaulthalla.errors import Refused

DEFAULT_PROVIDERS = {
    Format.AWS_CUR: "aws-s3",
    Format.STORAGE_LENS: "aws-s3",
    Format.R2_ANALYTICS: "cloudflare-r2",
}
# Of bad lines: no more than these are never too large a share, and as many are told.
ALWAYS_TOLERATED, MOST_TOLD = 10, 20


@dataclass(kw_only=True)
class Tally:
    """What became of the lines."""

    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    told: list[dict[str, Any]] = field(default_factory=list)

    @property
    def lines(self) -> int:
        return self.used + self.skipped.total() + self.bad.total()


def import_bill(paths: list[str], report: str, provider: str | None) -> dict[str, Any]:
    """Stores what the files say; a period that is known already is replaced, key by key. Raises Refused.

    Files of one report belong into one import: a key that is in two of them is summed over both.
    """
    kind, whose = format_of(report), provider_of(provider, report)
    if len({os.path.realpath(path) for path in paths}) != len(paths):
        raise Refused("--file names a file twice.", code="invalid_value", remedy="Name each part of the report once.")
    tally = Tally()
    with transaction.atomic():
        bill_sql.stage(_lines(paths, kind, tally))
        try:
            merged = bill_sql.merge(kind, whose)
        except OverflowError as error:
            raise malformed(", ".join(paths), str(error)) from None
    return {
        "format": kind.value,
        "provider": whose,
        "files": len(paths),
        "lines": tally.lines,
        "used": tally.used,
        "skipped": dict(sorted(tally.skipped.items())),
        "bad": {"count": tally.bad.total(), "reasons": dict(sorted(tally.bad.items())), "first": tally.told},
        "from": merged.first,
        "until": merged.until,
        "buckets": merged.buckets,
        "added": merged.added,
        "replaced": merged.replaced,
    }


def format_of(text: str) -> Format:
    found = next((one for one in Format if one.value == text), None)
    if found is None:
        raise Refused(f"--format must be one of {', '.join(Format)}.", code="invalid_value", remedy="Name one of them.")
    return found


def provider_of(text: str | None, report: str) -> str:
    if text is None:
        return DEFAULT_PROVIDERS[format_of(report)]
    if text not in PROVIDERS:
        accepted = ", ".join(PROVIDERS)
        raise Refused(f"--provider must be one of {accepted}.", code="invalid_value", remedy="Name one of them.")
    return text


def _lines(paths: Iterable[str], report: Format, tally: Tally) -> Iterator[Line]:
    """Those that count requests. Raises Refused, at the end, where there are none, or too many cannot be read."""
    last = ""
    for path in paths:
        last = path
        for found in read(path, report):
            if isinstance(found, Line):
                tally.used += 1
                yield found
            elif found.bad:
                tally.bad[found.reason] += 1
                if len(tally.told) < MOST_TOLD:
                    tally.told.append({"file": path, "line": found.number, "reason": found.reason})
            else:
                tally.skipped[found.reason] += 1
    bad = tally.bad.total()
    if bad > ALWAYS_TOLERATED and bad * 100 > tally.lines:
        where = ", ".join(f"line {one['line']}: {one['reason']}" for one in tally.told[:5])
        raise malformed(last, f"{bad} of {tally.lines} lines cannot be read ({where})")
    if not tally.used:
        raise malformed(last, f"none of its {tally.lines} lines counts requests{_why(tally)}")


def _why(tally: Tally) -> str:
    told = {**tally.skipped, **tally.bad}
    return f" ({', '.join(f'{count} {reason}' for reason, count in sorted(told.items()))})" if told else ""


def imported_text(value: dict[str, Any]) -> str:
    bad = value["bad"]
    rows = [
        ("Format", f"{value['format']} ({value['provider']})"),
        ("Lines", f"{value['lines']}, of which {value['used']} count requests"),
        ("Skipped", ", ".join(f"{count} {reason}" for reason, count in value["skipped"].items()) or "none"),
        ("Unreadable", ", ".join(f"{count} {reason}" for reason, count in bad["reasons"].items()) or "none"),
        ("Period", f"{value['from']:%Y-%m-%d %H:%M} to {value['until']:%Y-%m-%d %H:%M} UTC"),
        ("Buckets", value["buckets"]),
        ("Stored", f"{value['added']} new, {value['replaced']} replaced"),
    ]
    told = [f"{one['file']}, line {one['line']}: {one['reason']}" for one in bad["first"]]
    return "\n".join([fields(rows), *told])
