"""What vault and key commands may ask of the layers above them (see `vaulthalla.vaults.probe`)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import transaction

from budgets.access import ChunkMeter, Draw, billed_to, budget_stall, open_store, s3_config
from indexing import merge
from indexing.merge import OWN_KEYS
from indexing.models import EventFeed, RemoteObject
from sync.models import Base, Conflict, LocalDir, LocalFile, Transfer
from sync.root import check_plantable
from sync.root import plant_marker as plant
from vaulthalla.errors import Refused, Stall, StallCode
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import ObjectInfo, Ordering
from vaulthalla.stores.probe import check_credentials, probe
from vaulthalla.stores.s3 import S3Store
from vaulthalla.vaults.models import ApiKey, Vault, VaultKind
from vaulthalla.work.engine import Busy, Lease, run_inline
from vaulthalla.work.models import ACTIVE, Run, RunKind, RunStatus

# The probe's own need, with room for the retries of a store that is slow to wake up.
PROBE_LIMITS = {"list": 4, "head": 20, "get": 4, "put": 30, "copy": 12, "delete": 20}
# More objects than this are not deleted without a second word.
ALWAYS_ALLOWED = 10
DELETE_THREADS = 16


def check_key(api_key: ApiKey) -> None:
    """One request that proves the credentials. Raises StoreError."""

    def check(lease: Lease) -> None:
        check_credentials(s3_config(api_key), _granted(lease, Requests({RequestClass.LIST: PROBE_LIMITS["list"]})))

    run_inline(None, RunKind.CHECK, check, options={"limits": PROBE_LIMITS, **billed_to(api_key)})


def probe_vault(vault: Vault) -> dict[str, Any]:
    """Proves with throw-away objects which conditional requests this bucket keeps. Raises StoreError."""
    proven: dict[str, Any] = {}

    def check(lease: Lease) -> None:
        store = open_store(vault, _granted(lease, _probe_needs()))
        if not isinstance(store, S3Store):
            raise TypeError("Only a bucket is probed.")
        able = probe(store)
        proven.update(
            conditional_put=able.conditional_put,
            conditional_copy=able.conditional_copy,
            conditional_delete=able.conditional_delete,
            conditional_complete=able.conditional_complete,
        )

    billed = {} if vault.api_key is None else billed_to(vault.api_key, bucket=vault.bucket)
    run_inline(None, RunKind.CHECK, check, options={"limits": PROBE_LIMITS, **billed})
    return proven


def plant_marker(vault: Vault, adopt: bool) -> None:
    """Marks the root, and the second directory of a local vault, as this vault's. Raises Refused."""
    places = [vault.root, vault.replica] if vault.kind == VaultKind.LOCAL else [vault.root]
    for place in places:
        check_plantable(place, vault.marker, adopt=adopt)
    for place in places:
        plant(place, vault.marker, adopt=adopt)


def forget(vault: Vault) -> None:
    """Drops what is known of both sides; inside the caller's transaction. Raises Busy."""
    run = Run.objects.filter(vault=vault, status__in=(*ACTIVE, RunStatus.QUEUED)).first()
    if run is not None:
        raise Busy(
            f"Vault {vault.name!r} is at work (run {run.pk}).",
            run_id=run.pk,
            remedy=f"Wait for it, or run: vh vault sync cancel {shlex.quote(vault.name)}",
        )
    merge.reset(vault.pk)
    for model in (Base, LocalFile, LocalDir, Conflict, Transfer, EventFeed):
        rows = model._default_manager.filter(vault=vault)
        rows._raw_delete(rows.db)  # no signals and no relations to collect, so no row is loaded


def delete_upstream(vault: Vault, allow: bool) -> None:
    """Deletes every object of the vault within its budgets. Raises Stall; a second call goes on."""

    def delete(lease: Lease) -> None:
        meter = ChunkMeter(lease)
        store = open_store(vault, meter)
        pages = _pages(lease, meter, store)
        with ThreadPoolExecutor(DELETE_THREADS) as pool:
            for page, more in pages:
                users = sum(not info.key.startswith(OWN_KEYS) for info in page)
                if not allow and (more or users > ALWAYS_ALLOWED):
                    raise Stall(
                        StallCode.DELETE_GUARD,
                        f"Vault {vault.name!r} has more than {ALWAYS_ALLOWED} objects; none was deleted.",
                        remedy=f"vh vault delete {shlex.quote(vault.name)} "
                        "--delete-upstream --allow-deletes --yes  # if that is meant",
                    )
                _draw(lease, meter, Requests({RequestClass.DELETE: len(page)}))
                list(pool.map(lambda info: store.delete(info.key), page))
                with lease.commit():
                    meter.settle()

    run_inline(vault, RunKind.RESOLVE, delete)
    with transaction.atomic():
        RemoteObject.objects.filter(vault=vault).delete()


def _pages(lease: Lease, meter: ChunkMeter, store: Any) -> Iterator[tuple[list[ObjectInfo], bool]]:
    token, after = store.capabilities.ordering is Ordering.UNSPECIFIED, ""
    while True:
        _draw(lease, meter, Requests({RequestClass.LIST: 1}))
        page = store.list_page(after=after, token=token)
        yield list(page.objects), page.next_after is not None
        if page.next_after is None:
            return
        after = page.next_after


def _draw(lease: Lease, meter: ChunkMeter, need: Requests) -> None:
    lacking = Requests({c: n - meter.available(c) for c, n in need.items() if n > meter.available(c)})
    if lacking and meter.draw(lacking, lacking) is not Draw.DRAWN:
        raise budget_stall(lease.run_id, meter.exhausted or next(iter(lacking)))


def _granted(lease: Lease, need: Requests) -> ChunkMeter:
    meter = ChunkMeter(lease)
    if meter.draw(need, need) is not Draw.DRAWN:
        raise Refused("A check's own budget does not suffice.", code="budget")
    return meter


def _probe_needs() -> Requests:
    return Requests({RequestClass(name): count for name, count in PROBE_LIMITS.items()})
