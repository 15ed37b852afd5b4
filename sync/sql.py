# ruff: noqa: S608 - statements are put together from the constants and conditions of this package only
"""The SQL of planning and of recording what was done. Every statement is set-based and keyed by one vault.

Column order of a differing row (`DIFFERING_COLUMNS`) is what `sync.rows.sides` reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection, transaction

from budgets.pricing import Minimum
from sync.selection import Selection
from vaulthalla.arrays import as_literals

LOCAL_VERSION = "l.size || ':' || l.mtime_ns || ':' || l.ctime_ns || ':' || l.inode"
REMOTE_VERSION = "r.etag || '|' || r.storage_class || '|' || r.restore"
LOCAL_COLUMNS = "l.size, l.mtime_ns, l.ctime_ns, l.inode, l.sha256, l.md5, l.multipart_etag, l.read_again, l.skip"
REMOTE_COLUMNS = (
    "r.size, r.etag, r.version_id, r.sha256, r.mtime_ns, r.storage_class, r.archive_status, r.restore, r.doubtful"
)
BASE_COLUMNS = "b.size, b.mtime_ns, b.ctime_ns, b.inode, b.etag, b.sha256, b.verdict, b.reason"
NO_LOCAL = (
    "NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bytea, NULL::bytea, NULL::text, NULL::boolean,"
    " NULL::varchar"
)
NO_REMOTE = (
    "NULL::bigint, NULL::text, NULL::text, NULL::bytea, NULL::bigint, NULL::text, NULL::text, NULL::varchar,"
    " NULL::boolean"
)

PENDING_PAGE = 50_000
# Merging primary keys takes the same memory for any number of rows, and half the time of hashing millions.
IN_KEY_ORDER = "SET LOCAL enable_hashjoin = off"

# One branch per table that drives it, so that each is a merge of primary keys in path order and no row
# of an unchanged path is sorted, hashed or sent.
DIFFERING = f"""
SELECT l.path AS path, {LOCAL_COLUMNS}, {REMOTE_COLUMNS}, {BASE_COLUMNS}
  FROM sync_localfile l
  LEFT JOIN indexing_remoteobject r ON r.vault_id = %(vault)s AND r.key = l.path AND NOT r.tombstone
  LEFT JOIN sync_base b ON b.vault_id = %(vault)s AND b.path = l.path
 WHERE l.vault_id = %(vault)s AND l.path > %(after)s {{local_selected}}
   AND NOT coalesce(
           b.etag = r.etag AND l.size = b.size AND l.mtime_ns = b.mtime_ns AND l.ctime_ns = b.ctime_ns
           AND l.inode = b.inode AND NOT l.read_again AND l.skip = '' AND NOT r.doubtful, false)
   AND NOT coalesce(
           b.settled_policy = %(policy)s AND b.settled_local = {LOCAL_VERSION}
           AND b.settled_remote = coalesce({REMOTE_VERSION}, '') AND NOT coalesce(r.doubtful, false)
           {{unsettled}}, false)
UNION ALL
SELECT r.key, {NO_LOCAL}, {REMOTE_COLUMNS}, {BASE_COLUMNS}
  FROM indexing_remoteobject r
  LEFT JOIN sync_base b ON b.vault_id = %(vault)s AND b.path = r.key
 WHERE r.vault_id = %(vault)s AND NOT r.tombstone AND r.key > %(after)s {{remote_selected}}
   AND NOT EXISTS (SELECT FROM sync_localfile l WHERE l.vault_id = %(vault)s AND l.path = r.key)
   AND NOT coalesce(
           b.settled_policy = %(policy)s AND b.settled_local = '' AND b.settled_remote = {REMOTE_VERSION}
           AND NOT r.doubtful {{unsettled}}, false)
