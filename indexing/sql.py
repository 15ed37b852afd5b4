"""Every statement of the index beyond the ORM. All rely on the primary key (vault_id, key), in "C" order.

Every merge of a vault first takes the row lock of its state (`begin`), so merges follow one another and the
statements need no races of their own: what they read is what they change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from psycopg import Cursor

from indexing.digests import LAST, OPTIONAL
from indexing.ranges import Range, raw
from vaulthalla.errors import NotFound

FEWEST_SAMPLED = 1_000
# What is seen within two seconds of something else may be older than it.
CLOSE = timedelta(seconds=2)

# How observations cross: one array literal per column; a column that nobody knows is an empty one.
COLUMNS: Mapping[str, str] = {
    "key": "text",
    "observed_at": "timestamptz",
    "gone": "boolean",
    "size": "bigint",
    "etag": "text",
    "last_modified": "timestamptz",
    "storage_class": "text",
    "archive_status": "text",
    "restore": "text",
    "restore_expires": "timestamptz",
    "version_id": "text",
    "sequencer": "text",
    "sha256": "bytea",
    "mtime_ns": "bigint",
    "rival_at": "timestamptz",
}
_ARRAYS = ", ".join(f"%({name})s::{kind}[]" for name, kind in COLUMNS.items())

# The observations of a batch. Keys are unique within it.
_INCOMING = """
  SELECT key, coalesce(observed_at, %(seen_at)s::timestamptz) AS observed_at,
         coalesce(gone, false) AS gone, coalesce(size, 0) AS size, coalesce(etag, '') AS etag,
         last_modified, coalesce(storage_class, 'STANDARD') AS storage_class,
         coalesce(archive_status, '') AS archive_status, coalesce(restore, '') AS restore, restore_expires,
         coalesce(version_id, '') AS version_id, coalesce(sequencer, '') AS sequencer, sha256, mtime_ns, rival_at
  FROM unnest({arrays}) AS given ({columns})
"""

# Rows of a key range that a page covering it does not hold: seen as gone, at the page's time.
_ABSENT = """
  UNION ALL
  SELECT o.key, %(absent_at)s::timestamptz, true, 0, '', NULL, 'STANDARD', '', '', NULL, '', '', NULL, NULL, NULL
  FROM indexing_remoteobject o
  WHERE o.vault_id = %(vault)s::bigint AND o.key >= %(first)s::text
    AND (%(last)s::text IS NULL OR o.key <= %(last)s::text)
    AND (NOT o.tombstone OR o.doubtful) AND starts_with(o.key, %(prefix)s::text)
    AND o.key <> %(after)s::text AND NOT EXISTS (SELECT FROM {seen} AS page (key) WHERE page.key = o.key)
    AND NOT EXISTS (SELECT FROM unnest(%(unreadable)s::text[]) AS hidden (part) WHERE starts_with(o.key, hidden.part))
"""
_SEEN_ON_PAGE = "unnest(%(key)s::text[])"
_SEEN_BY_RUN = "(SELECT key FROM indexing_scannedkey WHERE run_id = %(run)s::bigint)"

# `indexing.digests`. A row that must be looked at in any case has an ETag here that no object has.
_DIGESTS = r"""
  SELECT found.digest
  FROM unnest(%(after)s::text[], %(upto)s::text[]) WITH ORDINALITY AS span (after, upto, number)
  CROSS JOIN LATERAL (
    SELECT md5(int8send(count(*)) || string_agg(textsend(key), '\x00')
      || '\x00' || string_agg(coalesce(textsend(sure_etag), '\x00'), '\x00')
      || '\x00' || string_agg(textsend(storage_class), '\x00'){told}
      || string_agg(int8send(size), '') || string_agg(coalesce(timestamptz_send(last_modified), '\x00'), '')) AS digest
    FROM (
      SELECT key, CASE WHEN NOT doubtful AND restore = '' AND restore_expires IS NULL THEN etag END AS sure_etag,
        storage_class, version_id, archive_status, size, last_modified
      FROM indexing_remoteobject
      WHERE vault_id = %(vault)s::bigint AND key > span.after AND key <= span.upto
        AND NOT tombstone AND starts_with(key, %(part)s::text)
      ORDER BY key) known) found
  ORDER BY span.number
