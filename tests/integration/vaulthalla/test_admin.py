"""What the admin's pages leave alone: secrets, what runs write, and rows that come and go with their vault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.models.signals import pre_save
from django.test import Client

from tests.integration.admin.test_vaults import POLICY
from vaulthalla.vaults.models import ApiKey, SyncPolicy, Vault, VaultKind

SECRET = "do-not-show-this"
FORM = {**POLICY, "interval": "15m"}


@pytest.fixture
def policy(db: None) -> SyncPolicy:
    key = ApiKey.objects.create(name="k", provider="aws", access_key="AK", secret=SECRET)
    vault = Vault.objects.create(
        name="photos",
        kind=VaultKind.S3,
        root="/photos",
        api_key=key,
        bucket="photos",
        marker="0b5e6b0e-95a1-4f7a-8f4e-1d1f6a9f8f10",
    )
    return SyncPolicy.objects.create(vault=vault, backoff_level=3)


@pytest.fixture
def run_in_between() -> Iterator[None]:
    """A run notes what it synced after the page read the policy and before it writes it."""

    def note(instance: SyncPolicy, **_: Any) -> None:
        SyncPolicy.objects.filter(pk=instance.pk).update(synced_strategy="cache")

    pre_save.connect(note, sender=SyncPolicy)
    yield
    pre_save.disconnect(note, sender=SyncPolicy)


@pytest.mark.usefixtures("run_in_between")
def test_an_edit_keeps_what_a_run_wrote_meanwhile(admin_client: Client, policy: SyncPolicy) -> None:
    assert admin_client.post(f"/admin/vaults/syncpolicy/{policy.pk}/change/", FORM).status_code == 302
    policy.refresh_from_db()
    assert (policy.interval_seconds, policy.backoff_level, policy.synced_strategy) == (900, 0, "cache")


@pytest.mark.parametrize("model", ["apikey", "vault", "syncpolicy"])
def test_pages_show_no_secret(admin_client: Client, policy: SyncPolicy, model: str) -> None:
    found = {"apikey": policy.vault.api_key, "vault": policy.vault, "syncpolicy": policy}[model]
    assert found is not None
    for page in ("", f"{found.pk}/change/"):
        answer = admin_client.get(f"/admin/vaults/{model}/{page}")
        assert answer.status_code == 200
        assert SECRET not in answer.content.decode()


def test_a_policy_comes_and_goes_with_its_vault(admin_client: Client, policy: SyncPolicy) -> None:
    for page in ("add/", f"{policy.pk}/delete/"):
        assert admin_client.get(f"/admin/vaults/syncpolicy/{page}").status_code == 403
