"""The statements of an import. Rows are staged in tables of their run, dropped with it.

An inventory is eventually consistent: what it tells is certain only up to `SETTLED` before its start. So a row of it
counts as observed then, or when its object was written, if that was later (never after the start). That makes the
index's one rule of order right for inventories, too: an event or a write of those two days wins over an older row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import OperationalError, connection, transaction

from indexing import sql
from indexing.sql import Changes, Moment

SETTLED = timedelta(hours=48)
STAGED = "inventory_staged_"
_STAGED = re.compile(STAGED + r"[0-9]+_[0-9a-f]{32}")
# Blocks of the sorted table in one merge: enough to be fast, few enough to stay in memory.
BLOCKS = 250
# COLUMNS of `indexing.sql`, in their order.
_SLICE = """
  SELECT key, observed_at, false AS gone, size, etag, last_modified, storage_class, archive_status,
    '' AS restore, NULL::timestamptz AS restore_expires, version_id, '' AS sequencer, NULL::bytea AS sha256,
    NULL::bigint AS mtime_ns, NULL::timestamptz AS rival_at
  FROM inventory_differs WHERE NOT absent AND ctid >= %(first)s::tid AND ctid < %(last)s::tid
"""
# Both sides once, whole: most of what an inventory says is known already, and needs no judging (`indexing.sql`).
_COMPARE = """
  CREATE TEMP TABLE inventory_differs ON COMMIT DROP AS
  SELECT coalesce(s.key, o.key) AS key, s.key IS NULL AS absent, s.observed_at, s.size, s.etag, s.last_modified,
    s.storage_class, s.archive_status, s.version_id, o.size AS o_size, o.doubtful AS o_doubtful,
    o.observed_at AS o_observed_at, o.rival_at AS o_rival_at
  FROM inventory_sorted s
  FULL JOIN (SELECT * FROM indexing_remoteobject WHERE vault_id = %(vault)s) o ON o.key = s.key
  WHERE CASE WHEN s.key IS NULL THEN NOT o.tombstone AND starts_with(o.key, %(part)s::text)
    ELSE o.key IS NULL OR o.tombstone OR o.doubtful OR o.restore <> '' OR o.restore_expires IS NOT NULL
      OR (s.size, s.etag, s.storage_class) <> (o.size, o.etag, o.storage_class)
      OR s.last_modified IS DISTINCT FROM o.last_modified
      OR (s.archive_status <> '' AND s.archive_status <> o.archive_status)
      OR (s.version_id <> '' AND s.version_id <> o.version_id) END
"""
_STAGE = """
  CREATE UNLOGGED TABLE {table} (key text COLLATE "C" NOT NULL, etag text NOT NULL, storage_class text NOT NULL,
    version_id text NOT NULL, archive_status text NOT NULL, size bigint NOT NULL, last_modified timestamptz)
    WITH (autovacuum_enabled = false)
"""
_ANY = "SELECT EXISTS (SELECT FROM {table})"
_ALL = "SELECT * FROM {table}"
_NONE = """
  SELECT NULL::text COLLATE "C" AS key, '' AS etag, '' AS storage_class, '' AS version_id, '' AS archive_status,
    0::bigint AS size, NULL::timestamptz AS last_modified WHERE false
"""
_ORDER = """
  CREATE TEMP TABLE inventory_sorted ON COMMIT DROP AS
  SELECT DISTINCT ON (key) *,
    least(%(as_of)s::timestamptz, greatest(%(settled)s::timestamptz, last_modified)) AS observed_at
  FROM ({staged}) staged ORDER BY key, last_modified DESC NULLS LAST
"""
_INSERT = """
  WITH written AS (
    INSERT INTO indexing_remoteobject (vault_id, key, size, etag, last_modified, storage_class, archive_status,
      restore, version_id, sequencer, source, observed_at, tombstone, doubtful, revision)
    SELECT DISTINCT ON (key) %(vault)s::bigint, key, size, etag, last_modified, storage_class, archive_status,
      '', version_id, '', 'inventory',
      least(%(as_of)s::timestamptz, greatest(%(settled)s::timestamptz, last_modified)),
      false, false, %(revision)s::bigint
    FROM ({staged}) staged ORDER BY key, last_modified DESC NULLS LAST
    RETURNING size),
  counted AS (SELECT count(*) AS added, coalesce(sum(size), 0) AS bytes FROM written)
  UPDATE indexing_indexstate SET object_count = object_count + added, total_bytes = total_bytes + bytes
  FROM counted WHERE vault_id = %(vault)s::bigint RETURNING added