"""
_TOLD = r" || '\x00' || string_agg(textsend({name}), '\x00')"

# `indexing.order.join` for a whole batch; the names are the same.
_MERGE = """
WITH incoming AS ({incoming}),
compared AS MATERIALIZED (
  SELECT n.*, o.key IS NOT NULL AS had, r.o_at IS NOT NULL AS known, r.o_at, r.o_gone, r.o_etag,
         r.o_at IS NOT DISTINCT FROM o.observed_at AS fresh_row,
         o.size AS o_size, o.last_modified AS o_last_modified, o.storage_class AS o_storage_class,
         o.archive_status AS o_archive_status, o.restore AS o_restore, o.restore_expires AS o_restore_expires,
         o.version_id AS o_version_id, coalesce(o.sequencer, '') AS o_sequencer, o.sha256 AS o_sha256,
         o.mtime_ns AS o_mtime_ns, o.source AS o_source, o.observed_at AS o_observed_at,
         o.tombstone AS o_tombstone, o.doubtful AS o_doubtful, o.rival_at AS o_rival_at,
         coalesce(o.revision, 0) AS o_revision, f.floor,
         n.gone = r.o_gone AND n.etag = r.o_etag AS same,
         rpad(lower(n.sequencer), w.width, '0') COLLATE "C" > rpad(lower(o.sequencer), w.width, '0') AS later_sequencer
  FROM incoming n
  -- OFFSET keeps the planner from hashing the whole table for a page.
  LEFT JOIN LATERAL (
    SELECT * FROM indexing_remoteobject WHERE vault_id = %(vault)s::bigint AND key = n.key OFFSET 0) o ON true
  CROSS JOIN LATERAL (
    SELECT CASE WHEN %(scan_started_at)s::timestamptz IS NOT NULL AND EXISTS (
        SELECT FROM indexing_scanrange s WHERE s.vault_id = %(vault)s::bigint AND n.key COLLATE "C" > s.low
          AND (s.reached IS NULL OR n.key COLLATE "C" <= s.reached))
      THEN greatest(%(scan_started_at)s::timestamptz, %(snapshot_as_of)s::timestamptz)
      ELSE %(snapshot_as_of)s::timestamptz END AS floor) f
  CROSS JOIN LATERAL (
    SELECT greatest(o.observed_at, f.floor) AS o_at, coalesce(o.etag, '') AS o_etag,
           coalesce(o.tombstone OR (o.doubtful AND o.etag = ''), true) AS o_gone) r
  CROSS JOIN LATERAL (SELECT greatest(length(n.sequencer), length(o.sequencer)) AS width) w
  -- Most of a listing says what is known already; that needs no judging.
  WHERE %(touch)s::boolean OR o.key IS NULL OR o.tombstone OR o.doubtful OR n.gone
    OR (n.size, n.etag, n.storage_class, n.restore, n.sequencer) <>
      (o.size, o.etag, o.storage_class, o.restore, '')
    OR (n.last_modified, n.restore_expires) IS DISTINCT FROM (o.last_modified, o.restore_expires)
    OR (n.archive_status, n.version_id) <> ('', '') OR n.rival_at IS NOT NULL
    OR n.sha256 <> o.sha256 OR n.mtime_ns <> o.mtime_ns
    OR (n.sha256 IS NOT NULL AND o.sha256 IS NULL) OR (n.mtime_ns IS NOT NULL AND o.mtime_ns IS NULL)
),
judged AS MATERIALIZED (
  SELECT c.*, CASE
    WHEN NOT %(own)s::boolean AND observed_at < floor - interval '2 seconds' THEN 'drop'
    WHEN %(event)s::boolean AND sequencer <> '' AND o_sequencer <> '' AND NOT later_sequencer THEN 'drop'
    WHEN NOT known THEN 'first'
    WHEN had AND fresh_row AND %(event)s::boolean AND o_source = 'event' AND sequencer <> '' AND o_sequencer <> ''
      THEN 'sequenced'
    WHEN o_revision <= %(since)s::bigint AND ((had AND fresh_row) OR observed_at >= o_at - interval '2 seconds')
      THEN 'settles'
    WHEN %(own)s::boolean AND observed_at >= o_at - CASE WHEN o_source = 'event' THEN interval '0' ELSE '2 seconds' END
      THEN 'settles'
    WHEN had AND o_source = 'own' AND observed_at <= o_at THEN 'explained'
    WHEN (observed_at, gone, etag COLLATE "C") > (o_at, o_gone, o_etag COLLATE "C") THEN 'newer'
    ELSE 'older' END AS verdict
  FROM compared c
),
won AS MATERIALIZED (
  SELECT j.*, verdict IN ('first', 'sequenced', 'settles', 'newer') AS wins,
    CASE verdict
      WHEN 'settles' THEN CASE WHEN observed_at < o_at - interval '2 seconds' THEN observed_at
        ELSE greatest(observed_at, o_at) END
      WHEN 'first' THEN observed_at
      WHEN 'sequenced' THEN observed_at WHEN 'newer' THEN observed_at ELSE o_at END AS at,
    CASE verdict WHEN 'first' THEN rival_at WHEN 'settles' THEN rival_at
      WHEN 'sequenced' THEN greatest(rival_at, o_rival_at)
      WHEN 'explained' THEN o_rival_at
      WHEN 'newer' THEN greatest(rival_at, o_rival_at, CASE WHEN NOT same THEN o_at END)
      WHEN 'older' THEN greatest(rival_at, o_rival_at, CASE WHEN NOT same THEN observed_at END) END AS rival
  FROM judged j WHERE verdict <> 'drop'
),
settled AS MATERIALIZED (
  SELECT key, had, same, wins, at, floor, o_source, o_observed_at, o_tombstone, o_doubtful, o_size, o_etag,
    CASE WHEN rival >= at - interval '2 seconds' THEN rival END AS rival_at,
    CASE WHEN wins THEN gone ELSE o_gone END AS gone,
    CASE WHEN wins THEN size ELSE coalesce(o_size, 0) END AS size,
    CASE WHEN wins THEN etag ELSE o_etag END AS etag,
    CASE WHEN NOT same AND wins THEN last_modified WHEN NOT same THEN o_last_modified
      WHEN wins THEN coalesce(last_modified, o_last_modified) ELSE coalesce(o_last_modified, last_modified) END
      AS last_modified,
    CASE WHEN wins THEN storage_class ELSE coalesce(o_storage_class, 'STANDARD') END AS storage_class,
    CASE WHEN NOT wins THEN coalesce(o_archive_status, '') WHEN kept.alike AND archive_status = ''
      THEN o_archive_status ELSE archive_status END AS archive_status,
    CASE WHEN NOT wins THEN coalesce(o_restore, '') WHEN kept.restored THEN o_restore ELSE restore END AS restore,
    CASE WHEN NOT wins THEN o_restore_expires WHEN kept.restored THEN o_restore_expires ELSE restore_expires END
      AS restore_expires,
    CASE WHEN wins THEN CASE WHEN same AND version_id = '' THEN coalesce(o_version_id, '') ELSE version_id END
      WHEN same AND o_version_id = '' THEN version_id ELSE coalesce(o_version_id, '') END AS version_id,
    CASE WHEN o_sequencer = '' OR later_sequencer THEN sequencer ELSE o_sequencer END AS sequencer,
    CASE WHEN wins AND same THEN coalesce(sha256, o_sha256) WHEN wins THEN sha256
      WHEN same THEN coalesce(o_sha256, sha256) ELSE o_sha256 END AS sha256,
    CASE WHEN wins AND same THEN coalesce(mtime_ns, o_mtime_ns) WHEN wins THEN mtime_ns
      WHEN same THEN coalesce(o_mtime_ns, mtime_ns) ELSE o_mtime_ns END AS mtime_ns,
    o_last_modified, o_storage_class, o_archive_status, o_restore, o_restore_expires, o_version_id, o_sequencer,
    o_sha256, o_mtime_ns, o_rival_at
  FROM won
  CROSS JOIN LATERAL (
    SELECT known AND same AND %(listing)s::boolean AND storage_class = coalesce(o_storage_class, '') AS alike,
           known AND same AND %(listing)s::boolean AND storage_class = coalesce(o_storage_class, '')
             AND restore = '' AND o_restore_expires > at AS restored) kept
),
-- A doubtful delete is shown as a live row without an ETag.
rows AS (
  SELECT s.*, gone AND rival_at IS NULL AS tombstone, rival_at IS NOT NULL AS doubtful,
    coalesce(NOT o_tombstone, false) AS was_live, coalesce(o_doubtful, false) AS was_doubtful
  FROM settled s
),
changes AS (
  SELECT r.*, had AND (size, etag, last_modified, storage_class, archive_status, restore, restore_expires, version_id,
      sequencer, sha256, mtime_ns, tombstone, rival_at)
    IS NOT DISTINCT FROM (o_size, o_etag, o_last_modified, o_storage_class, o_archive_status, o_restore,
      o_restore_expires, o_version_id, o_sequencer, o_sha256, o_mtime_ns, o_tombstone, o_rival_at) AS unchanged
  FROM rows r
  -- That the key was absent when the scan began needs no row.
  WHERE had OR doubtful OR NOT gone OR at IS DISTINCT FROM floor
),
due AS (
  SELECT * FROM changes WHERE NOT unchanged
    OR (%(touch)s::boolean AND (at IS DISTINCT FROM o_observed_at OR (wins AND o_source <> %(source)s::text)))
),
written AS (
  INSERT INTO indexing_remoteobject AS target (vault_id, key, size, etag, last_modified, storage_class, archive_status,
    restore, restore_expires, version_id, sequencer, sha256, mtime_ns, source, observed_at, tombstone, doubtful,
    rival_at, revision)
  SELECT %(vault)s::bigint, key, size, etag, last_modified, storage_class, archive_status, restore, restore_expires,
    version_id, sequencer, sha256, mtime_ns,
    CASE WHEN wins THEN %(source)s::text ELSE coalesce(o_source, 'list_objects_v2') END, at, tombstone, doubtful,
    rival_at, %(revision)s::bigint
  FROM due
  ON CONFLICT (vault_id, key) DO UPDATE SET size = EXCLUDED.size, etag = EXCLUDED.etag,
    last_modified = EXCLUDED.last_modified, storage_class = EXCLUDED.storage_class,
    archive_status = EXCLUDED.archive_status, restore = EXCLUDED.restore, restore_expires = EXCLUDED.restore_expires,
    version_id = EXCLUDED.version_id, sequencer = EXCLUDED.sequencer, sha256 = EXCLUDED.sha256,
    mtime_ns = EXCLUDED.mtime_ns, source = EXCLUDED.source, observed_at = EXCLUDED.observed_at,
    tombstone = EXCLUDED.tombstone, doubtful = EXCLUDED.doubtful, rival_at = EXCLUDED.rival_at,
    revision = EXCLUDED.revision
),
{noted}counted AS (
  SELECT count(*) FILTER (WHERE NOT was_live AND NOT tombstone) AS added,
    count(*) FILTER (WHERE was_live AND NOT tombstone AND NOT same AND wins) AS changed,
    count(*) FILTER (WHERE was_live AND tombstone) AS removed,
    coalesce(sum(CASE WHEN tombstone THEN 0 ELSE size END - CASE WHEN was_live THEN o_size ELSE 0 END), 0) AS bytes,
    coalesce(sum(doubtful::int - was_doubtful::int), 0) AS doubtful
  FROM due
),
state AS (
  UPDATE indexing_indexstate SET object_count = object_count + added - removed,
    total_bytes = total_bytes + bytes, doubtful_count = doubtful_count + counted.doubtful
  FROM counted WHERE vault_id = %(vault)s::bigint AND (added, removed, bytes, counted.doubtful) <> (0, 0, 0, 0)
)
SELECT added, changed, removed FROM counted
"""

# What the merge changed, for whoever asks for a list of it.
_NOTED = """noted AS (
  INSERT INTO indexing_finding (run_id, key, change)
  SELECT %(noted)s::bigint, key, CASE WHEN tombstone THEN 'removed' WHEN was_live THEN 'changed' ELSE 'added' END
  FROM due WHERE was_live = tombstone OR (was_live AND NOT same AND wins)
  ON CONFLICT (run_id, key) DO UPDATE SET change = EXCLUDED.change
),
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The state of a vault's index under its lock: this merge's revision, and the floors below its rows."""

    revision: int
    snapshot_as_of: datetime | None
    scan_started_at: datetime | None
    ranges: Sequence[Range] = ()  # of the unfinished scan

    def scanned(self, key: str) -> bool:
        """Whether the unfinished scan has been at `key`."""
        return any(one.covers(key) for one in self.ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a merge did to live rows. A doubtful row counts as live."""

    added: int = 0
    changed: int = 0
    removed: int = 0

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            added=self.added + other.added, changed=self.changed + other.changed, removed=self.removed + other.removed
        )


