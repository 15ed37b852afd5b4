"""The index of a vault as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from indexing import state
from indexing.events.freshen import feed_warnings, feeds_json
from indexing.freshness import freshness
from vaulthalla.console import cell
from vaulthalla.vaults.models import Vault


def index_info(vault: Vault, *, now: datetime | None = None) -> dict[str, Any]:
    """The `index` part of `vh vault sync info`. Numbers are kept by every merge, so this counts no objects."""
    known = state.state_of(vault.pk)
    now = now or datetime.now(UTC)
    trust = state.trust_of(known)
    found = freshness(trust, max_age=state.max_age_of(vault), now=now)
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
        "feeds": feeds_json(vault, now),
        "warnings": feed_warnings(vault, trust.as_of),
    }


def feeds_lines(index: dict[str, Any]) -> list[tuple[str, str]]:
    """Feeds and warnings of `index_info` for people."""
    lines = []
    for feed in index["feeds"]:
        lag = "never" if feed["lag_seconds"] is None else f"{feed['lag_seconds']} s behind"
        shown = f"{feed['queue'] or feed['kind']}: {feed['records']} records, {feed['set_aside']} set aside"
        lines.append(("  feed", f"{shown}, last poll {cell(feed['last_poll_at'])}, empty: {lag}"))
    return [*lines, *(("  warning", text) for text in index["warnings"])]
