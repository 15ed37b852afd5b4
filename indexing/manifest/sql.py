"""The statements of the manifest: what it lacks, rows on their way out, and rows that came in.

Rows come in through the index's own merge. They are staged beside it first, so that of each key the newest row of
several objects is known before the index is locked. By `indexing_indexstate.published_revision` a row tells whether
the manifest holds it: a row whose revision is higher is to be published.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from django.db import connection
from msgspec import structs

from indexing import sql
from indexing.manifest.format import Facts, Row
from indexing.sql import Changes, Moment

PAGE = 5_000
# Rows of one merge: blocks of the sorted table.
BLOCKS = 250

_MICROS = "(extract(epoch FROM {0}) * 1000000)::bigint"
_ROWS = f"""
SELECT key, {_MICROS.format("observed_at")}, tombstone OR (doubtful AND etag = ''), size, etag,
       {_MICROS.format("last_modified")}, storage_class, archive_status, restore,
       {_MICROS.format("restore_expires")}, version_id, sequencer, encode(sha256, 'hex'), mtime_ns,
       {_MICROS.format("rival_at")}
  FROM indexing_remoteobject WHERE vault_id = %(vault)s
"""  # noqa: S608 - of constants
# Every row, by the primary key; or those above a revision, by `remote_unpublished`.
ALL = f"{_ROWS} ORDER BY key"
ABOVE = f"{_ROWS} AND revision > %(above)s ORDER BY key"
COUNT_ABOVE = "SELECT count(*) FROM indexing_remoteobject WHERE vault_id = %(vault)s AND revision > %(above)s"

_TIME = "'epoch'::timestamptz + {0} * interval '1 microsecond'"
_SLICE = f"""
  SELECT key, {_TIME.format("observed_at")} AS observed_at, gone, size, etag,
    {_TIME.format("last_modified")} AS last_modified, storage_class, archive_status, restore,
    {_TIME.format("restore_expires")} AS restore_expires, version_id, sequencer, decode(sha256, 'hex') AS sha256,
    mtime_ns, {_TIME.format("rival_at")} AS rival_at
  FROM manifest_sorted WHERE ctid >= %(first)s::tid AND ctid < %(last)s::tid
"""  # noqa: S608 - of constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of an index at one instant, with a reader of its rows at that instant."""

    revision: int
    published_revision: int
    base_revision: int
    object_count: int
    total_bytes: int
    facts: Facts
    reader: psycopg.Connection[Any]

    def count(self, vault_id: int, *, above: int) -> int:
        row = self.reader.execute(COUNT_ABOVE, {"vault": vault_id, "above": above}).fetchone()
        return int(row[0]) if row else 0

    def pages(self, vault_id: int, *, above: int | None) -> Iterator[list[Row]]:
        """Rows in key order; `above` None: all of them."""
        with psycopg.ServerCursor(self.reader, "manifest_rows") as cursor:
            cursor.execute(ALL if above is None else ABOVE, {"vault": vault_id, "above": above})
            while rows := cursor.fetchmany(PAGE):
                yield [Row(*row) for row in rows]


@contextmanager
def snapshot(vault_id: int) -> Iterator[Snapshot | None]:
    """What is known at one instant, read on a connection of its own while merges go on; None when nothing is."""
    reader = connection.copy()
    try:
        reader.ensure_connection()
        raw: psycopg.Connection[Any] = reader.connection
        with raw.transaction():
            raw.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            row = raw.execute(
                """
                SELECT revision, published_revision, base_revision, object_count, total_bytes, complete,
                       snapshot_as_of, floor_at, events_through
                  FROM indexing_indexstate WHERE vault_id = %s
                """,
                [vault_id],
            ).fetchone()
            yield None if row is None else _snapshot(row, raw)
    finally:
        reader.close()


def _snapshot(row: tuple[Any, ...], raw: psycopg.Connection[Any]) -> Snapshot:
    complete, snapshot_as_of, floor_at, events_through = row[5:]
    return Snapshot(
        revision=row[0],
        published_revision=row[1],
        base_revision=row[2],
        object_count=row[3],
        total_bytes=int(row[4]),
        facts=Facts(complete=complete, snapshot_as_of=snapshot_as_of, floor_at=floor_at, events_through=events_through),
        reader=raw,
    )