def begin(vault_id: int) -> Moment:
    """Locks the vault's state until the transaction ends, making it on first use, and gives the next revision.

    Raises NotFound where the vault was deleted. The vault is kept first: whoever deletes it takes the two locks in the
    same order, and a check of the foreign key at the end would take them in the other one.
    """
    statement = """
      WITH kept AS MATERIALIZED (SELECT id FROM vaults_vault WHERE id = %s FOR KEY SHARE)
      INSERT INTO indexing_indexstate AS state (vault_id, source, complete, manifest_etag, revision, object_count,
        total_bytes, doubtful_count, manifest_pending, published_revision, base_revision)
      SELECT id, 'none', false, '', 1, 0, 0, 0, '[]', 0, 0 FROM kept
      ON CONFLICT (vault_id) DO UPDATE SET revision = state.revision + 1
      RETURNING revision, CASE WHEN complete THEN coalesce(floor_at, snapshot_as_of) END, scan_started_at
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, [vault_id])
        row = cursor.fetchone()
    if row is None:
        raise NotFound(f"Vault {vault_id} was deleted meanwhile.")
    revision, snapshot_as_of, scan_started_at = row
    ranges = () if scan_started_at is None else ranges_of(vault_id)
    return Moment(revision=revision, snapshot_as_of=snapshot_as_of, scan_started_at=scan_started_at, ranges=ranges)


def ranges_of(vault_id: int) -> Sequence[Range]:
    """The ranges of the vault's unfinished scan, in key order."""
    statement = "SELECT low, high, reached, after FROM indexing_scanrange WHERE vault_id = %s ORDER BY low"
    with connection.cursor() as cursor:
        cursor.execute(statement, [vault_id])
        rows = cursor.fetchall()
    return [
        Range(low=low, high=high, reached=reached, after=bytes(after).decode("utf-8", "surrogateescape"))
        for low, high, reached, after in rows
    ]


