"""The one door through which vault and key commands send requests or touch what higher layers know.

`settings.VH_PROBE` names a module of a layer above with these functions. Each request-sending one is a run of its
own with its own budget, and raises VaulthallaError or StoreError when what it was asked about is not so:

check_key(api_key)              one cheap request; `api_key` is not saved yet
probe_vault(vault) -> dict      the bucket answers; what it proved, for `vault.capabilities`; `vault` may be unsaved
plant_marker(vault, adopt)      writes `.vaulthalla/vault.json` into the root (and the replica of a local vault);
                                refuses a root that carries another vault's marker unless `adopt`
forget(vault)                   drops base, local rows, conflicts and remote index inside the caller's transaction;
                                refuses (code `busy`) while a run of the vault is unfinished
delete_upstream(vault, allow)   deletes the vault's remote objects, under the delete guard unless `allow`
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from django.conf import settings

from vaulthalla.errors import Refused, Stall, VaulthallaError
from vaulthalla.stores.base import AccessDenied, BucketMissing, StoreError, StoreUnavailable
from vaulthalla.vaults.models import ApiKey, Vault

REMEDIES: dict[type[StoreError], str] = {
    AccessDenied: "Check access key, secret and region, and what the provider allows this key to do.",
    BucketMissing: "Create the bucket at the provider first, or correct --bucket.",
    StoreUnavailable: "Check the endpoint and that this host reaches it.",
}
NO_VERIFY = "--no-verify skips the check."


def check_key(api_key: ApiKey) -> None:
    with _nothing_changed():
        _module().check_key(api_key)


def probe_vault(vault: Vault) -> dict[str, Any]:
    with _nothing_changed():
        try:
            return cast("dict[str, Any]", _module().probe_vault(vault))
        except BucketMissing as error:
            # The store names the object that it was asked for.
            where = vault.api_key.endpoint or vault.api_key.provider if vault.api_key else ""
            raise BucketMissing(f"There is no bucket {vault.bucket!r} at {where}.") from error


def plant_marker(vault: Vault, *, adopt: bool) -> None:
    _module().plant_marker(vault, adopt)


def forget(vault: Vault) -> None:
    _module().forget(vault)


def delete_upstream(vault: Vault, *, allow: bool) -> None:
    _module().delete_upstream(vault, allow)


@contextmanager
def _nothing_changed() -> Iterator[None]:
    """A check that fails refuses the command: whatever the store said, nothing was changed."""
    try:
        yield
    except (Refused, Stall):
        raise
    except VaulthallaError as error:
        raise Refused(error.message, code=error.code, remedy=error.remedy or NO_VERIFY) from error
    except StoreError as error:
        remedy = next((text for kind, text in REMEDIES.items() if isinstance(error, kind)), "")
        raise Refused(str(error), code=error.code, remedy=f"{remedy} {NO_VERIFY}".strip()) from error


def _module() -> Any:
    return importlib.import_module(settings.VH_PROBE)
