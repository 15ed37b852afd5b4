"""Nothing of an index outlives its vault, though no constraint of the database says so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import pytest
from django.db import connection, transaction

from indexing import counts, merge
from indexing.inventory.importing import Source as Delivery
from indexing.inventory.importing import start_import
from indexing.models import Finding, IndexCount, IndexState, RemoteObject, ScannedKey, ScanRange, Source
from tests.support.deliveries import deliver, row
from vaulthalla.errors import NotFound
from vaulthalla.stores.base import ObjectInfo, Page
from vaulthalla.vaults import register
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import claim, drive, execute, request_cancel
from vaulthalla.work.models import Queue, Run, RunKind, RunStatus
from vaulthalla.work.values import Busy

pytestmark = pytest.mark.django_db(transaction=True)

AT = datetime(2026, 11, 20, tzinfo=UTC)
TABLES = (RemoteObject, IndexState, IndexCount, ScanRange, ScannedKey, Finding)


def info(key: str) -> ObjectInfo:
    return ObjectInfo(key=key, size=5, etag="e", last_modified=AT, observed_at=AT)


def see(vault: Vault, *keys: str) -> None:
    merge.observe(vault.pk, [info(key) for key in keys], source=Source.HEAD)


def left() -> dict[str, int]:
    return {model.__name__: count for model in TABLES if (count := model._default_manager.count())}


def test_a_deleted_vault_leaves_nothing(vault: Vault) -> None:
    run = Run.objects.create(vault=vault, kind=RunKind.RECONCILE, status=RunStatus.FAILED)
    with transaction.atomic():
        see(vault, "a", "b")
        merge.observe_page(
            vault.pk,
            Page(objects=[info("c")], next_after=None, observed_at=AT),
            after="",
            last=None,
            since=0,
            run_id=run.pk,
            noted=run.pk,
        )
    ScanRange.objects.create(vault=vault, low="", reached="", after=b"")
    counts.count(vault.pk)
    assert left().keys() == {model.__name__ for model in TABLES}
    register.delete(vault)
    assert left() == {}


def test_a_merge_that_is_under_way_leaves_nothing_either(vault: Vault) -> None:
    with transaction.atomic():
        see(vault, "a")
    merged, waiting = Event(), Event()

    def late() -> None:
        try:
            with transaction.atomic():
                see(vault, "b")
                merged.set()
                assert waiting.wait(10)
        finally:
            connection.close()

    def blocked() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            return bool(cursor.fetchone()[0])

    def delete() -> None:
        try:
            register.delete(vault)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(late)
        assert merged.wait(10)
        other = threads.submit(delete)
        while not blocked() and not other.done():
            pass
        waiting.set()
        one.result()
        other.result()
    assert left() == {}


def test_no_merge_makes_an_index_for_a_vault_that_is_gone(vault: Vault) -> None:
    gone = vault.pk
    register.delete(vault)
    with pytest.raises(NotFound), transaction.atomic():
        merge.observe(gone, [info("a")], source=Source.EVENT)
    assert left() == {}


def test_a_vault_is_not_deleted_in_the_middle_of_an_import(vault: Vault, tmp_path: Path) -> None:
    manifest = deliver(tmp_path, [[row("a")], [row("b")]], as_of=AT)
    run = start_import(vault, Delivery(manifest=str(manifest)))
    lease = claim(Queue.values, run_id=run.pk)
    assert lease is not None
    execute(lease)
    with pytest.raises(Busy):
        register.delete(vault)
    request_cancel(run.pk)
    drive(run.pk)
    register.delete(vault)
    assert left() == {}
