"""What executing learnt, as rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import transaction

from indexing.merge import revision_of
from indexing.models import IndexState, RemoteObject, Source
from sync.record import Ledger
from vaulthalla.stores.base import ObjectInfo
from vaulthalla.vaults.models import ApiKey, SyncPolicy, Vault, VaultKind

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def vault() -> Vault:
    key = ApiKey.objects.create(name="key", provider="other", access_key="access", secret="secret", endpoint="http://e")
    vault = Vault.objects.create(
        name="photos", kind=VaultKind.S3, root="/photos", marker=uuid4(), bucket="bucket", api_key=key
    )
    SyncPolicy.objects.create(vault=vault)
    # The listing that began this very second saw no object.
    IndexState.objects.create(vault=vault, complete=True, source=Source.LIST, snapshot_as_of=NOW)
    return vault


def seen(vault: Vault, at: datetime, *, since: int | None) -> RemoteObject:
    ledger = Ledger(vault_id=vault.pk, policy="", since=since)
    ledger.saw(ObjectInfo(key="a", size=1, etag="e", last_modified=at, observed_at=at))
    with transaction.atomic():
        ledger.write()
    return RemoteObject.objects.get(vault=vault, key="a")


@pytest.mark.parametrize("later", [0, 1, 2])
def test_what_was_asked_after_a_listing_is_newer_than_it(vault: Vault, later: int) -> None:
    known = revision_of(vault.pk)
    assert not seen(vault, NOW + timedelta(seconds=later), since=known).doubtful


def test_what_may_have_been_asked_before_is_doubtful(vault: Vault) -> None:
    assert seen(vault, NOW + timedelta(seconds=1), since=None).doubtful


HEAD_SAW = ObjectInfo(key="a", size=1, etag="theirs", last_modified=NOW, observed_at=NOW)
WROTE = ObjectInfo(key="a", size=2, etag="ours", last_modified=NOW, observed_at=NOW)
STEPS: dict[str, Callable[[Ledger], None]] = {
    "saw": lambda ledger: ledger.saw(HEAD_SAW),
    "missed": lambda ledger: ledger.missed("a", NOW),
    "wrote": lambda ledger: ledger.wrote(WROTE),
    "deleted": lambda ledger: ledger.deleted("a", NOW),
}


@pytest.mark.parametrize("at_once", [True, False], ids=["one commit", "several commits"])
@pytest.mark.parametrize(
    ("steps", "etag"),
    [
        (["missed", "wrote"], "ours"),
        (["saw", "wrote"], "ours"),
        (["saw", "deleted"], ""),
        (["missed", "wrote", "deleted"], ""),
        (["deleted", "wrote"], "ours"),
        (["saw", "missed", "wrote"], "ours"),
    ],
    ids=" ".join,
)
def test_what_was_learnt_last_holds(vault: Vault, steps: list[str], etag: str, at_once: bool) -> None:
    """All within the same second of the store's clock."""
    known = revision_of(vault.pk)
    whole = Ledger(vault_id=vault.pk, policy="", since=known)
    for step in steps:
        part = Ledger(vault_id=vault.pk, policy="", since=known)
        STEPS[step](part)
        whole.absorb(part)
        if not at_once:
            with transaction.atomic():
                part.write()
    if at_once:
        with transaction.atomic():
            whole.write()
    rows = RemoteObject.objects.filter(vault=vault, key="a")
    assert not rows.filter(doubtful=True).exists()
    assert [row.etag for row in rows.filter(tombstone=False)] == ([etag] if etag else [])
