"""What is known of a vault's paths: for `vh vault ls`, and for commands that name some."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from indexing.freshness import Status
from indexing.usable import freshness_of
from sync import sql
from sync.selection import GLOB, Selection, regular
from vaulthalla.errors import NotFound
from vaulthalla.vaults.models import Vault

PAGE = 5_000


def entries(vault: Vault, path: str) -> Iterator[dict[str, Any]]:
    """One entry per path in key order: `state` is both, local, remote, skipped or conflict."""
    selection = Selection(patterns=[path] if path else [])
    after = ""
    while rows := sql.known_paths(vault.pk, after=after, limit=PAGE, selection=selection):
        for key, local_size, skip, remote_size, storage_class, modified, verdict in rows:
            yield {
                "path": key,
                "size": local_size if local_size is not None else remote_size,
                "state": _state(local_size, skip, remote_size, verdict),
                "storage_class": storage_class,
                "last_modified": modified,
            }
        after = rows[-1][0]


def require_known(vault: Vault, patterns: Sequence[str]) -> None:
    """Raises NotFound for a path, directory or glob that names no object of a fresh index: most likely a slip."""
    if freshness_of(vault).status is not Status.FRESH:
        return
    unknown = sql.unmatched(vault.pk, [(p, regular(p) if GLOB.search(p) else "") for p in patterns])
    if unknown:
        raise NotFound(
            f"Vault {vault.name!r} holds no object {unknown[0]!r}.",
            remedy=f"`vh vault ls {shlex.quote(vault.name)}` lists the paths there are.",
        )


def _state(local_size: int | None, skip: str | None, remote_size: int | None, verdict: str | None) -> str:
    if verdict == "conflict":
        return "conflict"
    if skip:
        return "skipped"
    if local_size is not None and remote_size is not None:
        return "both"
    return "local" if local_size is not None else "remote"