def has_unpublished(vault_id: int, above: int) -> bool:
    """Whether a row says what the manifest does not."""
    statement = "SELECT EXISTS (SELECT FROM indexing_remoteobject WHERE vault_id = %s AND revision > %s)"
    with connection.cursor() as cursor:
        cursor.execute(statement, [vault_id, above])
        return bool(cursor.fetchone()[0])


def explain_unpublished(vault_id: int, above: int) -> str:
    """The plan of the question what to publish, for the test that guards it."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {ABOVE}", {"vault": vault_id, "above": above})
        return "\n".join(line for (line,) in cursor.fetchall())


# --- coming in ---


def prepare() -> None:
    """Empty staging; it lives as long as the connection, or until `drop`."""
    drop()
    _execute("""
      CREATE TEMP TABLE manifest_staged (ordinal int NOT NULL, delta boolean NOT NULL, key text COLLATE "C" NOT NULL,
        observed_at bigint NOT NULL, gone boolean NOT NULL, size bigint NOT NULL, etag text NOT NULL,
        last_modified bigint, storage_class text NOT NULL, archive_status text NOT NULL, restore text NOT NULL,
        restore_expires bigint, version_id text NOT NULL, sequencer text NOT NULL, sha256 text, mtime_ns bigint,
        rival_at bigint)
    """)


def drop() -> None:
    _execute("DROP TABLE IF EXISTS manifest_staged, manifest_sorted")


def stage(rows: Iterable[Row], *, ordinal: int, delta: bool) -> None:
    """Rows of one object; of each key the one with the highest ordinal will hold."""
    connection.ensure_connection()
    with (
        connection.wrap_database_errors,
        connection.connection.cursor() as cursor,
        cursor.copy("COPY manifest_staged FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row((ordinal, delta, *structs.astuple(row)))


def sort() -> None:
    """Of each key the row that holds, in key order."""
    _execute("""
      CREATE TEMP TABLE manifest_sorted AS
      SELECT DISTINCT ON (key) * FROM manifest_staged ORDER BY key, ordinal DESC
    """)
    _execute("CREATE UNIQUE INDEX ON manifest_sorted (key)")
    _execute("ANALYZE manifest_sorted")


def merge(vault_id: int, moment: Moment, *, since: int) -> Changes:
    """Slice by slice. Rows up to revision `since` were known to who published these, who is right about them."""
    parameters: dict[str, Any] = {
        "vault": vault_id,
        "revision": moment.revision,
        "snapshot_as_of": moment.snapshot_as_of,
        "scan_started_at": moment.scan_started_at,
        "since": since,
        "source": "manifest",
        "own": False,
        "event": False,
        "listing": False,
        "touch": True,
    }
    changes = Changes()
    for part in _slices():
        changes += sql.merge_from(_SLICE, parameters | part)
    return changes


def insert(vault_id: int, moment: Moment) -> None:
    """Slice by slice into an index that knows nothing yet: what `merge` and `mark` would make of it there."""
    parameters = {"vault": vault_id, "revision": moment.revision}
    for part in _slices():
        _execute(_INSERT, parameters | part)


# A rival that is too old to raise doubt is dropped, as by a merge: to be told again, as by `_BETTER_KNOWN`.
_INSERT = f"""
WITH incoming AS ({_SLICE.replace("SELECT key", "SELECT delta, key", 1)}),
written AS (
  INSERT INTO indexing_remoteobject (vault_id, key, size, etag, last_modified, storage_class, archive_status, restore,
    restore_expires, version_id, sequencer, sha256, mtime_ns, source, observed_at, tombstone, doubtful, rival_at,
    revision)
  SELECT %(vault)s, key, size, etag, last_modified, storage_class, archive_status, restore, restore_expires, version_id,
    sequencer, sha256, mtime_ns, 'manifest', observed_at, gone AND rival IS NULL, rival IS NOT NULL, rival,
    %(revision)s + CASE WHEN rival_at IS NOT NULL AND rival IS NULL THEN 2 WHEN delta THEN 1 ELSE 0 END
  FROM incoming CROSS JOIN LATERAL (
    SELECT CASE WHEN rival_at >= observed_at - interval '2 seconds' THEN rival_at END AS rival) kept
  RETURNING size, tombstone, doubtful)
UPDATE indexing_indexstate SET object_count = object_count + added, total_bytes = total_bytes + bytes,
  doubtful_count = doubtful_count + doubtful
FROM (
  SELECT count(*) FILTER (WHERE NOT tombstone) AS added, count(*) FILTER (WHERE doubtful) AS doubtful,
    coalesce(sum(size) FILTER (WHERE NOT tombstone), 0) AS bytes FROM written) counted
