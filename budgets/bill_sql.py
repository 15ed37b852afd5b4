"""The SQL of bills: staged by COPY, summed and merged by key, and compared month by month."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection

from budgets.bill_compare import BilledSum, CountedSum
from budgets.bill_map import Format
from budgets.bill_read import MOST, Line
from vaulthalla.requests import RequestClass

STAGE = """
CREATE TEMP TABLE budgets_bill_stage (
    account text NOT NULL, bucket text NOT NULL, operation text NOT NULL, tier text NOT NULL,
    request_class text NOT NULL, storage_class text NOT NULL,
    starts_at timestamptz NOT NULL, ends_at timestamptz NOT NULL, quantity bigint NOT NULL
) ON COMMIT DROP
"""
COPY = "COPY budgets_bill_stage FROM STDIN"

# A report by the hour and one by the day tell of the same requests: of a key and a day, what comes later stands. No
# line is longer than a day. Both sides are reduced to what they tell of before they are joined.
REPLACE_OTHER_PERIODS = """
WITH told AS (
    SELECT DISTINCT account, bucket, operation, tier, storage_class,
           (starts_at AT TIME ZONE 'UTC')::date AS day, ends_at - starts_at AS length
      FROM budgets_bill_stage
), known AS (
    SELECT DISTINCT account, bucket, operation, tier, storage_class,
           (starts_at AT TIME ZONE 'UTC')::date AS day, ends_at - starts_at AS length
      FROM budgets_billline
     WHERE source = %(source)s AND provider = %(provider)s
       AND starts_at >= (SELECT date_trunc('day', min(starts_at), 'UTC') FROM budgets_bill_stage)
       AND starts_at < (SELECT max(ends_at) FROM budgets_bill_stage)
), other AS (
    SELECT DISTINCT known.*
      FROM known JOIN told USING (account, bucket, operation, tier, storage_class, day)
     WHERE known.length <> told.length
)
DELETE FROM budgets_billline AS line
 USING other
 WHERE line.source = %(source)s AND line.provider = %(provider)s
   AND line.account = other.account AND line.bucket = other.bucket AND line.operation = other.operation
   AND line.tier = other.tier AND line.storage_class = other.storage_class
   AND (line.starts_at AT TIME ZONE 'UTC')::date = other.day AND line.ends_at - line.starts_at = other.length
