"""The scan: makes the local rows of a vault equal to its tree, writing only what differs.

The walk and the remembered directories are two streams in the same order. Where both have a directory
with the same digest nothing is sent; where they differ its rows are replaced; what only the database has
has vanished. A directory that cannot be looked into keeps its rows, and everything below is unknown.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from sync import scan_sql
from sync.models import DirState
from sync.mounts import Mounts
from sync.paths import escape_undecodable
from sync.root import open_root
from sync.tree import STAGE_DIR, Tree
from sync.walk import Block, Folder, Known, Reader, Unreadable, Walk
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import Lease, Yield, handler

__all__ = ["scan", "unknown_prefixes"]

unknown_prefixes = scan_sql.unknown_prefixes

BATCH_FILES = 20_000
BATCH_DIRS = 5_000
BATCH_SECONDS = 2.0


@handler("sync.scan")
def scan(lease: Lease) -> Yield | None:
    """Scans on from the cursor, the last directory that is done.

    `payload["forget_mounts"]`: mount points that are gone were removed on purpose; their files count as deleted.
    """
    vault = Vault.objects.get(runs=lease.run_id)
    with open_root(vault.root, vault.marker, vault=vault.name) as tree:
        return Scan(lease, vault, tree).run()


class Remembered:
    """The directories of the last scan, in step with the walk: what the walk passes over has vanished."""

    def __init__(self, vault_id: int, after: str | None) -> None:
        self._rows = (
            (folder, Known(digest=digest, state=state, is_mount=is_mount))
            for folder, digest, state, is_mount in scan_sql.known_dirs(vault_id, after)
        )
        self._next = next(self._rows, None)

    def passed(self, folder: str | None) -> Iterator[tuple[str, Known]]:
        """Takes what comes before `folder` (None: all that is left)."""
        while self._next is not None and (folder is None or self._next[0] < folder):
            taken, self._next = self._next, next(self._rows, None)
            yield taken

    def at(self, folder: str) -> Known | None:
        """Takes `folder` itself, if it is next."""
        if self._next is None or self._next[0] != folder:
            return None
        taken, self._next = self._next, next(self._rows, None)
        return taken[1]


@dataclass(kw_only=True)
class Batch:
    """What is written next, in one transaction. `seen` counts files for the progress of the chunk."""

    dirs: list[scan_sql.DirRow] = field(default_factory=list)
    files: list[scan_sql.FileRow] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    unmounted: list[str] = field(default_factory=list)
    seen: int = 0
    due: float = field(default_factory=lambda: monotonic() + BATCH_SECONDS)

    @property
    def is_full(self) -> bool:
        rows = max(len(self.dirs), len(self.vanished))
        return len(self.files) >= BATCH_FILES or rows >= BATCH_DIRS or monotonic() >= self.due

    def write(self, vault_id: int) -> None:
        if self.vanished:
            scan_sql.forget_dirs(vault_id, self.vanished)
        if self.unmounted:
            scan_sql.mark_unmounted(vault_id, self.unmounted)
        if self.dirs:
            scan_sql.replace_dirs(vault_id, self.dirs, self.files)


class Scan:
    """One chunk's worth of one vault's scan."""

    def __init__(self, lease: Lease, vault: Vault, tree: Tree) -> None:
        self._lease = lease
        self._vault_id = vault.pk
        self._after: str | None = lease.cursor["after"] if lease.cursor else None
        self._forget_mounts = bool(lease.payload.get("forget_mounts"))
        self._remembered = Remembered(vault.pk, self._after)
        self._batch = Batch()
        # Below this prefix nothing is known, so what is remembered there stays.
        self._unknown = self._unknown_at(self._after)
        self._reader = Reader(key_prefix=vault.prefix, clock=_clock_of(tree))
        self._walk = Walk(
            tree.fd,
            self._reader,
            Mounts(tree.root),
            known=self._known,
            gone=self._vanish,
            each_block=lease.keep,
            forget_mounts=self._forget_mounts,
            closed=self._unknown is not None,
        )

    def run(self) -> Yield | None:
        for folder, known in self._walk.folders(self._after):
            self._add(folder, known)
            # On the way back to the cursor nothing is new, and nothing would be gained by stopping there.
            is_new = self._after is None or folder.dir > self._after
            if is_new:
                self._after = folder.dir
            if is_new and self._lease.overdue:
                self._flush()
                return Yield(self._cursor())
            if self._batch.is_full:
                self._flush()
            self._lease.keep()
        self._pass_over(None)
        self._flush()
        return None

    # Against what is remembered

    def _known(self, folder: str) -> Known | None:
        self._pass_over(folder)
        return self._remembered.at(folder)

    def _pass_over(self, folder: str | None) -> None:
        for passed, known in self._remembered.passed(folder):
            self._vanish(passed, known)

    def _vanish(self, folder: str, known: Known) -> None:
        """A remembered directory is not there; but a mount point's is only unmounted, with all that was below it."""
        if self._unknown is not None and folder.startswith(self._unknown):
            return
        if known.is_mount and not self._forget_mounts:
            self._batch.unmounted.append(folder)
            self._unknown = folder
        else:
            self._batch.vanished.append(folder)
        if self._batch.is_full:
            self._flush()

    def _unknown_at(self, after: str | None) -> str | None:
        if after is None or scan_sql.dir_state(self._vault_id, after) in ("", DirState.READ):
            return None
        return after

    # What the walk found

    def _add(self, folder: Folder, known: Known | None) -> None:
        state = _state(folder)
        self._batch.seen += folder.count
        if state is not DirState.READ:
            self._unknown = folder.dir
        if _is_as_it_was(folder, state, known):
            return
        if state is DirState.READ and folder.entries is None:
            self._add_large(folder)
            return
        self._batch.dirs.append((folder.dir, folder.digest, state.value, folder.is_mount, state is DirState.READ))
        if folder.entries is not None:
            self._batch.files.extend(_rows(folder.dir, folder.entries))

    def _add_large(self, folder: Folder) -> None:
        """A changed directory that does not fit into one batch is read again and sent in parts."""
        self._flush()
        scan_sql.begin_large()
        again = Folder(dir=folder.dir)
        try:
            for block in self._reader.digested(self._walk.open[-1], again):
                with self._lease.commit():
                    scan_sql.put_part(self._vault_id, _rows(folder.dir, block))
        except Unreadable:
            self._unknown = folder.dir
            self._batch.dirs.append((folder.dir, None, DirState.UNREADABLE.value, folder.is_mount, False))
            return
        with self._lease.commit():
            row = (folder.dir, again.digest, DirState.READ.value, folder.is_mount, True)
            scan_sql.end_large(self._vault_id, row)

    def _flush(self) -> None:
        batch, self._batch = self._batch, Batch()
        with self._lease.commit(cursor=self._cursor(), items_done=batch.seen):
            batch.write(self._vault_id)

    def _cursor(self) -> dict[str, Any] | None:
        return None if self._after is None else {"after": self._after}


def _is_as_it_was(folder: Folder, state: DirState, known: Known | None) -> bool:
    if known is None or known.state != state or known.is_mount != folder.is_mount:
        return False
    return state is not DirState.READ or (folder.digest is not None and folder.digest == known.digest)


def _state(folder: Folder) -> DirState:
    if not folder.readable:
        return DirState.UNREADABLE
    return DirState.READ if folder.mounted else DirState.UNMOUNTED


def _rows(folder: str, block: Block) -> Iterator[scan_sql.FileRow]:
    for name, size, mtime_ns, ctime_ns, inode, racy, skip in block.rows():
        path = folder + name if skip != "undecodable" else escape_undecodable(folder + name)
        yield path, folder, size, mtime_ns, ctime_ns, inode, racy, skip


def _clock_of(tree: Tree) -> Callable[[], int]:
    """The filesystem's own time in ns, which on a network share is not this host's."""
    ahead = 0
    with suppress(OSError), tree.place(f"{STAGE_DIR}/clock-{uuid.uuid4().hex}", made=set()) as place:
        fd = place.create()
        try:
            ahead = os.fstat(fd).st_mtime_ns - time.time_ns()
        finally:
            os.close(fd)
            place.unlink()
    return lambda: time.time_ns() + ahead