UNION ALL
SELECT b.path, {NO_LOCAL}, {NO_REMOTE}, {BASE_COLUMNS}
  FROM sync_base b
 WHERE b.vault_id = %(vault)s AND b.path > %(after)s {{base_selected}}
   AND NOT EXISTS (SELECT FROM sync_localfile l WHERE l.vault_id = %(vault)s AND l.path = b.path)
   AND NOT EXISTS (
           SELECT FROM indexing_remoteobject r WHERE r.vault_id = %(vault)s AND r.key = b.path AND NOT r.tombstone)
 ORDER BY path
"""

# Content decides only where both sides hold the same number of bytes: changed on both, touched since the
# base, or new here while a vanished path of the same size may have been renamed to it.
UNHASHED = """
SELECT l.path, l.size, l.mtime_ns, l.ctime_ns, l.inode, coalesce(r.etag, '')
  FROM sync_localfile l
  LEFT JOIN indexing_remoteobject r
         ON r.vault_id = %(vault)s AND r.key = l.path AND r.key > %(after)s AND NOT r.tombstone
  LEFT JOIN sync_base b
         ON b.vault_id = %(vault)s AND b.path = l.path AND b.path > %(after)s AND b.etag IS NOT NULL
 WHERE l.vault_id = %(vault)s AND l.path > %(after)s AND l.skip = ''
   AND (   l.sha256 IS NULL
        OR (r.sha256 IS NULL AND r.etag LIKE '%%-%%' AND l.multipart_etag NOT IN (r.etag, '!' || r.etag)))
   AND (   b.path IS NULL OR l.read_again
        OR (l.size, l.mtime_ns, l.ctime_ns, l.inode) IS DISTINCT FROM (b.size, b.mtime_ns, b.ctime_ns, b.inode))
   AND (   (r.size = l.size AND r.etag IS DISTINCT FROM b.etag)
        OR (l.sha256 IS NULL AND b.size = l.size AND b.sha256 IS NOT NULL)
        OR (%(renames)s AND l.sha256 IS NULL AND r.key IS NULL AND b.path IS NULL AND l.size >= %(rename_from)s
            AND l.size = ANY(%(vanished)s)))
 ORDER BY l.path LIMIT %(limit)s
"""
VANISHED_SIZES = """
SELECT DISTINCT b.size
  FROM sync_base b
 WHERE b.vault_id = %(vault)s AND b.etag IS NOT NULL AND b.sha256 IS NOT NULL AND b.size >= %(rename_from)s
   AND NOT EXISTS (SELECT FROM sync_localfile l WHERE l.vault_id = %(vault)s AND l.path = b.path)
"""

# Agreement and settled verdicts share a row; each clears what the other no longer supports.
AGREE = """
INSERT INTO sync_base (vault_id, path, etag, version_id, size, mtime_ns, ctime_ns, inode, sha256, verdict, reason)
SELECT %s, path, etag, version_id, size, mtime_ns, ctime_ns, inode, sha256, '', ''
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bytea[])
       AS new (path, etag, version_id, size, mtime_ns, ctime_ns, inode, sha256)
    ON CONFLICT (vault_id, path) DO UPDATE
   SET etag = excluded.etag, version_id = excluded.version_id, size = excluded.size, mtime_ns = excluded.mtime_ns,
       ctime_ns = excluded.ctime_ns, inode = excluded.inode, sha256 = excluded.sha256, verdict = '', reason = '',
       settled_local = NULL, settled_remote = NULL, settled_policy = NULL
"""
SETTLE = """
INSERT INTO sync_base (vault_id, path, version_id, verdict, reason, settled_local, settled_remote, settled_policy)
SELECT %s, path, '', verdict, reason, local, remote, %s
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[]) AS new (path, verdict, reason, local, remote)
    ON CONFLICT (vault_id, path) DO UPDATE
   SET verdict = excluded.verdict, reason = excluded.reason, settled_local = excluded.settled_local,
       settled_remote = excluded.settled_remote, settled_policy = excluded.settled_policy
"""
# What is to be done, or cannot be told for certain, no longer stands as what it was.
UNSETTLE = """
WITH forgotten AS (
    DELETE FROM sync_base WHERE vault_id = %(vault)s AND path = ANY(%(paths)s) AND etag IS NULL)