def ranges_moved(vault_id: int, ranges: Sequence[Range]) -> None:
    """Ranges of the vault's unfinished scan that got further."""
    statement = """
      UPDATE indexing_scanrange AS stored SET reached = moved.reached, after = moved.after
      FROM unnest(%(low)s::text[], %(reached)s::text[], %(after)s::bytea[]) AS moved (low, reached, after)
      WHERE vault_id = %(vault)s AND stored.low = moved.low
    """
    low, reached, after = ([getattr(one, name) for one in ranges] for name in ("low", "reached", "after"))
    with connection.cursor() as cursor:
        cursor.execute(statement, {"vault": vault_id, "low": low, "reached": reached, "after": list(map(raw, after))})


_QUANTILES = """
  SELECT percentile_disc(%(at)s::float8[]) WITHIN GROUP (ORDER BY key), count(*)
  FROM indexing_remoteobject {sampled} WHERE vault_id = %(vault)s AND NOT tombstone
"""
_SAMPLED = """
  TABLESAMPLE SYSTEM ((SELECT least(100, 100.0 * %(blocks)s
    / greatest(1, pg_relation_size('indexing_remoteobject') / current_setting('block_size')::int)))) REPEATABLE (0)
"""


def quantiles(vault_id: int, parts: int, *, blocks: int | None = None) -> list[str]:
    """Keys that divide the live rows into `parts` of about equal size; with `blocks`, by a sample of so many.

    A sample of fewer than a thousand rows says nothing: no keys.
    """
    statement = _QUANTILES.format(sampled="" if blocks is None else _SAMPLED)
    at = [number / parts for number in range(1, parts)]
    with connection.cursor() as cursor:
        cursor.execute(statement, {"vault": vault_id, "at": at, "blocks": blocks})
        keys, count = cursor.fetchone()
    return [] if blocks is not None and count < FEWEST_SAMPLED else list(dict.fromkeys(keys or ()))