"""


def stage(run_id: int, token: UUID) -> str:
    """An empty table for the rows that one lease loads, in the order of `rows`' lines; its name.

    A table a lease: what a process that lost its lease still writes is never merged. It is not logged; should the
    server crash, it is empty (see `is_whole`).
    """
    name = f"{STAGED}{run_id}_{token.hex}"
    _execute(_STAGE.format(table=name))
    return name


def is_whole(table: str) -> bool:
    """Whether a table that rows were loaded into still is there and has them."""
    found = _one("SELECT to_regclass(%s) IS NOT NULL", [table])
    return bool(found) and bool(_one(_ANY.format(table=_named(table))))


def staged() -> list[tuple[int, str]]:
    """Run and name of every staging table there is. Relies on the catalogue's index of names."""
    statement = """
      SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE %s
        AND relnamespace = current_schema()::regnamespace
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, [STAGED.replace("_", r"\_") + "%"])
        names = [str(name) for (name,) in cursor.fetchall()]
    return [(int(name.removeprefix(STAGED).split("_")[0]), name) for name in names if _STAGED.fullmatch(name)]


def drop(table: str) -> bool:
    """False where a process that lost its lease is still writing to it; a later sweep gets it."""
    try:
        with transaction.atomic():
            _execute("SET LOCAL lock_timeout = '1s'")
            _execute(f"DROP TABLE IF EXISTS {_named(table)}")
    except OperationalError:
        return False
    return True


def load(table: str, blocks: Iterable[str | bytes]) -> None:
    """COPY of lines."""
    connection.ensure_connection()
    with (
        connection.wrap_database_errors,
        connection.connection.cursor() as cursor,
        cursor.copy(f"COPY {_named(table)} FROM STDIN") as copy,
    ):
        for block in blocks:
            copy.write(block)


def _named(table: str) -> str:
    """Names come back from rows, so they are looked at before they become part of a statement."""
    if not _STAGED.fullmatch(table):
        raise ValueError(f"{table!r} is no staging table.")
    return table


def _all_of(tables: Sequence[str]) -> str:
    """A subquery of all rows that were loaded."""
    return " UNION ALL ".join(_ALL.format(table=_named(table)) for table in tables) or _NONE


def order(tables: Sequence[str], as_of: datetime) -> int:
    """Sorts what was loaded by key, in the caller's transaction; of each key the newest row. Returns the count."""
    _execute("SET LOCAL work_mem = '64MB'")
    _execute("DROP TABLE IF EXISTS inventory_sorted")
    _execute(_ORDER.format(staged=_all_of(tables)), _times(as_of))
    _execute("ANALYZE inventory_sorted (key)")
    count: int = _one("SELECT count(*) FROM inventory_sorted")
    return count


def has_rows(vault_id: int) -> bool:
    return bool(_one("SELECT EXISTS (SELECT FROM indexing_remoteobject WHERE vault_id = %s)", [vault_id]))


def insert(vault_id: int, tables: Sequence[str], moment: Moment, as_of: datetime) -> Changes:
    """`order` and `merge` at once, for an index without a row and without a scan that would speak for absence."""
    _execute("SET LOCAL work_mem = '64MB'")
    parameters = {"vault": vault_id, "revision": moment.revision, **_times(as_of)}
    added: int = _one(_INSERT.format(staged=_all_of(tables)), parameters)
    return Changes(added=added)


def compare(vault_id: int, part: str) -> None:
    """Keeps what differs from the index below `part`, or is not in it, for `merge` and `remove`; under its lock."""
    _execute("DROP TABLE IF EXISTS inventory_differs")
    _execute(_COMPARE, {"vault": vault_id, "part": part})


