"""A delivery that the index has taken in already: the same bytes, read in the same way, of the moment it is as old as.

Whoever asks for the newest delivery more often than S3 makes one pays for its manifest alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from indexing.inventory.delivery import Delivery, verify
from indexing.inventory.remote import is_here
from indexing.models import Source
from indexing.state import state_of
from vaulthalla.vaults.models import Vault
from vaulthalla.work.models import Run, RunKind

# Of an import's result, what one of the same delivery came to as well.
TOLD = ("objects_indexed", "rows_skipped", "skipped", "first_bad", "doubtful", "as_of", "content")


def identity(read: Mapping[str, Any], as_of: str, md5s: Sequence[str]) -> str:
    """Of an import of files with these MD5s, in their order; `read`: how its rows are read, and what for."""
    return hashlib.sha256(json.dumps([read, as_of, md5s], sort_keys=True).encode()).hexdigest()


def last_import(vault: Vault, delivery: Delivery) -> Run | None:
    """The last import that was merged, while the index is as old as this delivery."""
    state = state_of(vault.pk)
    if not (state.complete and state.source == Source.INVENTORY and state.snapshot_as_of == delivery.as_of):
        return None
    # Its result tells of a content once it is merged, whatever became of the run afterwards.
    imports = Run.objects.filter(vault=vault, kind=RunKind.INVENTORY)
    return imports.filter(result__has_key="content").order_by("-pk").first()


def import_of(vault: Vault, delivery: Delivery, read: Mapping[str, Any], keep: Callable[[], None]) -> Run | None:
    """The last import, if it was of this delivery. While no other one can be merged; reads files of this host.

    Raises Refused for a file that is not what its manifest says.
    """
    last = last_import(vault, delivery)
    if last is None or not all(is_here(file) if file.path else file.md5 for file in delivery.files):
        return None
    md5s = [verify(Path(file.path), file, keep) if file.path else file.md5.lower() for file in delivery.files]
    return last if last.result["content"] == identity(read, delivery.as_of.isoformat(), md5s) else None


def told_again(run: Run) -> dict[str, Any]:
    """The result of importing the delivery of `run` once more."""
    first = run.result.get("known_from", run.pk)
    return {name: run.result[name] for name in TOLD} | {"added": 0, "changed": 0, "removed": 0, "known_from": first}
