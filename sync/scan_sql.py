"""The SQL of the scan. Set-based; every statement stays within one vault, through its primary keys or `local_by_dir`.

All of it belongs inside `lease.commit()`. Nothing is written for a row that is as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.db import connection

KNOWN_PAGE = 5_000

STAGE = """
DROP TABLE IF EXISTS pg_temp.scan_dir, pg_temp.scan_file;
CREATE TEMP TABLE scan_dir (
    dir text COLLATE "C", digest bytea, state text, is_mount boolean, replaced boolean) ON COMMIT DROP;
CREATE TEMP TABLE scan_file (
    path text COLLATE "C", dir text COLLATE "C", size bigint, mtime_ns bigint, ctime_ns bigint, inode bigint,
    racy boolean, skip text) ON COMMIT DROP
"""
# The paths of one directory that is too large for one transaction. Outlives its transactions.
STAGE_SEEN = """
DROP TABLE IF EXISTS pg_temp.scan_seen;
CREATE TEMP TABLE scan_seen (path text COLLATE "C")
"""
ADD_SEEN = "INSERT INTO scan_seen SELECT path FROM scan_file"
DROP_SEEN = "DROP TABLE IF EXISTS pg_temp.scan_seen"

SAME = (
    "(l.size, l.mtime_ns, l.ctime_ns, l.inode) = (excluded.size, excluded.mtime_ns, excluded.ctime_ns, excluded.inode)"
)

# What is remembered of a staged file: one probe of the primary key each. OFFSET 0 keeps the planner, which
# knows little of a table that a first scan is filling, from reading all of it for every batch instead.
OLD = "LATERAL (SELECT * FROM sync_localfile WHERE vault_id = %(vault)s AND path = f.path OFFSET 0) l"

# By `local_by_dir`, one directory after the other.
VANISHED_FILES = """
DELETE FROM sync_localfile
 WHERE vault_id = %(vault)s AND path = ANY (ARRAY(
       SELECT l.path
         FROM scan_dir d
         CROSS JOIN LATERAL (SELECT path FROM sync_localfile WHERE vault_id = %(vault)s AND dir = d.dir OFFSET 0) l
        WHERE d.replaced AND NOT EXISTS (SELECT FROM scan_file f WHERE f.path = l.path)))
"""
VANISHED_UNSEEN = """
DELETE FROM sync_localfile l
 WHERE l.vault_id = %(vault)s AND l.dir = %(dir)s AND NOT EXISTS (SELECT FROM scan_seen f WHERE f.path = l.path)
"""
# Hashes hold for a fingerprint, unless it was taken within the tick of a change: such a file may have changed since
# without a trace. Once the tick is over its content is compared once, whatever its base says.
_PUT_FILES = """
INSERT INTO sync_localfile AS l
       (vault_id, path, dir, size, mtime_ns, ctime_ns, inode, racy, skip, multipart_etag)
SELECT %(vault)s, f.path, f.dir, f.size, f.mtime_ns, f.ctime_ns, f.inode, f.racy, f.skip, ''
  FROM scan_file f LEFT JOIN {old} ON true
 WHERE l.path IS NULL
    OR (f.size, f.mtime_ns, f.ctime_ns, f.inode, f.racy, f.skip)
       IS DISTINCT FROM (l.size, l.mtime_ns, l.ctime_ns, l.inode, l.racy, l.skip)
 ORDER BY f.path
    ON CONFLICT (vault_id, path) DO UPDATE
   SET size = excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns, inode = excluded.inode,
       racy = excluded.racy, skip = excluded.skip,
       read_again = {same} AND (l.read_again OR (l.racy AND NOT excluded.racy)),
       sha256 = CASE WHEN NOT l.racy AND {same} THEN l.sha256 END,
       md5 = CASE WHEN NOT l.racy AND {same} THEN l.md5 END,
       multipart_etag = CASE WHEN NOT l.racy AND {same} THEN l.multipart_etag ELSE '' END
"""
PUT_FILES = _PUT_FILES.format(old=OLD, same=SAME)
PUT_DIRS = """
INSERT INTO sync_localdir AS l (vault_id, dir, digest, state, is_mount)
SELECT %(vault)s, dir, digest, state, is_mount FROM scan_dir ORDER BY dir
    ON CONFLICT (vault_id, dir) DO UPDATE
   SET digest = excluded.digest, state = excluded.state,
       is_mount = excluded.is_mount OR (excluded.state = 'unreadable' AND l.is_mount)
 WHERE (l.digest, l.state, l.is_mount) IS DISTINCT FROM (excluded.digest, excluded.state, excluded.is_mount)