UPDATE sync_base SET verdict = '', reason = '', settled_local = NULL, settled_remote = NULL, settled_policy = NULL
 WHERE vault_id = %(vault)s AND path = ANY(%(paths)s) AND etag IS NOT NULL
"""
# An evicted body leaves no base: what it once agreed with no longer says anything.
FORGET_AGREEMENT = """
UPDATE sync_base SET etag = NULL, size = NULL, mtime_ns = NULL, ctime_ns = NULL, inode = NULL, sha256 = NULL
 WHERE vault_id = %s AND path = ANY(%s) AND etag IS NOT NULL
"""
DROP = "DELETE FROM sync_base WHERE vault_id = %s AND path = ANY(%s)"

OPEN_CONFLICTS = """
INSERT INTO sync_conflict (vault_id, path, reason, local, remote, local_version, remote_version, status, resolution)
SELECT %s, path, reason, local::jsonb, remote::jsonb, local_version, remote_version, 'open', ''
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
       AS new (path, reason, local, remote, local_version, remote_version)
    ON CONFLICT (vault_id, path) WHERE status = 'open' DO UPDATE
   SET reason = excluded.reason, local = excluded.local, remote = excluded.remote,
       local_version = excluded.local_version, remote_version = excluded.remote_version,
       resolution = '', detected_at = now()
 WHERE (sync_conflict.local_version, sync_conflict.remote_version)
       IS DISTINCT FROM (excluded.local_version, excluded.remote_version)
"""
# A conflict is over when its path is no longer settled as one, whatever ended it.
CLOSE_CONFLICTS = """
UPDATE sync_conflict c SET status = 'closed', closed_at = now()
 WHERE c.vault_id = %s AND c.status = 'open'
   AND NOT EXISTS (
       SELECT FROM sync_base b WHERE b.vault_id = c.vault_id AND b.path = c.path AND b.verdict = 'conflict')
"""

# Pairs a vanished path with a new one of the same content; the smallest vanished path wins, so that the
# same facts always give the same pairs.
PAIR_RENAMES = """
WITH gone AS (
    SELECT planned -> 'base' ->> 'sha256' AS sha256, size, min(path) AS path
      FROM sync_operation
     WHERE run_id = %(run)s AND action = 'delete_remote' AND size >= %(rename_from)s
       AND planned -> 'base' ->> 'sha256' IS NOT NULL
       AND planned -> 'base' ->> 'etag' = planned -> 'remote' ->> 'etag'
     GROUP BY 1, 2),
pairs AS (
    SELECT o.id, gone.path, source.planned -> 'remote' AS remote
      FROM sync_operation o
      JOIN gone ON gone.sha256 = o.planned -> 'local' ->> 'sha256' AND gone.size = o.size
      JOIN sync_operation source
        ON source.run_id = %(run)s AND source.path = gone.path AND source.action = 'delete_remote'
     WHERE o.run_id = %(run)s AND o.action = 'upload' AND o.planned -> 'remote' = 'null'
     ORDER BY o.ordinal LIMIT %(most)s)
UPDATE sync_operation o
   SET action = 'copy', reason = 'renamed', source = pairs.path,
       progress = jsonb_build_object('source', pairs.remote)
  FROM pairs WHERE pairs.id = o.id
"""

CLAIM_OPERATIONS = """
SELECT id, path, action, reason, status, size, planned, source, progress
  FROM sync_operation
 WHERE run_id = %s AND ordinal BETWEEN %s AND %s AND action = ANY(%s) AND status IN ('pending', 'staged')
 ORDER BY ordinal
"""
# What may have been the only copy is not deleted while a transfer of its run did not come to its end.
SKIP_DELETES = """
UPDATE sync_operation SET status = 'skipped', reason = 'transfers_incomplete', progress = '{}'
 WHERE run_id = %s AND ordinal BETWEEN %s AND %s AND action = ANY(%s) AND status IN ('pending', 'staged')
