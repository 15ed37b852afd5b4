"""Hashes the files whose content decides something, before planning; all others are hashed when they are sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any

from sync import sql
from sync.fingerprint import Fingerprint
from sync.hashing import FileChanged, hash_file, matches_etag, parts_of
from sync.options import SyncOptions
from sync.planner import RENAME_FROM
from sync.root import open_root
from sync.tree import LocalChanged, Tree
from vaulthalla.vaults.models import VaultKind
from vaulthalla.work.engine import Lease, Yield, handler

BATCH = 512
BATCH_BYTES = 2**30
# hashlib lets go of the interpreter, so threads use the cores there are.
THREADS = 4
KEEP_SECONDS = 1.0
# A multipart ETag that was tried and not met is remembered, so that a file is read once for it.
TRIED = "!"


@handler("sync.hash")
def hash_files(lease: Lease) -> Yield | None:
    """Path by path in key order, from the cursor on."""
    run = lease.load_run()
    vault = run.vault
    if vault is None:
        raise AssertionError("hashing without a vault")
    renames = vault.kind == VaultKind.S3 and SyncOptions.of(run).supposed(vault.policy).strategy != "cache"
    vanished = sql.vanished_sizes(vault.pk, rename_from=RENAME_FROM) if renames else []
    after: str = lease.cursor or ""
    with open_root(vault.root, vault.marker, vault=vault.name) as tree, ThreadPoolExecutor(THREADS) as pool:
        while rows := sql.unhashed(vault.pk, after=after, limit=BATCH, vanished=vanished, rename_from=RENAME_FROM):
            for batch in _by_bytes(rows):
                found = _hashed(lease, pool, tree, batch)
                after = batch[-1][0]
                with lease.commit(cursor=after, items_done=len(batch)):
                    sql.put_hashes(vault.pk, found)
                if lease.overdue:
                    return Yield(after)
    return None


def _by_bytes(rows: list[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Batches that take about as long as a lease's renewal, however large the files are."""
    batch: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row[1]
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _hashed(lease: Lease, pool: ThreadPoolExecutor, tree: Tree, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    futures: list[Future[tuple[Any, ...] | None]] = [pool.submit(_hash, tree, row) for row in rows]
    waiting = set(futures)
    while waiting:
        _, waiting = wait_for(waiting, timeout=KEEP_SECONDS)
        lease.keep()
    return [row for future in futures if (row := future.result()) is not None]


def _hash(tree: Tree, row: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """(path, mtime_ns, inode, sha256, md5, multipart_etag); None for a file that is not what the scan saw."""
    path, size, mtime_ns, ctime_ns, inode, etag = row
    expected = Fingerprint(size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns, inode=inode)
    try:
        with tree.open_read(path) as file:
            hashes = hash_file(file)
            if hashes.fingerprint != expected:
                return None
            tried = ""
            if parts_of(etag):
                tried = etag if matches_etag(file, etag) else TRIED + etag
            return (path, mtime_ns, inode, hashes.sha256, hashes.md5, tried)
    except (FileChanged, LocalChanged, OSError):
        # Unknown for now: the planner asks the store, and the executor looks at the file again.
        return None
