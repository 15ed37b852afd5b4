"""Freeing the space of cached bodies that the bucket holds exactly as they are here."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Sequence
from typing import Any

from django.db import transaction

from indexing.freshness import Status
from indexing.usable import freshness_of
from sync import sql
from sync.fingerprint import Fingerprint
from sync.hashing import FileChanged, hash_file
from sync.listing import require_known
from sync.record import directory_of
from sync.root import open_root
from sync.selection import Selection
from sync.tree import TRASH_DIR, LocalChanged, Tree
from vaulthalla.errors import Refused
from vaulthalla.remedies import sync_of
from vaulthalla.terms import Strategy
from vaulthalla.vaults.models import Vault, VaultKind

PAGE = 1_000


def evict_bodies(vault: Vault, patterns: Sequence[str]) -> dict[str, Any]:
    """Removes bodies equal to base and index; what was changed meanwhile stays. Raises Refused, Stall."""
    if vault.kind == VaultKind.LOCAL:
        raise Refused(
            "A local vault keeps every body on both sides.",
            code="not_for_local_vaults",
            remedy="There is nothing to evict.",
        )
    if vault.policy.strategy != Strategy.CACHE:
        raise Refused(
            f"Vault {vault.name!r} is no cache: losing a file there means deleting it.",
            code="not_a_cache",
            remedy=f"vh vault sync set {shlex.quote(vault.name)} --strategy cache",
        )
    _require_fresh(vault)
    require_known(vault, patterns)
    selection = Selection(patterns=list(patterns))
    # A name of its own, so that what goes for good is only what was put there now.
    trash = f"evicted-{uuid.uuid4().hex}"
    evicted = kept = freed = 0
    after = ""
    with open_root(vault.root, vault.marker, vault=vault.name) as tree:
        while rows := sql.evictable(vault.pk, after=after, limit=PAGE, selection=selection):
            gone = [row for row in rows if _evict(tree, trash, row[0], Fingerprint.of(*row[1:5]), sha256=row[5])]
            evicted, kept = evicted + len(gone), kept + len(rows) - len(gone)
            freed += sum(row[1] for row in gone)
            paths = [row[0] for row in gone]
            with transaction.atomic():
                sql.execute(sql.DROP_LOCAL, (vault.pk, paths))
                # Without this a later strategy would take the missing bodies for deletes.
                sql.execute(sql.FORGET_AGREEMENT, (vault.pk, paths))
                sql.execute(sql.TOUCH_DIRS, (vault.pk, sorted({directory_of(path) for path in paths})))
            after = rows[-1][0]
    return {"vault": vault.name, "evicted": evicted, "bytes": freed, "kept": kept}


def _require_fresh(vault: Vault) -> None:
    """A body goes only while the bucket is known to hold it."""
    found = freshness_of(vault)
    if found.status is not Status.FRESH:
        raise Refused(
            f"The index of {vault.name!r} is {found.status}: {found.why}",
            code="index_stale",
            remedy=sync_of(vault.name),
        )


def _evict(tree: Tree, trash: str, path: str, expected: Fingerprint, *, sha256: bytes | None) -> bool:
    """By way of the trash, which proves that what goes is what was meant; then it goes for good.

    `sha256`: its content must be that; what was changed within the tick of a look left no trace in `expected`.
    """
    try:
        if sha256 is not None:
            with tree.open_read(path) as file:
                if hash_file(file).sha256 != bytes(sha256):
                    return False
        tree.remove(path, expected=expected, trash=trash)
        with tree.place(f"{TRASH_DIR}/{trash}/{path}") as kept:
            kept.unlink()
    except (FileChanged, LocalChanged, OSError):
        return False
    return True