"""
# One report may hold several lines of a key: prices in steps are billed apart.
MERGE = """
WITH merged AS (
    INSERT INTO budgets_billline AS line
           (source, provider, account, bucket, operation, tier, request_class, storage_class, starts_at, ends_at,
            quantity)
    SELECT %(source)s, %(provider)s, account, bucket, operation, tier, max(request_class), storage_class, starts_at,
           max(ends_at), sum(quantity)::bigint
      FROM budgets_bill_stage
     GROUP BY account, bucket, operation, tier, storage_class, starts_at
        ON CONFLICT (source, provider, account, bucket, operation, tier, storage_class, starts_at)
        DO UPDATE SET quantity = EXCLUDED.quantity, ends_at = EXCLUDED.ends_at, imported_at = now()
    RETURNING (xmax = 0) AS is_new
)
SELECT count(*) FILTER (WHERE is_new), count(*) FROM merged
"""
# Nobody else looks at a temporary table, so nobody counted its rows.
ANALYZE = "ANALYZE budgets_bill_stage"
UNSTAGE = "DROP TABLE budgets_bill_stage"
STAGED = "SELECT min(starts_at), max(ends_at), count(DISTINCT bucket), sum(quantity) FROM budgets_bill_stage"
# A key whose lines come to more than its column holds. Asked where all lines do.
TOO_MANY = """
SELECT bucket, operation, to_char(starts_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
  FROM budgets_bill_stage
 GROUP BY account, bucket, operation, tier, storage_class, starts_at
HAVING sum(quantity) > %(most)s ORDER BY starts_at, bucket, operation LIMIT 1
"""

# From when to when each source tells of a provider in some period. Relies on `bill_line_by_time`.
COVERED = """
SELECT source, provider, min(starts_at), max(ends_at), max(imported_at)
  FROM budgets_billline WHERE starts_at >= %(first)s AND starts_at < %(until)s
 GROUP BY source, provider ORDER BY source, provider
"""
BILLED = """
SELECT bucket, tier, request_class, operation, sum(quantity)
  FROM budgets_billline
 WHERE source = %(source)s AND provider = %(provider)s AND starts_at >= %(first)s AND starts_at < %(until)s
 GROUP BY bucket, tier, request_class, operation ORDER BY bucket, tier, request_class, operation
"""
# What we counted on whole UTC days. Relies on `spend_by_day`.
COUNTED = """
SELECT bucket, request_class, sum(used)::bigint, sum(lost)::bigint, sum(unbilled)::bigint,
       array_agg(DISTINCT vault_id)
  FROM budgets_dayspend
 WHERE provider = %(provider)s AND day >= (%(first)s AT TIME ZONE 'UTC')::date
   AND day < (%(until)s AT TIME ZONE 'UTC')::date
 GROUP BY bucket, request_class ORDER BY bucket, request_class
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What an import came to."""

    first: datetime
    until: datetime
    buckets: int
    added: int
    replaced: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """What one source tells of a provider."""

    source: Format
    provider: str
    first: datetime
    until: datetime
    imported_at: datetime


def stage(lines: Iterable[Line]) -> None:
    """Streams lines into a table of this transaction."""
    with connection.cursor() as cursor:
        cursor.execute(STAGE)
        with cursor.copy(COPY) as copy:
            for line in lines:
                kind = line.billed
                copy.write_row(
                    (
                        line.account,
                        line.bucket,
                        line.operation,
                        kind.group,
                        kind.request_class or "",
                        kind.storage_class,
                        line.starts_at,
                        line.ends_at,
                        line.quantity,
                    )
                )


def merge(source: Format, provider: str) -> Merged:
    """Staged lines into those that are known; the same ones change nothing.

    Raises OverflowError, with a sentence, where the lines of one key come to more than can be stored.
    """
    values = {"source": source.value, "provider": provider}
    with connection.cursor() as cursor:
        cursor.execute(ANALYZE)
        cursor.execute(STAGED)
        first, until, buckets, quantity = cursor.fetchone()
        if quantity > MOST:
            _check_sums(cursor)
        cursor.execute(REPLACE_OTHER_PERIODS, values)
        cursor.execute(MERGE, values)
        added, merged = cursor.fetchone()
        cursor.execute(UNSTAGE)
    return Merged(first=first, until=until, buckets=buckets, added=added, replaced=merged - added)


def _check_sums(cursor: Any) -> None:
    cursor.execute(TOO_MANY, {"most": MOST})
    for bucket, operation, at in cursor.fetchall():
        raise OverflowError(f"its lines of {operation} in {bucket or 'no bucket'} at {at} come to more than {MOST}")


def covered(first: datetime, until: datetime) -> list[Covered]:
    rows = _rows(COVERED, {"first": first, "until": until})
    return [Covered(source=Format(r[0]), provider=r[1], first=r[2], until=r[3], imported_at=r[4]) for r in rows]


def billed(source: Format, provider: str, first: datetime, until: datetime) -> list[BilledSum]:
    values = {"source": source.value, "provider": provider, "first": first, "until": until}
    return [
        BilledSum(
            bucket=r[0],
            tier=r[1],
            request_class=RequestClass(r[2]) if r[2] else None,
            operation=r[3],
            quantity=int(r[4]),
        )
        for r in _rows(BILLED, values)
    ]


def counted(provider: str, first: datetime, until: datetime) -> list[CountedSum]:
    rows = _rows(COUNTED, {"provider": provider, "first": first, "until": until})
    return [
        CountedSum(
            bucket=r[0], request_class=RequestClass(r[1]), used=r[2], lost=r[3], unbilled=r[4], vaults=tuple(r[5])
        )
        for r in rows
    ]


def _rows(statement: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())
