"""The first chunk of a sync: is the root there, and how far can the index be trusted?"""

from __future__ import annotations

from budgets.access import ChunkMeter, budget_stall, limits, open_store, remaining
from indexing.manifest.refresh import Look, refresh
from indexing.manifest.state import refresh_needs
from indexing.reconcile import reconcile_chunks
from indexing.usable import chunks_before_planning, require_fresh_index
from sync.options import SyncOptions
from sync.root import check_root
from vaulthalla.errors import Stall
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.engine import Lease, NewChunk, add_chunks, handler
from vaulthalla.work.models import Run, RunKind


@handler("sync.prepare")
def prepare(lease: Lease) -> None:
    """Raises a typed Stall before anything is read or sent that the rest of the run could not use."""
    run = lease.load_run()
    vault = run.vault
    if vault is None:
        raise AssertionError("a sync without a vault")
    check_root(vault.root, vault.marker, vault=vault.name)
    if vault.kind == VaultKind.LOCAL:
        # A second directory that is not there must not look like one that was emptied.
        check_root(vault.replica, vault.marker, vault=vault.name)
    look = _look(lease, run, vault)
    try:
        chunks = _index_chunks(run, vault)
    except Stall:
        if look is not None and look.short is not None and limits(run.pk)[look.short] != 0:
            # The manifest might have helped, and what it takes is known.
            raise budget_stall(run.pk, look.short, planned=Requests({look.short: look.planned})) from None
        raise
    if chunks:
        with lease.commit():
            add_chunks(run.pk, chunks)


def _look(lease: Lease, run: Run, vault: Vault) -> Look | None:
    """What the manifest in the bucket tells, before anything else is asked. Raises Unusable."""
    if run.kind != RunKind.SYNC or SyncOptions.of(run).offline or not refresh_needs(vault, limits(run.pk)):
        return None
    meter = ChunkMeter(lease)
    look = refresh(lease, vault, open_store(vault, meter), meter)
    if look.reason:
        with lease.commit():
            run.result = {**run.result, "manifest_unread": look.reason}
            run.save(update_fields=["result"])
    return look


def _index_chunks(run: Run, vault: Vault) -> list[NewChunk]:
    """What makes the index usable. A dry-run sends nothing for it unless it was asked to."""
    refresh = SyncOptions.of(run).refresh_index
    if run.kind == RunKind.DRY_RUN and vault.kind == VaultKind.S3 and not refresh:
        require_fresh_index(vault)
        return []
    if refresh:
        return reconcile_chunks(vault)
    return chunks_before_planning(vault, list_budget=remaining(run.pk)[RequestClass.LIST])