"""
RECORD_OPERATIONS = """
UPDATE sync_operation o
   SET status = new.status, reason = new.reason, action = new.action, progress = new.progress::jsonb
  FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[])
       AS new (id, status, reason, action, progress)
 WHERE o.id = new.id
"""
# The large bodies under way among the paths of a chunk.
TRANSFERS = "SELECT * FROM sync_transfer WHERE vault_id = %s AND path = ANY(%s)"
RESOLUTIONS = """
SELECT path, local_version, remote_version, resolution
  FROM sync_conflict WHERE vault_id = %s AND status = 'open' AND resolution <> '' AND path = ANY(%s)
"""
# A plan that was seen is what runs: the same operations, each of which still checks its own versions.
ADOPT_PLAN = """
INSERT INTO sync_operation (run_id, ordinal, path, action, reason, size, planned, status, source, progress, cut_short)
SELECT %s, ordinal, path, action, reason, size, planned, 'pending', source, progress, cut_short
  FROM sync_operation WHERE run_id = %s
"""
# What the index has learnt since a plan was seen: such operations wait for the next plan.
DRIFTED = """
UPDATE sync_operation o SET status = 'replan', reason = 'changed_since_planned'
 WHERE o.run_id = %(run)s
   AND coalesce(o.planned -> 'remote' ->> 'etag', '') <> coalesce((
           SELECT r.etag FROM indexing_remoteobject r
            WHERE r.vault_id = %(vault)s AND r.key = o.path AND NOT r.tombstone), '')
"""
RENAMED = "SELECT planned FROM sync_operation WHERE run_id = %s AND action = 'copy' ORDER BY ordinal"
PARK = "UPDATE sync_operation SET status = 'parked', reason = %s WHERE run_id = %s AND action = ANY(%s)"
PARK_UNREACHED = """
UPDATE sync_operation SET status = 'parked', reason = 'store_unavailable'
 WHERE run_id = %s AND status = 'failed' AND reason LIKE 'store_unavailable:%%'
"""
# What a download or a hash taught about local files; a scan meets the same row again unchanged.
PUT_LOCAL = """
INSERT INTO sync_localfile
       (vault_id, path, dir, size, mtime_ns, ctime_ns, inode, racy, skip, sha256, md5, multipart_etag)
SELECT %s, path, dir, size, mtime_ns, ctime_ns, inode, false, '', sha256, NULL, ''
  FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bytea[])
       AS new (path, dir, size, mtime_ns, ctime_ns, inode, sha256)
    ON CONFLICT (vault_id, path) DO UPDATE
   SET size = excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns, inode = excluded.inode,
       racy = false, read_again = false, skip = '', sha256 = excluded.sha256, md5 = NULL, multipart_etag = ''
"""
# A directory whose rows were written here is read again by the next scan, which finds them as they are.
TOUCH_DIRS = "UPDATE sync_localdir SET digest = NULL WHERE vault_id = %s AND dir = ANY(%s) AND digest IS NOT NULL"
# For those alone that were read because of the mark: others may have been read before a scan set it.
WAS_READ = "UPDATE sync_localfile SET read_again = false WHERE vault_id = %s AND path = ANY(%s) AND read_again"
DROP_LOCAL = "DELETE FROM sync_localfile WHERE vault_id = %s AND path = ANY(%s)"
PUT_HASHES = """
UPDATE sync_localfile l
   SET sha256 = new.sha256, md5 = new.md5,
       multipart_etag = CASE WHEN new.multipart_etag = '' THEN l.multipart_etag ELSE new.multipart_etag END
  FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bytea[], %s::bytea[], %s::text[])
       AS new (path, mtime_ns, inode, sha256, md5, multipart_etag)
 WHERE l.vault_id = %s AND l.path = new.path AND l.mtime_ns = new.mtime_ns AND l.inode = new.inode
