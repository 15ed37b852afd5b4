"""The statements of an import. Rows are staged in tables of their run, dropped with it.

An inventory is eventually consistent: what it tells is certain only up to `SETTLED` before its start. So a row of it
counts as observed then, or when its object was written, if that was later (never after the start). That makes the
index's one rule of order right for inventories, too: an event or a write of those two days wins over an older row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from django.db import OperationalError, connection, transaction
from psycopg import Copy

from indexing import sql
from indexing.digests import LAST
from indexing.sql import Changes, Moment

if TYPE_CHECKING:  # pyarrow is loaded only by who reads or merges an inventory
    from indexing.inventory.runs import Blocks, Copied, Piece

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
_SUSPECTS = """
  CREATE TEMP TABLE inventory_suspects (key text COLLATE "C" NOT NULL, etag text NOT NULL, storage_class text NOT NULL,
    version_id text NOT NULL, archive_status text NOT NULL, size bigint NOT NULL, last_modified timestamptz,
    observed_at timestamptz NOT NULL) ON COMMIT DROP;
  CREATE TEMP TABLE inventory_spans (after text COLLATE "C" NOT NULL, upto text COLLATE "C" NOT NULL) ON COMMIT DROP
"""
# Both sides of what may differ: most of what an inventory says is known already, and needs no judging
# (`indexing.sql`).
_COMPARE = """
  CREATE TEMP TABLE inventory_differs ON COMMIT DROP AS
  SELECT coalesce(s.key, o.key) AS key, s.key IS NULL AS absent, s.observed_at, s.size, s.etag, s.last_modified,
    s.storage_class, s.archive_status, s.version_id, o.size AS o_size, o.doubtful AS o_doubtful,
    o.observed_at AS o_observed_at, o.rival_at AS o_rival_at
  FROM inventory_suspects s
  FULL JOIN (
    SELECT o.* FROM inventory_spans span
    JOIN indexing_remoteobject o ON o.vault_id = %(vault)s AND o.key > span.after AND o.key <= span.upto
  ) o ON o.key = s.key
  WHERE CASE WHEN s.key IS NULL THEN NOT o.tombstone AND starts_with(o.key, %(part)s::text)
    ELSE o.key IS NULL OR o.tombstone OR o.doubtful OR o.restore <> '' OR o.restore_expires IS NOT NULL
      OR (s.size, s.etag, s.storage_class) <> (o.size, o.etag, o.storage_class)
      OR s.last_modified IS DISTINCT FROM o.last_modified
      OR (s.archive_status <> '' AND s.archive_status <> o.archive_status)
      OR (s.version_id <> '' AND s.version_id <> o.version_id) END
"""
# Rows are staged as the pieces of sorted runs (`runs`), packed already.
_STAGE = """
  CREATE UNLOGGED TABLE {table} (first text COLLATE "C" NOT NULL, rows bytea STORAGE EXTERNAL NOT NULL)
    WITH (autovacuum_enabled = false)
"""
_ANY = "SELECT EXISTS (SELECT FROM {table})"
_ALL = "SELECT first, rows FROM {table}"
# The columns of `runs.copied`, in their order.
INDEXED = (
    "vault_id, key, size, etag, last_modified, storage_class, archive_status, version_id, observed_at, source,"
    " revision, restore, sequencer, tombstone, doubtful"
)
FETCHED = 4
_COPY_HEAD, _COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


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


def load(table: str, pieces: Iterable[Piece]) -> None:
    """Pieces of a run."""
    with _copy(f"COPY {_named(table)} FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["text", "bytea"])
        for piece in pieces:
            copy.write_row(piece)


@contextmanager
def _copy(statement: str) -> Iterator[Copy]:
    connection.ensure_connection()
    with connection.wrap_database_errors, connection.connection.cursor() as cursor, cursor.copy(statement) as copy:
        yield copy


def _named(table: str) -> str:
    """Names come back from rows, so they are looked at before they become part of a statement."""
    if not _STAGED.fullmatch(table):
        raise ValueError(f"{table!r} is no staging table.")
    return table


@contextmanager
def pieces(tables: Sequence[str]) -> Iterator[Iterator[Piece]]:
    """What was loaded, in the order of the pieces' first keys; read on a connection of its own."""
    reader = connection.copy()
    try:
        reader.ensure_connection()
        raw: psycopg.Connection[Any] = reader.connection
        with raw.transaction():
            yield _pieces(raw, tables)
    finally:
        reader.close()


