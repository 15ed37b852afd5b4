"""A vault whose objects are only known by name."""

from __future__ import annotations

from uuid import uuid4

import pytest

from budgets import access
from vaulthalla.stores.base import Meter
from vaulthalla.stores.memory import MemoryBucket, MemoryStore
from vaulthalla.stores.profiles import ALL_CONDITIONS
from vaulthalla.vaults.models import ApiKey, Provider, SyncPolicy, Vault


@pytest.fixture
def vault(db: None) -> Vault:
    key = ApiKey.objects.create(name="key", provider=Provider.AWS, secret="secret")
    vault = Vault.objects.create(
        name="photos",
        kind="s3",
        root="/nowhere",
        marker=uuid4(),
        api_key=key,
        bucket="bucket",
        capabilities=ALL_CONDITIONS,
    )
    SyncPolicy.objects.create(vault=vault)
    return vault


@pytest.fixture(autouse=True)
def buckets(monkeypatch: pytest.MonkeyPatch) -> dict[str, MemoryBucket]:
    """The provider's side, by name: no test of these sends anything."""
    found: dict[str, MemoryBucket] = {}

    def open_bucket(vault: Vault, meter: Meter) -> MemoryStore:
        return MemoryStore(found.setdefault(vault.bucket, MemoryBucket()), meter, prefix=vault.prefix)

    monkeypatch.setattr(access, "_bucket", open_bucket)
    return found
