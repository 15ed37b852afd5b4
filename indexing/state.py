"""The one row that says how far the index of a vault can be trusted."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Case, F, Q, When
from django.db.models.functions import Coalesce, Greatest, Now

from indexing.freshness import Trust, list_requests
from indexing.models import IndexState, RemoteObject
from indexing.terms import Source
from vaulthalla.vaults.models import Vault

# Long enough for every host that shares a manifest to have seen a delete.
TOMBSTONES_KEPT = timedelta(days=30)


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


def estimate(vault: Vault) -> int | None:
    """LIST requests that a scan of the whole vault is expected to take; None without a prior index."""
    state = state_of(vault.pk)
    return list_requests(state.object_count) if state.complete else None


def scan_advanced(vault_id: int, *, started_at: datetime, last: str) -> None:
    """The unfinished scan that begun at `started_at` has merged every key up to `last`, the first time or further."""
    behind = Q(scan_started_at=started_at, scan_cursor__lt=last)
    fresh = Q(scan_started_at__isnull=True) | Q(scan_started_at__lt=started_at)
    IndexState.objects.filter(behind | fresh, vault_id=vault_id).update(scan_started_at=started_at, scan_cursor=last)


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
    found.filter(scan_started_at__lte=started_at).update(scan_started_at=None, scan_cursor=None)
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
