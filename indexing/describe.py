"""The index of a vault as JSON: the trust that plans rest on, and for `info` everything else that is known of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from budgets.access import spent
from indexing import counts, sql, state
from indexing.events.freshen import feed_warnings, feeds_json
from indexing.freshness import freshness
from vaulthalla.console import cell
from vaulthalla.requests import RequestClass
from vaulthalla.vaults.models import Vault
from vaulthalla.work.models import ACTIVE, TERMINAL, Run, RunKind


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


def index_report(vault: Vault) -> dict[str, Any]:
    """`index_info` and more: rows by storage class, the last reconcile, and a scan that is under way."""
    counted = counts.refreshed(vault.pk)
    return {
        **index_info(vault),
        "storage_classes": counted.classes if counted else None,
        "tombstones": counted.tombstones if counted else None,
        "counted_at": counted.counted_at if counted else None,
        "last_reconcile": _last_reconcile(vault),
        "scan": _scan(vault),
    }


def _last_reconcile(vault: Vault) -> dict[str, Any] | None:
    run = Run.objects.filter(vault=vault, kind=RunKind.RECONCILE, status__in=TERMINAL).order_by("-pk").first()
    if run is None:
        return None
    numbers = {name: run.result.get(name, 0) for name in ("objects_indexed", "added", "changed", "removed")}
    return {
        "run": str(run.pk),
        "status": run.status,
        "prefix": run.options.get("prefix") or None,
        "finished_at": run.finished_at,
        "requests": spent(run.pk)[RequestClass.LIST],
        **numbers,
    }


def _scan(vault: Vault) -> dict[str, Any] | None:
    """The unfinished scan of the whole vault, which the next one goes on with."""
    started_at = state.state_of(vault.pk).scan_started_at
    if started_at is None:
        return None
    ranges = sql.ranges_of(vault.pk)
    done = sum(one.done for one in ranges)
    running = Run.objects.filter(vault=vault, kind=RunKind.RECONCILE, status__in=ACTIVE).first()
    run = str(running.pk) if running else None
    return {"started_at": started_at, "ranges": len(ranges), "ranges_done": done, "run": run}


def feeds_lines(index: dict[str, Any]) -> list[tuple[str, str]]:
    """Feeds and warnings of `index_info` for people."""
    lines = []
    for feed in index["feeds"]:
        lag = "never" if feed["lag_seconds"] is None else f"{feed['lag_seconds']} s behind"
        shown = f"{feed['queue'] or feed['kind']}: {feed['records']} records, {feed['set_aside']} set aside"
        lines.append(("  feed", f"{shown}, last poll {cell(feed['last_poll_at'])}, empty: {lag}"))
    return [*lines, *(("  warning", text) for text in index["warnings"])]