"""


@contextmanager
def differing(
    vault_id: int, *, policy: str, after: str, selection: Selection, batch: int
) -> Iterator[Iterator[list[tuple[Any, ...]]]]:
    """Batches of differing, unsettled paths in key order, from one snapshot.

    Reads on a connection of its own, since its caller commits as it goes.
    """
    statement = DIFFERING.format(
        local_selected=selection.condition("l.path"),
        remote_selected=selection.condition("r.key"),
        base_selected=selection.condition("b.path"),
        unsettled=selection.unsettled,
    )
    parameters = {"vault": vault_id, "policy": policy, "after": after, **selection.parameters}
    reader = connection.copy()
    try:
        reader.ensure_connection()
        raw: psycopg.Connection[Any] = reader.connection
        with raw.transaction(), psycopg.ServerCursor(raw, "differing") as cursor:
            raw.execute(IN_KEY_ORDER)
            cursor.execute(statement, parameters)
            yield iter(lambda: cursor.fetchmany(batch), [])
    finally:
        reader.close()


def execute(statement: str, parameters: Any) -> int:
    """Runs one statement of this module; returns how many rows it touched."""
    with connection.cursor() as cursor:
        cursor.execute(statement, as_literals(parameters))
        return int(cursor.rowcount)


def fetch(statement: str, parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, as_literals(parameters))
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def vanished_sizes(vault_id: int, *, rename_from: int) -> list[int]:
    """Sizes of agreed files that are gone locally: a new file of such a size may be one of them, renamed."""
    return [size for (size,) in fetch(VANISHED_SIZES, {"vault": vault_id, "rename_from": rename_from})]


def unhashed(vault_id: int, *, after: str, limit: int, vanished: list[int], rename_from: int) -> list[tuple[Any, ...]]:
    """(path, size, mtime_ns, ctime_ns, inode, remote etag) of files whose hash decides something."""
    parameters = {
        "vault": vault_id,
        "after": after,
        "limit": limit,
        "vanished": vanished,
        "renames": bool(vanished),
        "rename_from": rename_from,
    }
    with transaction.atomic():
        execute(IN_KEY_ORDER, None)
        return fetch(UNHASHED, parameters)


def insert_operations(rows: Iterable[Sequence[Any]]) -> None:
    """(run, ordinal, path, action, reason, size, planned JSON) by COPY."""
    columns = "run_id, ordinal, path, action, reason, size, planned, status, source, progress"
    with connection.cursor() as cursor, cursor.copy(f"COPY sync_operation ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row((*row, "pending", "", "{}"))


def beside_directory(vault_id: int, paths: list[str]) -> set[str]:
    """Of `paths`, those below which files or objects live: one index probe each."""
    statement = """
        SELECT p FROM unnest(%s::text[]) p
         WHERE EXISTS (SELECT FROM sync_localfile l
                        WHERE l.vault_id = %s AND l.path > p || '/' COLLATE "C" AND l.path < p || '0' COLLATE "C")
            OR EXISTS (SELECT FROM indexing_remoteobject r
                        WHERE r.vault_id = %s AND r.key > p || '/' COLLATE "C" AND r.key < p || '0' COLLATE "C"
                          AND NOT r.tombstone)
    """
    return {path for (path,) in fetch(statement, (paths, vault_id, vault_id))}


def unmatched(vault_id: int, patterns: list[tuple[str, str]]) -> list[str]:
    """Of (path, glob as an expression or empty), the paths that name no object: index probes, but for globs."""
    statement = """
        SELECT p.path FROM unnest(%(paths)s::text[], %(globs)s::text[]) WITH ORDINALITY AS p (path, glob, place)
         WHERE NOT EXISTS (SELECT FROM indexing_remoteobject r
                            WHERE r.vault_id = %(vault)s AND r.key = rtrim(p.path, '/') AND NOT r.tombstone)
           AND NOT EXISTS (SELECT FROM indexing_remoteobject r
                            WHERE r.vault_id = %(vault)s AND NOT r.tombstone
                              AND r.key > rtrim(p.path, '/') || '/' COLLATE "C"
                              AND r.key < rtrim(p.path, '/') || '0' COLLATE "C")
           AND NOT (p.glob <> '' AND EXISTS (
                   SELECT FROM indexing_remoteobject r
                    WHERE r.vault_id = %(vault)s AND NOT r.tombstone AND r.key ~ p.glob))
         ORDER BY p.place
    """
    paths, globs = [path for path, _ in patterns], [glob for _, glob in patterns]
    return [path for (path,) in fetch(statement, {"vault": vault_id, "paths": paths, "globs": globs})]


def files_at(vault_id: int, paths: list[str]) -> set[str]:
    """Of `paths`, those that are local files, or objects that agree with a base."""
    statement = "SELECT path FROM sync_localfile WHERE vault_id = %s AND path = ANY(%s)"
    return {path for (path,) in fetch(statement, (vault_id, paths))}


def directories_at(vault_id: int, paths: list[str]) -> set[str]:
    """Of `paths`, those that are directories here, empty ones included."""
    statement = "SELECT dir FROM sync_localdir WHERE vault_id = %s AND dir = ANY(%s)"
    return {folder[:-1] for (folder,) in fetch(statement, (vault_id, [f"{path}/" for path in paths]))}


def renamed_sources(run_id: int) -> int:
    """How many vanished paths live on under another name, however often they were copied."""
    statement = """
        SELECT count(*) FROM sync_operation gone
         WHERE gone.run_id = %s AND gone.action = 'delete_remote'
           AND EXISTS (SELECT FROM sync_operation c
                        WHERE c.run_id = gone.run_id AND c.action = 'copy' AND c.source = gone.path)
    """
    return int(fetch(statement, (run_id,))[0][0])


def objects_at(vault_id: int, paths: list[str]) -> set[str]:
    """Of `paths`, those that are live objects."""
    statement = "SELECT key FROM indexing_remoteobject WHERE vault_id = %s AND key = ANY(%s) AND NOT tombstone"
    return {key for (key,) in fetch(statement, (vault_id, paths))}


def standing(vault_id: int) -> list[tuple[str, str, int]]:
    """(verdict, reason, number of paths) of the settled no-ops."""
    statement = """
        SELECT verdict, reason, count(*) FROM sync_base
         WHERE vault_id = %s AND verdict <> '' GROUP BY verdict, reason
    """
    return [(str(verdict), str(reason), int(count)) for verdict, reason, count in fetch(statement, (vault_id,))]


def outcomes(run_id: int) -> list[tuple[str, str, str, int, int, int]]:
    """(action, status, reason for skips, number, local bytes, remote bytes) of a run's operations."""
    statement = """
        SELECT action, status, CASE WHEN status IN ('skipped', 'replan') THEN reason ELSE '' END AS why, count(*),
               coalesce(sum((planned -> 'local' ->> 'size')::bigint), 0),
               coalesce(sum((planned -> 'remote' ->> 'size')::bigint), 0)
          FROM sync_operation WHERE run_id = %s GROUP BY action, status, why
    """
    return [(a, s, w, int(n), int(here), int(there)) for a, s, w, n, here, there in fetch(statement, (run_id,))]


