"""What is known of a vault's paths, for `vh vault ls`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sync import sql
from sync.selection import Selection
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


def _state(local_size: int | None, skip: str | None, remote_size: int | None, verdict: str | None) -> str:
    if verdict == "conflict":
        return "conflict"
    if skip:
        return "skipped"
    if local_size is not None and remote_size is not None:
        return "both"
    return "local" if local_size is not None else "remote"