WHERE vault_id = %(vault)s
"""  # noqa: S608 - of constants


def _slices() -> Iterator[dict[str, str]]:
    """Of the sorted rows."""
    blocks = _one("SELECT pg_relation_size('manifest_sorted') / current_setting('block_size')::int")
    for first in range(0, blocks, BLOCKS):
        yield {"first": f"({first},0)", "last": f"({first + BLOCKS},0)"}


def mark(vault_id: int, moment: Moment, *, published: int, base: int) -> None:
    """Tells the rows that the manifest holds from those it does not, after a merge at `moment`.

    Up to `moment.revision`: held by the manifest; one more: in its deltas; two more: to be published.
    """
    parameters = {
        "vault": vault_id,
        "at": moment.revision,
        "published": published,
        "base": base,
        "floor": moment.snapshot_as_of,
        "scan": moment.scan_started_at,
    }
    for statement in (_IN_DELTAS, _BETTER_KNOWN, _ABSENT_HERE, _ONLY_HERE):
        _execute(statement, parameters)


# What a delta brought is not in the shards, though the row may have been known before.
_IN_DELTAS = """
UPDATE indexing_remoteobject o SET revision = %(at)s + 1 FROM manifest_sorted s
 WHERE o.vault_id = %(vault)s AND o.key = s.key AND s.delta AND o.revision <= greatest(%(base)s, %(at)s)
"""
# What is known better here than there.
_BETTER_KNOWN = """
UPDATE indexing_remoteobject o SET revision = %(at)s + 2 FROM manifest_sorted s
 WHERE o.vault_id = %(vault)s AND o.key = s.key
   AND (o.tombstone OR (o.doubtful AND o.etag = ''), o.etag, o.rival_at IS NULL, encode(o.sha256, 'hex'))
     IS DISTINCT FROM (s.gone, s.etag, s.rival_at IS NULL, s.sha256)
"""
# What a scan of ours says was absent has no row here; there it must be told.
_ABSENT_HERE = """
INSERT INTO indexing_remoteobject (vault_id, key, size, etag, storage_class, archive_status, restore,
  version_id, sequencer, source, observed_at, tombstone, doubtful, revision)
SELECT %(vault)s, s.key, 0, '', 'STANDARD', '', '', '', '', 'manifest',
  greatest(%(floor)s::timestamptz, %(scan)s::timestamptz), true, false, %(at)s + 2
  FROM manifest_sorted s
 WHERE NOT s.gone AND coalesce(%(floor)s::timestamptz, %(scan)s::timestamptz) IS NOT NULL
ON CONFLICT (vault_id, key) DO NOTHING
"""
# What nobody else has told.
_ONLY_HERE = """
UPDATE indexing_remoteobject o SET revision = %(at)s + 2
 WHERE o.vault_id = %(vault)s AND o.revision > %(published)s AND o.revision < %(at)s
   AND NOT EXISTS (SELECT FROM manifest_sorted s WHERE s.key = o.key)
"""


def doubt_unconfirmed(vault_id: int, moment: Moment, *, floor: datetime, whole: bool) -> None:
    """Objects that a complete manifest lacks though they were seen before its scan: a HEAD will tell.

    `whole`: all of the manifest was merged; else only rows that it cannot know are asked about.
    """
    _execute(
        """
        WITH marked AS (
          UPDATE indexing_remoteobject o SET doubtful = true, rival_at = %(floor)s::timestamptz - interval '2 seconds',
            revision = %(at)s + 2
          WHERE o.vault_id = %(vault)s AND NOT o.tombstone AND NOT o.doubtful
            AND (%(whole)s OR o.revision = %(at)s + 2)
            AND greatest(o.observed_at, %(own)s::timestamptz) < %(floor)s::timestamptz
            AND NOT EXISTS (SELECT FROM manifest_sorted s WHERE s.key = o.key)
          RETURNING 1)
        UPDATE indexing_indexstate SET doubtful_count = doubtful_count + (SELECT count(*) FROM marked)
         WHERE vault_id = %(vault)s AND EXISTS (SELECT FROM marked)
        """,
        {"vault": vault_id, "at": moment.revision, "floor": floor, "own": moment.snapshot_as_of, "whole": whole},
    )


def _execute(statement: str, parameters: Any = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def _one(statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]