def bodies_by_class(run_id: int, *, ranges_from: int, range_size: int) -> list[tuple[str, str, int, int, int]]:
    """(action, storage class, operations, GETs, bytes) of the downloads and copies of a run that are not given up."""
    statement = """
        SELECT action, coalesce(CASE WHEN action = 'copy' THEN progress -> 'source' ->> 'storage_class'
                                     ELSE planned -> 'remote' ->> 'storage_class' END, '') AS class,
               count(*), sum(CASE WHEN size < %s THEN 1 ELSE (size + %s - 1) / %s END), sum(size)
          FROM sync_operation
         WHERE run_id = %s AND action IN ('download', 'keep_both', 'copy') AND status IN ('pending', 'staged', 'done')
         GROUP BY action, class ORDER BY action, class
    """
    rows = fetch(statement, (ranges_from, range_size, range_size, run_id))
    return [(action, storage_class, int(n), int(gets), int(size)) for action, storage_class, n, gets, size in rows]


# A plan's writes and deletes that end an object before its minimum duration is over, by the index's time of its last
# write. Relies on the index's primary key; classes without a minimum are left out before it is asked.
MARK_CUT_SHORT = """
UPDATE sync_operation AS o
   SET cut_short = greatest(r.size, class.size)::numeric
                   * least(class.seconds, ceil(extract(epoch FROM r.last_modified - now()) + class.seconds))
  FROM unnest(%(classes)s::text[], %(sizes)s::bigint[], %(seconds)s::bigint[]) AS class (name, size, seconds),
       indexing_remoteobject AS r
 WHERE o.run_id = %(run)s AND o.action IN ('upload', 'delete_remote')
   AND o.planned -> 'remote' ->> 'storage_class' = class.name
   AND r.vault_id = %(vault)s AND r.key = o.path AND NOT r.tombstone
   AND r.last_modified > now() - class.seconds * interval '1 second'
"""