"""
VANISHED_DIR_FILES = "DELETE FROM sync_localfile WHERE vault_id = %(vault)s AND dir = ANY(%(dirs)s)"
VANISHED_DIRS = "DELETE FROM sync_localdir WHERE vault_id = %(vault)s AND dir = ANY(%(dirs)s)"
UNMOUNTED_DIRS = """
UPDATE sync_localdir SET state = 'unmounted', digest = NULL
 WHERE vault_id = %(vault)s AND dir = ANY(%(dirs)s) AND state <> 'unmounted'
"""

KNOWN = """
SELECT dir, digest, state, is_mount FROM sync_localdir
 WHERE vault_id = %(vault)s AND dir {beyond} %(after)s ORDER BY dir LIMIT %(limit)s
"""
STATE = "SELECT state FROM sync_localdir WHERE vault_id = %(vault)s AND dir = %(dir)s"
UNKNOWN = """
SELECT dir, state FROM sync_localdir WHERE vault_id = %(vault)s AND state <> 'read'
 UNION ALL
SELECT path || '/', skip FROM sync_localfile WHERE vault_id = %(vault)s AND skip <> ''
 ORDER BY 1
"""

FileRow = tuple[str, str, int, int, int, int, bool, str]
DirRow = tuple[str, bytes | None, str, bool, bool]


def known_dirs(vault_id: int, after: str | None) -> Iterator[tuple[str, bytes | None, str, bool]]:
    """(dir, digest, state, is_mount) in byte order, behind `after`; page by page, as the scan commits in between."""
    beyond = ">=" if after is None else ">"
    while True:
        parameters = {"vault": vault_id, "after": after or "", "limit": KNOWN_PAGE}
        page = _fetch(KNOWN.format(beyond=beyond), parameters)
        yield from page
        if len(page) < KNOWN_PAGE:
            return
        after, beyond = page[-1][0], ">"


def dir_state(vault_id: int, folder: str) -> str:
    """Empty when the directory is not known."""
    rows = _fetch(STATE, {"vault": vault_id, "dir": folder})
    return str(rows[0][0]) if rows else ""


def unknown_prefixes(vault_id: int) -> list[tuple[str, str]]:
    """(prefix, reason) of what the last scan could not look into, in byte order.

    Unreadable and unmounted directories; and below a name that is skipped (a symlink, say) nothing is
    known either, since what was a directory there may have become one.
    """
    return [(str(prefix), str(reason)) for prefix, reason in _fetch(UNKNOWN, {"vault": vault_id})]


def replace_dirs(vault_id: int, dirs: Sequence[DirRow], files: Iterable[FileRow]) -> None:
    """Makes the rows of the directories marked `replaced` equal to `files`, and records all of `dirs`."""
    with connection.cursor() as cursor:
        _stage(files)
        _copy("scan_dir", dirs)
        for statement in (VANISHED_FILES, PUT_FILES, PUT_DIRS):
            cursor.execute(statement, {"vault": vault_id})


def begin_large() -> None:
    """Before the parts of one large directory."""
    with connection.cursor() as cursor:
        cursor.execute(STAGE_SEEN)


def put_part(vault_id: int, files: Iterable[FileRow]) -> None:
    """Some files of a large directory."""
    with connection.cursor() as cursor:
        _stage(files)
        for statement in (ADD_SEEN, PUT_FILES):
            cursor.execute(statement, {"vault": vault_id})


def end_large(vault_id: int, folder: DirRow) -> None:
    """After the last part: what was not among them has vanished."""
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE scan_seen")
        cursor.execute(VANISHED_UNSEEN, {"vault": vault_id, "dir": folder[0]})
        _stage(())
        _copy("scan_dir", [folder])
        cursor.execute(PUT_DIRS, {"vault": vault_id})
        cursor.execute(DROP_SEEN)


def forget_dirs(vault_id: int, dirs: list[str]) -> None:
    """Directories that vanished, with the files that were right in them."""
    with connection.cursor() as cursor:
        for statement in (VANISHED_DIR_FILES, VANISHED_DIRS):
            cursor.execute(statement, {"vault": vault_id, "dirs": dirs})


def mark_unmounted(vault_id: int, dirs: list[str]) -> None:
    """Mount points that vanished with their directories: their rows stay."""
    with connection.cursor() as cursor:
        cursor.execute(UNMOUNTED_DIRS, {"vault": vault_id, "dirs": dirs})


def _stage(files: Iterable[FileRow]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(STAGE)
    _copy("scan_file", files)


def _copy(table: str, rows: Iterable[Sequence[Any]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _fetch(statement: str, parameters: dict[str, Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[Any] = cursor.fetchall()
    return rows
