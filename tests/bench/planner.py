"""python -m tests.bench.planner VAULT ROWS: the planner's queries over full tables with few changes.

The rows are filled in by SQL, then one in 100 000 files is changed. Prints {"fill", "differing", "unhashed"
(seconds, the best of three), "paths" (how many differ)}."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from vaulthalla.startup import setup

REPEATS = 3
LOCAL = """
INSERT INTO sync_localfile (vault_id, path, dir, size, mtime_ns, ctime_ns, inode, racy, skip, multipart_etag)
SELECT %(vault)s, 'd' || lpad((i / 100)::text, 6, '0') || '/file-' || lpad(i::text, 8, '0') || '.bin',
       'd' || lpad((i / 100)::text, 6, '0') || '/', 4096, 1700000000000000000 + i, 1700000000000000000 + i, i,
       false, '', ''
  FROM generate_series(0, %(rows)s - 1) i
"""
REMOTE = """
INSERT INTO indexing_remoteobject (vault_id, key, size, etag, version_id, sequencer, storage_class, archive_status,
                                   restore, source, observed_at, tombstone, doubtful, revision)
SELECT %(vault)s, path, size, md5(path), '', '', 'STANDARD', '', '', 'list_objects_v2', now(), false, false, 0
  FROM sync_localfile WHERE vault_id = %(vault)s ORDER BY path
"""
BASE = """
INSERT INTO sync_base (vault_id, path, etag, version_id, size, mtime_ns, ctime_ns, inode, verdict, reason)
SELECT %(vault)s, path, md5(path), '', size, mtime_ns, ctime_ns, inode, '', ''
  FROM sync_localfile WHERE vault_id = %(vault)s ORDER BY path
"""
CHANGES = """
UPDATE sync_localfile SET mtime_ns = mtime_ns + 1 WHERE vault_id = %(vault)s AND inode %% 100000 = 7
"""


def main(name: str, rows: int) -> None:
    setup()
    from vaulthalla.vaults.models import Vault

    vault = Vault.objects.get(name=name)
    fill_seconds, _ = _timed(lambda: _fill(vault.pk, rows))
    differing = [_timed(lambda: _differing(vault.pk)) for _ in range(REPEATS)]
    unhashed = [_timed(lambda: _unhashed(vault.pk)) for _ in range(REPEATS)]
    found = {"fill": fill_seconds, "differing": min(differing)[0], "unhashed": min(unhashed)[0]}
    print(json.dumps({**found, "paths": differing[0][1], "to_hash": unhashed[0][1]}))


def _fill(vault_id: int, rows: int) -> int:
    """As autovacuum leaves tables that have grown."""
    from django.db import connection

    with connection.cursor() as cursor:
        for statement in (LOCAL, REMOTE, BASE):
            cursor.execute(statement, {"vault": vault_id, "rows": rows})
        cursor.execute("VACUUM ANALYZE")
        cursor.execute(CHANGES, {"vault": vault_id})
    return rows


def _differing(vault_id: int) -> int:
    from sync import sql
    from sync.selection import Selection

    with sql.differing(vault_id, policy="sync/ask/", after="", selection=Selection(), batch=5000) as batches:
        return sum(map(len, batches))


def _unhashed(vault_id: int) -> int:
    from sync import sql

    return len(sql.unhashed(vault_id, after="", limit=500, vanished=[], rename_from=2**20))


def _timed(job: Callable[[], int]) -> tuple[float, int]:
    started = time.perf_counter()
    count = job()
    return time.perf_counter() - started, count


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