def mark_cut_short(run_id: int, vault_id: int, minimums: Mapping[str, Minimum]) -> None:
    """Notes the byte-seconds of `Minimum.cut_short` on each operation that has any."""
    columns = {
        "classes": list(minimums),
        "sizes": [minimum.size for minimum in minimums.values()],
        "seconds": [minimum.seconds for minimum in minimums.values()],
    }
    execute(MARK_CUT_SHORT, {"run": run_id, "vault": vault_id, **columns})


def cut_short(run_id: int, action: str, *, done: bool, most: int) -> list[tuple[str, int]]:
    """(storage class of what they end, byte-seconds) of a run's operations of one kind: those done, or all to be done.

    Of those no more than `most`, with the largest amounts. An operation that came to something else ended nothing.
    Relies on `operation_cut_short`.
    """
    statement = """
        SELECT class, sum(cut_short)
          FROM (SELECT planned -> 'remote' ->> 'storage_class' AS class, cut_short
                  FROM sync_operation
                 WHERE run_id = %s AND cut_short IS NOT NULL AND action = %s AND status = ANY(%s)
                 ORDER BY cut_short DESC
                 LIMIT %s) AS ended
         GROUP BY class ORDER BY class
    """
    rows = fetch(statement, (run_id, action, ["done"] if done else ["pending", "staged", "done"], most))
    return [(storage_class, int(amount)) for storage_class, amount in rows]


def pending(run_id: int, condition: str, actions: list[str]) -> Iterator[tuple[int, int]]:
    """(ordinal, size) of a run's operations that are to be done, in order, a page at a time."""
    statement = f"""
        SELECT ordinal, size FROM sync_operation
         WHERE run_id = %s AND status = 'pending' AND {condition} AND ordinal > %s ORDER BY ordinal LIMIT {PENDING_PAGE}
    """
    after = -1
    while rows := fetch(statement, (run_id, actions, after)):
        yield from rows
        after = rows[-1][0]


def pending_totals(run_id: int, condition: str, actions: list[str]) -> tuple[int, int]:
    """(number, bytes) of the same operations."""
    statement = f"""
        SELECT count(*), coalesce(sum(size), 0) FROM sync_operation
         WHERE run_id = %s AND status = 'pending' AND {condition}
    """
    number, size = fetch(statement, (run_id, actions))[0]
    return int(number), int(size)


def bytes_held(run_id: int, vault_id: int, actions: Sequence[str]) -> int:
    """Body bytes of a run's downloads that an earlier attempt at the same version left here."""
    statement = """
        SELECT coalesce(sum(least(t.size, t.part_size * (SELECT count(*) FROM jsonb_object_keys(t.parts)))), 0)
          FROM sync_operation o
          JOIN sync_transfer t ON t.vault_id = %s AND t.path = o.path AND t.direction = 'down'
           AND t.version = o.planned -> 'remote' ->> 'etag'
         WHERE o.run_id = %s AND o.action = ANY(%s)
    """
    return int(fetch(statement, (vault_id, run_id, list(actions)))[0][0])


