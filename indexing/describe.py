"""The index of a vault as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from indexing import state
from indexing.freshness import freshness
from vaulthalla.vaults.models import Vault


def index_info(vault: Vault, *, now: datetime | None = None) -> dict[str, Any]:
    """The `index` part of `vh vault sync info`. Numbers are kept by every merge, so this reads one row."""
    known = state.state_of(vault.pk)
    found = freshness(state.trust_of(known), max_age=state.max_age_of(vault), now=now or datetime.now(UTC))
    return {
        "source": known.source,
        "complete": known.complete,
        "indexed_at": known.indexed_at,
        "snapshot_as_of": known.snapshot_as_of,
        "events_through": known.events_through,
        "freshness": found.status.value,
        "why": found.why,
        "object_count": known.object_count,
        "total_bytes": int(known.total_bytes),
        "doubtful": known.doubtful_count,
        "manifest_etag": known.manifest_etag or None,
        "manifest_generated_at": known.manifest_generated_at,
        "manifest_object_count": known.manifest_object_count,
    }
