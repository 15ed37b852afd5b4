"""What this host knows of the manifest, and what a publish or a refresh will cost by it. Sends no request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from math import ceil

from msgspec import structs

from budgets.access import capabilities
from indexing import state
from indexing.manifest import sql
from indexing.manifest.format import KEPT_AFTER_RETIREMENT, MOST_SHARDS, Facts, Root, of_json
from indexing.models import IndexState
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import costs
from vaulthalla.terms import Strategy
from vaulthalla.vaults.models import Vault, VaultKind

# Shards of this many rows, but for an index that would need too many.
SHARD_ROWS = 50_000
# Deltas of more than this share of the rows are folded into shards.
MOST_DELTA_PERCENT = 10
MOST_DELETED_AT_ONCE = 100
# How much further events must reach for that alone to be published.
EVENTS_TOLD_EVERY = timedelta(hours=6)
# A delta and the root.
PUTS = 2

Limits = Mapping[RequestClass, int | None]


def root_of(known: IndexState) -> Root | None:
    """The manifest as it was last read or written here."""
    return of_json(known.manifest_root)


def facts_of(known: IndexState) -> Facts:
    return Facts(
        complete=known.complete,
        snapshot_as_of=known.snapshot_as_of,
        floor_at=known.floor_at,
        events_through=known.events_through,
    )


def writer_of(vault: Vault, root: Root | None) -> str | None:
    """Who the manifest says mirrors into this place: this vault, if it does; else whoever did."""
    if vault.policy.strategy == Strategy.MIRROR:
        return str(vault.marker)
    # Who mirrors no longer leaves the place to others.
    return root.writer if root and root.writer != str(vault.marker) else None


def shards_due(root: Root | None, *, rows: int) -> int:
    """How many shards the next publish folds everything into; 0: it writes a delta. `rows`: it has to tell, about."""
    if root is None:
        # Nobody reads a delta in parts.
        return min(MOST_SHARDS, ceil(rows / SHARD_ROWS)) if rows > SHARD_ROWS else 0
    # What would be folded by the next publish anyway is not written as one large delta first.
    large = rows if rows > SHARD_ROWS else 0
    told = large + sum(entry.rows for entry in root.deltas)
    if told * 100 <= MOST_DELTA_PERCENT * max(root.object_count, 1):
        return 0
    return min(MOST_SHARDS, max(1, ceil((large + sum(entry.rows for entry in root.entries)) / SHARD_ROWS)))


def retired_due(root: Root | None, now: datetime) -> list[str]:
    """Names whose week is over."""
    old = [name.name for name in root.retired if name.at < now - KEPT_AFTER_RETIREMENT] if root else []
    return old[:MOST_DELETED_AT_ONCE]


def refresh_needs(vault: Vault, limits: Limits) -> Requests:
    """The one conditional GET that a sync begins with, where its budget has one."""
    may = vault.kind == VaultKind.S3 and limits[RequestClass.GET] != 0
    return Requests({RequestClass.GET: 1} if may else {})


def root_needs(vault: Vault) -> Requests:
    """The root alone, which tells how young the rows are that it names."""
    found = costs(capabilities(vault), {RequestClass.PUT: 1}, conditional=RequestClass.PUT)
    return Requests({name: n for name, n in found.items() if n})


def publish_needs(vault: Vault, limits: Limits, *, now: datetime, changes: bool) -> Requests:
    """What publishing takes after a run that changes rows of the index, or (not `changes`) leaves them as they are."""
    if vault.kind != VaultKind.S3:
        return Requests()
    known = state.state_of(vault.pk)
    root = root_of(known)
    changes = changes or (known.pk is not None and sql.has_unpublished(vault.pk, known.published_revision))
    if not changes and (known.pk is None or not differs(vault, known, root)):
        return Requests()
    # How much of a known manifest changes nobody can tell yet.
    rows = known.object_count if root is None else 0
    puts = 1 + (max(1, shards_due(root, rows=rows)) if changes else 0)
    limit = limits[RequestClass.PUT]
    if changes and limit is not None and puts > limit:
        puts = PUTS
    due = len(retired_due(root, now))
    allowed = limits[RequestClass.DELETE]
    deletes = due if allowed is None else min(due, allowed)
    found = costs(capabilities(vault), {RequestClass.PUT: puts}, conditional=RequestClass.PUT)
    return Requests({name: n for name, n in {**found, RequestClass.DELETE: deletes}.items() if n})


def differs(vault: Vault, known: IndexState, root: Root | None) -> bool:
    """Whether the manifest's own facts are not what is known here."""
    if root is None:
        return known.complete
    return root.writer != writer_of(vault, root) or _worth_telling(root.facts, facts_of(known))


def _worth_telling(told: Facts, known: Facts) -> bool:
    """Whether facts have changed. That events reach a little further is no news: each poll of a queue would cost a PUT,
    which is an event for that queue again."""
    if structs.replace(told, events_through=None) != structs.replace(known, events_through=None):
        return True
    if known.events_through is None or told.events_through is None:
        return known.events_through != told.events_through
    return abs(known.events_through - told.events_through) >= EVENTS_TOLD_EVERY


def kept_back(vault: Vault, limits: Limits) -> Requests:
    """What a run does not spend on its plan, so that its end can be published; nothing of a limit that is tiny."""
    if vault.kind != VaultKind.S3:
        return Requests()
    needs = costs(capabilities(vault), {RequestClass.PUT: PUTS}, conditional=RequestClass.PUT)
    return Requests({name: n for name, n in needs.items() if (limit := limits[name]) is None or limit > n})