def planned_bytes(run_id: int, actions: Sequence[str]) -> int:
    """Body bytes of a run's operations of some actions."""
    statement = "SELECT coalesce(sum(size), 0) FROM sync_operation WHERE run_id = %s AND action = ANY(%s)"
    return int(fetch(statement, (run_id, list(actions)))[0][0])


def has_unfinished_transfers(run_id: int, deletes: Sequence[str]) -> bool:
    """Whether any operation but the deletes failed, was parked, or was left to the next run."""
    statement = """
        SELECT EXISTS (SELECT FROM sync_operation
                        WHERE run_id = %s AND status IN ('pending', 'staged', 'replan', 'parked', 'failed')
                          AND action <> ALL(%s))
    """
    return bool(fetch(statement, (run_id, list(deletes)))[0][0])


def record_operations(rows: Sequence[tuple[int, str, str, str, str]]) -> None:
    """(id, status, reason, action, progress JSON)."""
    if rows:
        execute(RECORD_OPERATIONS, [list(column) for column in zip(*rows, strict=True)])


def known_paths(vault_id: int, *, after: str, limit: int, selection: Selection) -> list[tuple[Any, ...]]:
    """(path, local size, skip, remote size, class, last modified, verdict) in key order."""
    statement = f"""
        WITH known AS (
            (SELECT l.path FROM sync_localfile l
              WHERE l.vault_id = %(vault)s AND l.path > %(after)s {selection.condition("l.path")}
              ORDER BY l.path LIMIT %(limit)s)
            UNION
            (SELECT r.key FROM indexing_remoteobject r
              WHERE r.vault_id = %(vault)s AND r.key > %(after)s AND NOT r.tombstone {selection.condition("r.key")}
              ORDER BY r.key LIMIT %(limit)s))
        SELECT k.path, l.size, l.skip, r.size, r.storage_class, r.last_modified, b.verdict
          FROM known k
          LEFT JOIN sync_localfile l ON l.vault_id = %(vault)s AND l.path = k.path
          LEFT JOIN indexing_remoteobject r ON r.vault_id = %(vault)s AND r.key = k.path AND NOT r.tombstone
          LEFT JOIN sync_base b ON b.vault_id = %(vault)s AND b.path = k.path
         ORDER BY k.path COLLATE "C" LIMIT %(limit)s
    """
    return fetch(statement, {"vault": vault_id, "after": after, "limit": limit, **selection.parameters})


def evictable(vault_id: int, *, after: str, limit: int, selection: Selection) -> list[tuple[Any, ...]]:
    """(path, size, mtime_ns, ctime_ns, inode, sha256) of bodies that equal both base and index.

    With a hash, of the base, for those whose fingerprint does not vouch for their content.
    """
    statement = f"""
        SELECT l.path, l.size, l.mtime_ns, l.ctime_ns, l.inode,
               CASE WHEN l.racy OR l.read_again THEN coalesce(b.sha256, ''::bytea) END
          FROM sync_localfile l
          JOIN sync_base b ON b.vault_id = l.vault_id AND b.path = l.path
          JOIN indexing_remoteobject r ON r.vault_id = l.vault_id AND r.key = l.path AND NOT r.tombstone
         WHERE l.vault_id = %(vault)s AND l.path > %(after)s AND l.skip = '' {selection.condition("l.path")}
           AND b.etag = r.etag AND NOT r.doubtful
           AND (l.size, l.mtime_ns, l.ctime_ns, l.inode) = (b.size, b.mtime_ns, b.ctime_ns, b.inode)
         ORDER BY l.path LIMIT %(limit)s
    """
    return fetch(statement, {"vault": vault_id, "after": after, "limit": limit, **selection.parameters})


def put_hashes(vault_id: int, rows: Sequence[tuple[Any, ...]]) -> None:
    """(path, mtime_ns, inode, sha256, md5, multipart_etag) of files that still are what was hashed."""
    if rows:
        execute(PUT_HASHES, (*[list(column) for column in zip(*rows, strict=True)], vault_id))
