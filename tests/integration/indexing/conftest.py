"""A vault whose objects are only known by name."""

from __future__ import annotations

from uuid import uuid4

import pytest

from vaulthalla.vaults.models import ApiKey, Provider, SyncPolicy, Vault


@pytest.fixture
def vault(db: None) -> Vault:
    key = ApiKey.objects.create(name="key", provider=Provider.AWS, secret="secret")
    vault = Vault.objects.create(
        name="photos", kind="s3", root="/nowhere", marker=uuid4(), api_key=key, bucket="bucket"
    )
    SyncPolicy.objects.create(vault=vault)
    return vault
