"""A delivery that the index has taken in already: the same bytes, told of the same moment, say nothing new.

Whoever asks for the newest delivery more often than S3 makes one pays for its manifest alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from indexing.inventory.delivery import Delivery, verify
from indexing.models import Source
from indexing.state import state_of
from vaulthalla.vaults.models import Vault
from vaulthalla.work.models import Run, RunKind, RunStatus


def identity(read: Mapping[str, Any], as_of: str, md5s: Sequence[str]) -> str:
    """Of an import of files with these MD5s, in their order; `read`: how its rows are read, and what for."""
    return hashlib.sha256(json.dumps([read, as_of, md5s], sort_keys=True).encode()).hexdigest()


def import_of(vault: Vault, delivery: Delivery, read: Mapping[str, Any], keep: Callable[[], None]) -> Run | None:
    """The import after which the index is as old as this delivery, and of the same bytes. Reads files of this host.

    Raises Refused for a file that is not what its manifest says.
    """
    state = state_of(vault.pk)
    if not (state.complete and state.source == Source.INVENTORY and state.snapshot_as_of == delivery.as_of):
        return None
    imports = Run.objects.filter(vault=vault, kind=RunKind.INVENTORY, status=RunStatus.SUCCESS)
    last = imports.filter(result__has_key="content").order_by("-pk").first()
    if last is None or any(not (file.path or file.md5) for file in delivery.files):
        return None
    md5s = [verify(Path(file.path), file, keep) if file.path else file.md5.lower() for file in delivery.files]
    return last if last.result["content"] == identity(read, delivery.as_of.isoformat(), md5s) else None