def merge(vault_id: int, moment: Moment) -> Iterable[Changes]:
    """What differs, slice by slice."""
    parameters: dict[str, Any] = {
        "vault": vault_id,
        "revision": moment.revision,
        "snapshot_as_of": moment.snapshot_as_of,
        "scan_started_at": moment.scan_started_at,
        "since": None,
        "source": "inventory",
        "own": False,
        "event": False,
        "listing": True,
        "touch": False,
    }
    blocks = _one("SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int", ["inventory_differs"])
    for first in range(0, blocks, BLOCKS):
        part = {"first": f"({first},0)", "last": f"({first + BLOCKS},0)"}
        yield sql.merge_from(_SLICE, parameters | part)


def find_absent(vault_id: int, moment: Moment, *, as_of: datetime) -> tuple[int, int]:
    """Live rows that the inventory lacks, kept for `remove`: how many are certainly gone, and how many are not.

    Certain is what was known before `SETTLED`; what was seen since then, but not after the start, is doubtful.
    """
    _execute("DROP TABLE IF EXISTS inventory_absent")
    _execute(
        """
        CREATE TEMP TABLE inventory_absent ON COMMIT DROP AS
        SELECT o.key, o.o_size AS size, o.o_doubtful AS doubtful, known.at < %(settled)s::timestamptz
          AND (o.o_rival_at IS NULL OR o.o_rival_at < %(settled)s::timestamptz) AS certain
        FROM inventory_differs o
        CROSS JOIN LATERAL (SELECT greatest(o.o_observed_at, %(floor)s::timestamptz,
          CASE WHEN %(scan)s::timestamptz IS NOT NULL AND EXISTS (
            SELECT FROM indexing_scanrange s WHERE s.vault_id = %(vault)s AND o.key COLLATE "C" > s.low
              AND (s.reached IS NULL OR o.key COLLATE "C" <= s.reached)) THEN %(scan)s::timestamptz END) AS at) known
        WHERE o.absent AND known.at <= %(as_of)s::timestamptz
        """,
        {
            "vault": vault_id,
            "floor": moment.snapshot_as_of,
            "scan": moment.scan_started_at,
            **_times(as_of),
        },
    )
    gone, unsure = _row(
        "SELECT count(*) FILTER (WHERE certain), count(*) FILTER (WHERE NOT certain) FROM inventory_absent"
    )
    return gone, unsure


def remove(vault_id: int, moment: Moment, *, as_of: datetime, certain: bool) -> int:
    """Tombstones for what is certainly gone, doubt for the rest; all is doubt unless `certain`. Returns the removed."""
    removed: int = _one(
        """
        WITH gone AS (
          UPDATE indexing_remoteobject o SET tombstone = true, doubtful = false, rival_at = NULL, size = 0, etag = '',
            last_modified = NULL, storage_class = 'STANDARD', archive_status = '', restore = '',
            restore_expires = NULL, version_id = '', sha256 = NULL, mtime_ns = NULL, source = 'inventory',
            observed_at = greatest(o.observed_at, %(settled)s::timestamptz), revision = %(revision)s
          FROM inventory_absent a WHERE o.vault_id = %(vault)s AND o.key = a.key AND a.certain AND %(certain)s
          RETURNING a.size, a.doubtful),
        unsure AS (
          UPDATE indexing_remoteobject o SET doubtful = true, rival_at = %(as_of)s::timestamptz - interval '2 seconds',
            revision = %(revision)s
          FROM inventory_absent a
          WHERE o.vault_id = %(vault)s AND o.key = a.key AND NOT (a.certain AND %(certain)s) AND NOT o.doubtful
          RETURNING 1),
        counted AS (
          SELECT count(*) AS removed, coalesce(sum(size), 0) AS bytes, count(*) FILTER (WHERE doubtful) AS settled,
            (SELECT count(*) FROM unsure) AS unsure FROM gone)
        UPDATE indexing_indexstate SET object_count = object_count - removed, total_bytes = total_bytes - bytes,
          doubtful_count = doubtful_count + unsure - settled
        FROM counted WHERE vault_id = %(vault)s RETURNING removed
        """,
        {"vault": vault_id, "revision": moment.revision, "certain": certain, **_times(as_of)},
    )
    return removed


def _times(as_of: datetime) -> dict[str, Any]:
    return {"as_of": as_of, "settled": as_of - SETTLED}


def _execute(statement: str, parameters: Any = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def _row(statement: str, parameters: Any = None) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        row: tuple[Any, ...] = cursor.fetchone()
    return row


def _one(statement: str, parameters: Any = None) -> Any:
    return _row(statement, parameters)[0]
