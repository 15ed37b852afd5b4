"""The one row that says how far the index of a vault can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db.models import Case, F, When
from django.db.models.functions import Coalesce, Greatest, Now

from budgets.access import capabilities
from indexing import sql
from indexing.freshness import Trust, list_requests
from indexing.models import IndexState, RemoteObject, ScanRange
from indexing.ranges import Range, how_many, raw
from indexing.terms import Source
from vaulthalla.stores.base import Ordering
from vaulthalla.vaults.models import Vault, VaultKind

# Long enough for every host that shares a manifest to have seen a delete.
TOMBSTONES_KEPT = timedelta(days=30)
# So many keys are sorted in about a second; of more, a sample of the table's blocks does.
MOST_SORTED = 1_000_000
SAMPLED_BLOCKS = 500


def state_of(vault_id: int) -> IndexState:
    """The stored state, or one that knows nothing."""
    return IndexState.objects.filter(vault_id=vault_id).first() or IndexState(vault_id=vault_id)


def trust_of(state: IndexState) -> Trust:
    return Trust(
        complete=state.complete,
        snapshot_as_of=state.snapshot_as_of,
        events_through=state.events_through,
        object_count=state.object_count,
    )


def max_age_of(vault: Vault) -> timedelta | None:
    """None: never stale."""
    seconds = vault.policy.max_remote_index_age_seconds
    return None if seconds is None else timedelta(seconds=seconds)


def estimate(vault: Vault, *, limit: int | None = None) -> int | None:
    """LIST requests that a scan of the whole vault is expected to take within `limit`; None without a prior index."""
    state = state_of(vault.pk)
    if not state.complete:
        return None
    pages = list_requests(state.object_count)
    return pages + ranges_of_scan(vault, pages, limit=limit) - 1


def ranges_of_scan(vault: Vault, pages: int, *, limit: int | None) -> int:
    """In how many ranges a scan of so many pages is cut. Without an order there is only one."""
    if vault.kind == VaultKind.LOCAL or capabilities(vault).ordering is not Ordering.BINARY:
        return 1
    return how_many(pages, limit=limit)


def key_ranges(vault: Vault, *, limit: int | None) -> list[Range]:
    """A new scan's ranges, by what is known of the vault's keys."""
    state = state_of(vault.pk)
    if not state.complete:
        return [Range()]
    parts = ranges_of_scan(vault, list_requests(state.object_count), limit=limit)
    return Range().divided(_quantiles(vault.pk, parts, state.object_count)) if parts > 1 else [Range()]


def _quantiles(vault_id: int, parts: int, count: int) -> list[str]:
    sample = sql.quantiles(vault_id, parts, blocks=SAMPLED_BLOCKS) if count > MOST_SORTED else []
    return sample or sql.quantiles(vault_id, parts)


def scan_begun(vault_id: int, *, started_at: datetime, ranges: Sequence[Range]) -> None:
    """A scan of the whole vault, or a new division of it; under the lock of the vault's state."""
    IndexState.objects.filter(vault_id=vault_id).update(scan_started_at=started_at)
    ScanRange.objects.filter(vault_id=vault_id).delete()
    ScanRange.objects.bulk_create(
        ScanRange(vault_id=vault_id, low=one.low, high=one.high, reached=one.reached, after=raw(one.after))
        for one in ranges
    )


def scan_finished(vault_id: int, *, started_at: datetime) -> None:
    """The whole vault was listed: the index is complete, and as old as the scan's start."""
    found = IndexState.objects.filter(vault_id=vault_id)
    found.update(
        complete=True,
        source=Source.LIST,
        indexed_at=Now(),
        snapshot_as_of=Greatest(Coalesce(F("snapshot_as_of"), started_at), started_at),
        floor_at=Case(When(floor_at__isnull=False, then=Greatest(F("floor_at"), started_at))),
    )
    found.filter(scan_started_at__lte=started_at).update(scan_started_at=None)
    ScanRange.objects.filter(vault_id=vault_id, vault__index_state__scan_started_at__isnull=True).delete()
    # News from before the scan can change nothing any more, so nobody needs to remember these deletes.
    old = started_at - TOMBSTONES_KEPT
    RemoteObject.objects.filter(vault_id=vault_id, tombstone=True, observed_at__lt=old).delete()


def imported(vault_id: int, *, as_of: datetime, floor: datetime) -> None:
    """A whole inventory was merged: the index is complete, as old as the inventory, and certain up to `floor`."""
    found = IndexState.objects.filter(vault_id=vault_id)
    before = Case(When(complete=True, then=Coalesce(F("floor_at"), F("snapshot_as_of"))))
    found.update(
        source=Source.INVENTORY,
        indexed_at=Now(),
        floor_at=Greatest(Coalesce(before, floor), floor),
        snapshot_as_of=Greatest(Coalesce(F("snapshot_as_of"), as_of), as_of),
        complete=True,
    )