def _pieces(raw: psycopg.Connection[Any], tables: Sequence[str]) -> Iterator[Piece]:
    if not tables:
        return
    everything = " UNION ALL ".join(_ALL.format(table=_named(table)) for table in tables)
    with psycopg.ServerCursor(raw, "inventory_pieces") as cursor:
        cursor.execute(f"{everything} ORDER BY first", binary=True)
        while rows := cursor.fetchmany(FETCHED):
            yield from rows


def insert(vault_id: int, rows: Iterable[Copied]) -> Changes:
    """Straight into an index without a row, and without a scan that would speak for absence. Keys in order."""
    added = size = 0
    with _copy(f"COPY indexing_remoteobject ({INDEXED}) FROM STDIN (FORMAT binary)") as copy:
        copy.write(_COPY_HEAD)
        for some in rows:
            copy.write(some.body)
            added += some.rows
            size += some.size
        copy.write(_COPY_END)
    _execute(
        """
        UPDATE indexing_indexstate SET object_count = object_count + %(added)s, total_bytes = total_bytes + %(size)s
        WHERE vault_id = %(vault)s
        """,
        {"vault": vault_id, "added": added, "size": size},
    )
    return Changes(added=added)


class Comparison:
    """Finds what differs from the index below `part`, under its lock; kept for `merge`, `find_absent` and `remove`.

    With `straight`, blocks that the index has no row near of go into it at once, where the merge would take them as
    they are, too.
    """

    def __init__(self, vault_id: int, part: str, moment: Moment, *, straight: bool) -> None:
        self.vault_id, self.part, self.moment, self.straight = vault_id, part, moment, straight
        self._floor = max(filter(None, (moment.snapshot_as_of, moment.scan_started_at)), default=None)
        self._spans: list[tuple[str, str]] = []
        self._last = ""
        _execute("DROP TABLE IF EXISTS inventory_suspects, inventory_spans, inventory_differs")
        _execute(_SUSPECTS)

    def add(self, blocks: Blocks) -> Changes:
        """All rows in order, some blocks at a time. Of a block whose digest is the index's nobody sees more."""
        known = sql.digests(self.vault_id, blocks.spans, part=self.part, told=blocks.told)
        self._last = blocks.spans[-1][1]
        differing = [n for n, (new, old) in enumerate(zip(blocks.digests, known, strict=True)) if new != old]
        new = self._new(blocks, [n for n in differing if known[n] is None]) if self.straight else []
        suspects = sorted({*differing} - {*new})
        for number in suspects:
            self._suspect(blocks.spans[number])
        if suspects:
            with _copy("COPY inventory_suspects FROM STDIN (FORMAT binary)") as copy:
                copy.write(_COPY_HEAD)
                copy.write(blocks.rows(suspects))
                copy.write(_COPY_END)
        if not new:
            return Changes()
        return insert(self.vault_id, [blocks.copied(new, vault_id=self.vault_id, revision=self.moment.revision)])

    def _new(self, blocks: Blocks, numbers: Sequence[int]) -> list[int]:
        """Of these blocks, those without a row of the index, not even a tombstone, and all of them news to it."""
        fresh = numbers if self._floor is None else blocks.newer(numbers, self._floor + sql.CLOSE)
        known = sql.has_rows(self.vault_id, [blocks.spans[n] for n in fresh]) if fresh else ()
        return [n for n, has in zip(fresh, known, strict=True) if not has]

    def finish(self) -> None:
        """After the last row."""
        if sql.digests(self.vault_id, [(self._last, LAST)], part=self.part)[0] is not None:
            self._suspect((self._last, LAST))
        with _copy("COPY inventory_spans FROM STDIN") as copy:
            for span in self._spans:
                copy.write_row(span)
        _execute("SET LOCAL work_mem = '64MB'")
        _execute("ANALYZE inventory_suspects (key)")
        _execute("ANALYZE inventory_spans")
        _execute(_COMPARE, {"vault": self.vault_id, "part": self.part})

    def _suspect(self, span: tuple[str, str]) -> None:
        """Neighbours are one span."""
        if self._spans and self._spans[-1][1] == span[0]:
            self._spans[-1] = (self._spans[-1][0], span[1])
        else:
            self._spans.append(span)


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