def merge(parameters: Mapping[str, Any], *, absent: str = "") -> Changes:
    """One batch (see COLUMNS) into the rows of one vault; `absent`: nothing, "page" or "run" (see `_ABSENT`).

    With a run as `noted`, each difference is kept as a finding of it.
    """
    noted = parameters.get("noted") is not None
    added, changed, removed = _run(_merge_statement(absent, noted=noted), parameters)[0]
    return Changes(added=added, changed=changed, removed=removed)


def merge_from(select: str, parameters: Mapping[str, Any]) -> Changes:
    """`merge` of observations that are in the database already: a SELECT of COLUMNS, in their order, keys unique."""
    added, changed, removed = _run(_MERGE.format(incoming=select, noted=""), parameters)[0]
    return Changes(added=added, changed=changed, removed=removed)


def explain(parameters: Mapping[str, Any], *, absent: str = "") -> str:
    """The plan of `merge`, for the test that guards it."""
    return "\n".join(line for (line,) in _run("EXPLAIN " + _merge_statement(absent), parameters))


def digests(
    vault_id: int, spans: Sequence[tuple[str, str]], *, part: str = "", told: frozenset[str] = frozenset()
) -> list[str | None]:
    """Of the live rows below `part` in each span of keys (after, up to); None where there is none.

    `told`: of OPTIONAL, what the other side knows.
    """
    return [digest for (digest,) in _run(_digests_statement(told), _spans(vault_id, spans, part), prepare=True)]


