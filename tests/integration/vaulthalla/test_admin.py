"""Policies are edited under the rules of the command line; keys and places are only shown."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from vaulthalla.vaults.models import ApiKey, SyncPolicy, Vault, VaultKind

SECRET = "do-not-show-this"


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


def form(**changed: object) -> dict[str, object]:
    return {
        "enabled": "on",
        "interval_seconds": 300,
        "strategy": "cache",
        "conflict_policy": "ask",
        "max_remote_index_age_seconds": 86_400,
        "on_stale_index": "reconcile",
        "max_delete": "50%",
        "budget_list": 100,
        "budget_head": 1000,
        "budget_get": 1000,
        "budget_put": 1000,
        "budget_copy": 100,
        "budget_delete": 1000,
        "budget_download_bytes": 10 * 2**30,
        **changed,
    }


def edit(client: Client, policy: SyncPolicy, **changed: object) -> Any:
    return client.post(f"/admin/vaults/syncpolicy/{policy.pk}/change/", form(**changed))


def test_a_policy_is_edited(admin_client: Client, policy: SyncPolicy) -> None:
    assert edit(admin_client, policy, interval_seconds=900, budget_list="").status_code == 302
    policy.refresh_from_db()
    assert (policy.interval_seconds, policy.budget_list, policy.backoff_level) == (900, None, 0)


def test_an_edit_keeps_what_a_run_wrote_meanwhile(admin_client: Client, policy: SyncPolicy) -> None:
    SyncPolicy.objects.update(synced_strategy="cache")
    edit(admin_client, policy, interval_seconds=900)
    policy.refresh_from_db()
    assert policy.synced_strategy == "cache"


@pytest.mark.parametrize(
    "changed",
    [
        {"interval_seconds": 0},
        {"max_delete": "lots"},
        {"conflict_policy": "overwrite"},
        {"strategy": "mirror", "conflict_policy": "keep_both"},
        {"delete_foreign": "on"},
        {"budget_list": -1},
    ],
)
def test_what_a_command_refuses_the_form_refuses(
    admin_client: Client, policy: SyncPolicy, changed: dict[str, object]
) -> None:
    answer = edit(admin_client, policy, **changed)
    assert answer.status_code == 200
    assert answer.context["adminform"].form.errors
    policy.refresh_from_db()
    assert policy.backoff_level == 3


@pytest.mark.parametrize("model", ["apikey", "vault", "syncpolicy"])
def test_pages_show_no_secret_and_offer_no_shortcut(admin_client: Client, policy: SyncPolicy, model: str) -> None:
    found = {"apikey": policy.vault.api_key, "vault": policy.vault, "syncpolicy": policy}[model]
    assert found is not None
    for page in ("", f"{found.pk}/change/"):
        answer = admin_client.get(f"/admin/vaults/{model}/{page}")
        assert answer.status_code == 200
        assert SECRET not in answer.content.decode()
    for page in ("add/", f"{found.pk}/delete/"):
        assert admin_client.get(f"/admin/vaults/{model}/{page}").status_code == 403


def test_only_the_description_of_a_vault_is_edited_by_hand(admin_client: Client, policy: SyncPolicy) -> None:
    url = f"/admin/vaults/vault/{policy.vault_id}/change/"
    assert admin_client.post(url, {"description": "Trips", "root": "/etc"}).status_code == 302
    vault = Vault.objects.get()
    assert (vault.description, vault.root) == ("Trips", "/photos")
