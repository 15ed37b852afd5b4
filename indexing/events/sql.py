"""What events read and write beyond `indexing.merge`. Called under the lock that `indexing.sql.begin` takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from psycopg import Cursor

from indexing.order import Known
from indexing.sql import Moment
from indexing.terms import Source
from vaulthalla.arrays import literal

_COLUMNS = (
    "observed_at",
    "source",
    "etag",
    "gone",
    "size",
    "last_modified",
    "storage_class",
    "archive_status",
    "restore",
    "restore_expires",
    "version_id",
    "sequencer",
    "sha256",
    "mtime_ns",
    "rival_at",
    "revision",
)


def patiently(wait: timedelta) -> None:
    """In this transaction, waits so long for a lock: an import holds a vault's index for its whole commit."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{int(wait.total_seconds())}s"])


def known(vault_id: int, keys: Sequence[str]) -> dict[str, Known]:
    """The rows of these keys, as knowledge."""
    statement = """
      SELECT o.key, observed_at, source, etag, tombstone OR (doubtful AND etag = ''), size, last_modified,
        storage_class, archive_status, restore, restore_expires, version_id, sequencer, sha256, mtime_ns, rival_at,
        revision
      FROM unnest(%s::text[]) AS given (key)
      JOIN LATERAL (
        SELECT * FROM indexing_remoteobject WHERE vault_id = %s::bigint AND key = given.key OFFSET 0) o ON true
    """
    if not keys:
        return {}
    connection.ensure_connection()
    # Binary, since times are read in C then.
    with connection.wrap_database_errors, Cursor(connection.connection) as cursor:
        rows = cursor.execute(statement, [literal(keys), vault_id], binary=True).fetchall()
    return {row[0]: _known(row[1:]) for row in rows}


def _known(row: tuple[Any, ...]) -> Known:
    named = dict(zip(_COLUMNS, row, strict=True))
    sha256 = named["sha256"]
    return Known(**{**named, "source": Source(named["source"]), "sha256": None if sha256 is None else bytes(sha256)})


def doubt(vault_id: int, doubts: Sequence[tuple[str, datetime, str]], moment: Moment) -> None:
    """(key, since when, newest sequencer): these become doubtful until something later is seen.

    A key that is unknown, or was deleted, may be back: it gets a live row without an ETag.
    """
    # Two seconds earlier, since that is how long a rival raises doubt.
    statement = """
      WITH given AS (
        SELECT key, at, sequencer FROM unnest(%(keys)s::text[], %(times)s::timestamptz[], %(sequencers)s::text[])
          AS given (key, at, sequencer)),
      before AS (
        SELECT count(*) AS given, count(o.key) FILTER (WHERE NOT tombstone) AS live,
          count(o.key) FILTER (WHERE doubtful) AS doubtful
        FROM given LEFT JOIN indexing_remoteobject o ON o.vault_id = %(vault)s AND o.key = given.key),
      written AS (
        INSERT INTO indexing_remoteobject AS target (vault_id, key, size, etag, storage_class, archive_status, restore,
          version_id, sequencer, source, observed_at, tombstone, doubtful, rival_at, revision)
        SELECT %(vault)s, key, 0, '', 'STANDARD', '', '', '', sequencer, 'event', at, false, true,
          at - interval '2 seconds', %(revision)s
        FROM given
        ON CONFLICT (vault_id, key) DO UPDATE SET tombstone = false, doubtful = true, rival_at = EXCLUDED.rival_at,
          sequencer = EXCLUDED.sequencer, revision = EXCLUDED.revision)
      UPDATE indexing_indexstate SET object_count = object_count + given - live,
        doubtful_count = doubtful_count + given - before.doubtful
      FROM before WHERE vault_id = %(vault)s
    """
    if not doubts:
        return
    keys, times, sequencers = zip(*doubts, strict=True)
    with connection.cursor() as cursor:
        parameters = {"keys": list(keys), "times": list(times), "sequencers": list(sequencers)}
        cursor.execute(statement, {**parameters, "vault": vault_id, "revision": moment.revision})