def knows_nothing(vault_id: int, moment: Moment) -> bool:
    """Whether nothing is known yet, not even that something is absent: then all that is told is news."""
    if moment.snapshot_as_of is not None or moment.scan_started_at is not None:
        return False
    return not has_rows(vault_id, [("", LAST)])[0]


def has_rows(vault_id: int, spans: Sequence[tuple[str, str]]) -> list[bool]:
    """Of each span of keys (after, up to): whether the index has any row in it, a tombstone included."""
    statement = """
      SELECT EXISTS (SELECT FROM indexing_remoteobject WHERE vault_id = %(vault)s::bigint
        AND key > span.after AND key <= span.upto)
      FROM unnest(%(after)s::text[], %(upto)s::text[]) WITH ORDINALITY AS span (after, upto, number)
      ORDER BY span.number
    """
    return [has for (has,) in _run(statement, _spans(vault_id, spans, ""), prepare=True)]


def explain_digests(vault_id: int, spans: Sequence[tuple[str, str]]) -> str:
    """The plan of `digests`, for the test that guards it."""
    rows = _run("EXPLAIN " + _digests_statement(frozenset()), _spans(vault_id, spans, ""))
    return "\n".join(line for (line,) in rows)


def _digests_statement(told: frozenset[str]) -> str:
    return _DIGESTS.format(told="".join(_TOLD.format(name=name) for name in OPTIONAL if name in told))


def _spans(vault_id: int, spans: Sequence[tuple[str, str]], part: str) -> dict[str, Any]:
    after, upto = zip(*spans, strict=True)
    return {"vault": vault_id, "part": part, "after": list(after), "upto": list(upto)}


def _merge_statement(absent: str, *, noted: bool = False) -> str:
    incoming = _INCOMING.format(arrays=_ARRAYS, columns=", ".join(COLUMNS))
    if absent:
        incoming += _ABSENT.format(seen={"page": _SEEN_ON_PAGE, "run": _SEEN_BY_RUN}[absent])
    return _MERGE.format(incoming=incoming, noted=_NOTED if noted else "")


def doubt_below(vault_id: int, prefixes: Sequence[str], *, at: datetime, revision: int) -> None:
    """Live rows below these prefixes, last seen at `at` or before, become doubtful until something newer is seen."""
    # Two seconds earlier, since that is how long a rival raises doubt.
    statement = """
      WITH marked AS (
        UPDATE indexing_remoteobject SET doubtful = true, revision = %(revision)s,
          rival_at = %(at)s::timestamptz - interval '2 seconds'
        WHERE vault_id = %(vault)s AND observed_at <= %(at)s AND NOT tombstone AND NOT doubtful
          AND EXISTS (SELECT FROM unnest(%(prefixes)s::text[]) AS hidden (part) WHERE starts_with(key, part))
        RETURNING 1)
      UPDATE indexing_indexstate SET doubtful_count = doubtful_count + (SELECT count(*) FROM marked)
      WHERE vault_id = %(vault)s AND EXISTS (SELECT FROM marked)
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, {"vault": vault_id, "prefixes": list(prefixes), "at": at, "revision": revision})


def count_below(vault_id: int, prefix: str) -> int:
    """Live rows below a prefix: a range of the primary key."""
    statement = """
      SELECT count(*) FROM indexing_remoteobject
      WHERE vault_id = %(vault)s AND key >= %(prefix)s AND starts_with(key, %(prefix)s) AND NOT tombstone
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, {"vault": vault_id, "prefix": prefix})
        count: int = cursor.fetchone()[0]
    return count


