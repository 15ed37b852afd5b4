"""What a store's error means for a run that reads it."""

from __future__ import annotations

from shlex import quote

from vaulthalla.errors import Stall, StallCode, VaulthallaError
from vaulthalla.stores.base import BucketMissing, StoreError, StoreUnavailable
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.again import again
from vaulthalla.work.models import Run


def store_fault(error: StoreError, vault: Vault, run: Run, *, refused: str) -> VaulthallaError:
    """A store that is away is a protective stop; one that refuses us is a failure.

    `refused` says what it would not do.
    """
    if isinstance(error, StoreUnavailable) or (isinstance(error, BucketMissing) and vault.kind == VaultKind.LOCAL):
        return Stall(
            StallCode.STORE_UNAVAILABLE,
            f"The store of {vault.name} does not answer: {error}",
            remedy=f"{again(run)}  # once it answers again",
        )
    return VaulthallaError(
        f"The store of {vault.name} {refused}: {error}",
        code=error.code,
        remedy=f"vh vault info {quote(vault.name)}  # check bucket, endpoint and credentials",
    )
