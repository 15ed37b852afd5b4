"""The first chunk of a sync: is the root there, and how far can the index be trusted?"""

from __future__ import annotations

from budgets.access import remaining
from indexing.usable import chunks_before_planning
from sync.root import check_root
from vaulthalla.requests import RequestClass
from vaulthalla.vaults.models import VaultKind
from vaulthalla.work.engine import Lease, add_chunks, handler


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
    left = remaining(run.pk)[RequestClass.LIST]
    chunks = chunks_before_planning(vault, list_budget=left)
    if chunks:
        with lease.commit():
            add_chunks(run.pk, chunks)