def remember_scanned(run_id: int, keys: Sequence[str]) -> None:
    """Keys that an unordered scan has seen; again is no error."""
    statement = """
      INSERT INTO indexing_scannedkey (run_id, key) SELECT %s, unnest(%s::text[]) ON CONFLICT DO NOTHING
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, [run_id, list(keys)])


def forget_scanned(run_id: int) -> None:
    """The scan is over."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM indexing_scannedkey WHERE run_id = %s", [run_id])


def _run(statement: str, parameters: Mapping[str, Any], *, prepare: bool | None = None) -> list[tuple[Any, ...]]:
    """Binds on the server: arrays of thousands need not be written out as text."""
    connection.ensure_connection()
    with connection.wrap_database_errors, Cursor(connection.connection) as cursor:
        return cursor.execute(statement, parameters, prepare=prepare).fetchall()


def count_classes(vault_id: int, *, within: timedelta | None) -> tuple[dict[str, dict[str, int]], int]:
    """Live rows by storage class, and the number of tombstones; in a transaction that ends after `within`."""
    statement = """
      SELECT tombstone, storage_class, count(*), coalesce(sum(size), 0)::bigint FROM indexing_remoteobject
      WHERE vault_id = %s GROUP BY 1, 2 ORDER BY 2
    """
    with connection.cursor() as cursor:
        if within is not None:
            limit = f"{max(1, int(within.total_seconds() * 1000))}ms"
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [limit])
        cursor.execute(statement, [vault_id])
        rows = cursor.fetchall()
    classes = {name: {"objects": count, "bytes": size} for gone, name, count, size in rows if not gone}
    return classes, sum(count for gone, _, count, _ in rows if gone)


def findings(run_id: int, changes: Sequence[str], *, after: str, limit: int) -> list[tuple[str, str, int | None]]:
    """Keys after `after` that a run noted, with the change and the size of the live row: a range of the primary key."""
    statement = """
      SELECT f.key, f.change, o.size FROM indexing_finding f
      JOIN work_run r ON r.id = f.run_id
      LEFT JOIN indexing_remoteobject o ON o.vault_id = r.vault_id AND o.key = f.key AND NOT o.tombstone
      WHERE f.run_id = %s AND f.key > %s AND f.change = ANY(%s) ORDER BY f.key LIMIT %s
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, [run_id, after, list(changes), limit])
        rows: list[tuple[str, str, int | None]] = cursor.fetchall()
    return rows


def sample(vault_id: int, run_id: int, size: int) -> int:
    """Notes `size` live rows, each as likely as any other, as findings to be looked at. Returns the count."""
    # Some more than wanted are drawn, so that only these are sorted by chance.
    statement = """
      INSERT INTO indexing_finding (run_id, key, change)
      SELECT %(run)s, key, '' FROM indexing_remoteobject
      WHERE vault_id = %(vault)s AND NOT tombstone AND random() * %(live)s < %(drawn)s
      ORDER BY random() LIMIT %(size)s ON CONFLICT DO NOTHING
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT object_count FROM indexing_indexstate WHERE vault_id = %s", [vault_id])
        live: int = (cursor.fetchone() or (0,))[0]
        drawn = size + 10 * size**0.5 + 100
        cursor.execute(statement, {"run": run_id, "vault": vault_id, "live": live, "drawn": drawn, "size": size})
        count: int = cursor.rowcount
    return count


def judge(run_id: int, verdicts: Mapping[str, str]) -> None:
    """What came of sampled rows."""
    statement = """
      UPDATE indexing_finding f SET change = given.change FROM unnest(%s::text[], %s::text[]) AS given (key, change)
      WHERE f.run_id = %s AND f.key = given.key
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, [list(verdicts), list(verdicts.values()), run_id])
