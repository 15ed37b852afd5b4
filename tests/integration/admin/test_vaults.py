"""Vaults, policies and keys are edited with the command line's own checks."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.utils.html import escape

from sync.models import Conflict
from tests.integration.admin.conftest import SECRET, make_vault, open_conflict
from vaulthalla.vaults.models import ApiKey, SyncPolicy, Vault
from vaulthalla.work.engine import create_run
from vaulthalla.work.models import Run, RunKind

POLICY = {
    "interval": "5m",
    "enabled": "on",
    "strategy": "cache",
    "conflict": "ask",
    "max_remote_index_age": "1d",
    "on_stale_index": "reconcile",
    "max_delete": "50%",
    "preset": "",
    "budget_list": "100",
    "budget_head": "1000",
    "budget_get": "1000",
    "budget_put": "1000",
    "budget_copy": "100",
    "budget_delete": "1000",
    "budget_download_bytes": "10 GiB",
}


def save_policy(client: Client, policy: SyncPolicy, **changes: str) -> Any:
    return client.post(f"/admin/vaults/syncpolicy/{policy.pk}/change/", {**POLICY, **changes})


class TestPolicy:
    def test_the_page_shows_what_somebody_would_type(self, operator: Client, vault: Vault) -> None:
        answer = operator.get(f"/admin/vaults/syncpolicy/{vault.policy.pk}/change/")
        shown = answer.context["adminform"].form
        assert {name: shown[name].value() for name in POLICY if name not in ("enabled", "preset")} == {
            name: value for name, value in POLICY.items() if name not in ("enabled", "preset")
        }

    def test_values_are_read_as_on_the_command_line(self, operator: Client, vault: Vault) -> None:
        changes = {"interval": "1h30m", "budget_put": "unlimited", "budget_download_bytes": "512MiB", "max_delete": "7"}
        assert save_policy(operator, vault.policy, strategy="sync", **changes).status_code == 302
        policy = SyncPolicy.objects.get(vault=vault)
        assert (policy.interval_seconds, policy.budget_put, policy.strategy) == (5400, None, "sync")
        assert (policy.budget_download_bytes, policy.max_delete) == (512 * 2**20, "7")

    def test_saving_without_a_change_writes_nothing_and_keeps_the_back_off(
        self, operator: Client, vault: Vault
    ) -> None:
        SyncPolicy.objects.filter(vault=vault).update(backoff_level=3)
        assert save_policy(operator, vault.policy).status_code == 302
        assert SyncPolicy.objects.get(vault=vault).backoff_level == 3
        save_policy(operator, vault.policy, budget_list="200")
        assert SyncPolicy.objects.get(vault=vault).backoff_level == 0

    def test_a_preset_sets_every_limit_and_a_changed_one_goes_on_top(self, operator: Client, vault: Vault) -> None:
        save_policy(operator, vault.policy, preset="conservative", budget_put="77")
        policy = SyncPolicy.objects.get(vault=vault)
        assert (policy.budget_list, policy.budget_put, policy.budget_head) == (10, 77, 100)

    @pytest.mark.parametrize(
        ("field", "value", "complaint"),
        [
            ("interval", "soon", "Must be a duration"),
            ("interval", "0", "Must be a duration"),
            ("max_remote_index_age", "-1", "Must be a duration"),
            ("max_delete", "150%", "Must be a number like 200"),
            ("budget_put", "many", "Must be a whole number"),
            ("budget_download_bytes", "10 parsecs", "Must be a size"),
            ("conflict", "overwrite", "not one of the available choices"),
        ],
    )
    def test_a_bad_value_is_told_at_its_field_and_nothing_changes(
        self, operator: Client, vault: Vault, field: str, value: str, complaint: str
    ) -> None:
        answer = save_policy(operator, vault.policy, budget_list="5", **{field: value})
        assert complaint in answer.context["adminform"].form.errors[field][0]
        assert SyncPolicy.objects.get(vault=vault).budget_list == 100

    def test_what_does_not_fit_together_is_refused(self, operator: Client, vault: Vault) -> None:
        answer = save_policy(operator, vault.policy, strategy="mirror", conflict="keep_both")
        assert "a mirror never writes locally" in answer.context["adminform"].form.non_field_errors()[0]
        answer = save_policy(operator, vault.policy, delete_foreign="on")
        assert "fits only --strategy mirror" in answer.context["adminform"].form.non_field_errors()[0]

    def test_a_mirror_over_another_vaults_place_needs_a_word(self, operator: Client, key: ApiKey, vault: Vault) -> None:
        other = make_vault(key, "other")
        Vault.objects.filter(pk=other.pk).update(bucket=vault.bucket)
        answer = save_policy(operator, vault.policy, strategy="mirror")
        assert "already uses" in answer.context["adminform"].form.non_field_errors()[0]
        assert save_policy(operator, vault.policy, strategy="mirror", take_over="on").status_code == 302

    def test_a_local_vault_has_no_budget_and_its_own_conflict_policies(self, operator: Client, local: Vault) -> None:
        answer = operator.get(f"/admin/vaults/syncpolicy/{local.policy.pk}/change/")
        form = answer.context["adminform"].form
        assert set(form.fields) == {"interval", "enabled", "conflict", "max_delete"}
        typed = {"interval": "1h", "conflict": "overwrite", "max_delete": "10"}
        address = f"/admin/vaults/syncpolicy/{local.policy.pk}/change/"
        assert operator.post(address, typed).status_code == 302
        policy = SyncPolicy.objects.get(vault=local)
        assert (policy.interval_seconds, policy.enabled, policy.conflict_policy) == (3600, False, "overwrite")


class TestVault:
    def test_places_are_shown_and_not_edited_and_the_page_names_the_command(
        self, operator: Client, vault: Vault
    ) -> None:
        answer = operator.get(f"/admin/vaults/vault/{vault.pk}/change/")
        assert set(answer.context["adminform"].form.fields) == {"name", "description", "pool", "storage_class"}
        assert "vh vault update" in answer.content.decode()
        typed = {"name": "pictures", "description": "", "pool": "nas", "storage_class": "", "bucket": "stolen"}
        assert operator.post(f"/admin/vaults/vault/{vault.pk}/change/", typed).status_code == 302
        vault.refresh_from_db()
        assert (vault.name, vault.pool, vault.bucket) == ("pictures", "nas", "photos")

    @pytest.mark.parametrize(
        ("changes", "field"),
        [({"name": "-x"}, "name"), ({"name": "docs"}, "name"), ({"storage_class": "GLACIER"}, "storage_class")],
    )
    def test_bad_values_are_refused(
        self, operator: Client, vault: Vault, local: Vault, changes: dict[str, str], field: str
    ) -> None:
        typed = {"name": "photos", "description": "", "pool": "", "storage_class": "", **changes}
        answer = operator.post(f"/admin/vaults/vault/{vault.pk}/change/", typed)
        assert field in answer.context["adminform"].form.errors

    def test_a_pool_that_makes_two_roots_one_is_refused(self, operator: Client, vault: Vault, local: Vault) -> None:
        Vault.objects.filter(pk=vault.pk).update(pool="a")
        Vault.objects.filter(pk=local.pk).update(pool="b", root=vault.root)
        typed = {"name": "photos", "description": "", "pool": "", "storage_class": ""}
        answer = operator.post(f"/admin/vaults/vault/{vault.pk}/change/", typed)
        assert "root" in answer.context["adminform"].form.errors["pool"][0]

    def test_none_is_created_or_deleted_here_and_the_list_says_how(self, operator: Client, vault: Vault) -> None:
        assert operator.get("/admin/vaults/vault/add/").status_code == 403
        assert operator.post(f"/admin/vaults/vault/{vault.pk}/delete/", {"post": "yes"}).status_code == 403
        assert "vh vault create" in operator.get("/admin/vaults/vault/").content.decode()

    def test_a_sync_is_started_and_not_waited_for(self, operator: Client, vault: Vault, local: Vault) -> None:
        chosen = {"action": "sync_now", "_selected_action": [vault.pk, local.pk]}
        answer = operator.post("/admin/vaults/vault/", chosen, follow=True)
        assert set(Run.objects.values_list("vault__name", "kind", "trigger")) == {
            ("photos", "sync", "manual"),
            ("docs", "sync", "manual"),
        }
        assert f"Run {Run.objects.get(vault=vault).pk} of vault photos has begun" in answer.content.decode()

    def test_a_sync_that_cannot_wait_in_line_is_told(self, operator: Client, vault: Vault) -> None:
        create_run(vault, RunKind.SYNC, chunks=[])
        create_run(vault, RunKind.FETCH, chunks=[])
        answer = operator.post(
            "/admin/vaults/vault/", {"action": "sync_now", "_selected_action": [vault.pk]}, follow=True
        )
        assert "Wait for it, or cancel it" in answer.content.decode()
        assert Run.objects.count() == 2


class TestConflicts:
    def resolve(self, client: Client, action: str, *conflicts: Conflict) -> str:
        chosen = {"action": action, "_selected_action": [conflict.pk for conflict in conflicts]}
        return client.post("/admin/sync/conflict/", chosen, follow=True).content.decode()

    def test_a_decision_is_noted_and_a_run_carries_it_out(self, operator: Client, key: ApiKey, vault: Vault) -> None:
        one, two = open_conflict(vault, "a*"), open_conflict(make_vault(key, "other"), "b")
        self.resolve(operator, "keep_remote", one, two)
        assert set(Conflict.objects.values_list("resolution", flat=True)) == {"keep_remote"}
        runs = Run.objects.filter(kind=RunKind.RESOLVE)
        assert {(run.vault.name, *run.options["sync"]["patterns"]) for run in runs if run.vault} == {
            ("photos", "a*"),
            ("other", "b"),
        }
        assert all(run.options["sync"]["exact"] for run in runs)

    def test_a_mirror_cannot_keep_both(self, operator: Client, vault: Vault) -> None:
        SyncPolicy.objects.filter(vault=vault).update(strategy="mirror")
        conflict = open_conflict(vault, "a")
        assert "never writes locally" in self.resolve(operator, "keep_both", conflict)
        conflict.refresh_from_db()
        assert (conflict.resolution, Run.objects.count()) == ("", 0)

    def test_what_is_closed_stays_closed(self, operator: Client, vault: Vault) -> None:
        conflict = open_conflict(vault, "a")
        Conflict.objects.filter(pk=conflict.pk).update(status="closed")
        assert "1 were closed already" in self.resolve(operator, "keep_local", conflict)
        assert not Run.objects.exists()

    def test_a_busy_vault_keeps_the_decision_for_its_next_sync(self, operator: Client, vault: Vault) -> None:
        create_run(vault, RunKind.SYNC, chunks=[])
        create_run(vault, RunKind.FETCH, chunks=[])
        conflict = open_conflict(vault, "a")
        assert escape("the vault's next sync carries it out") in self.resolve(operator, "keep_local", conflict)
        conflict.refresh_from_db()
        assert conflict.resolution == "keep_local"


class TestKeys:
    TYPED = {"name": "aws", "provider": "aws", "endpoint": "", "region": "", "access_key": "AKIA2", "secret": SECRET}

    def test_a_key_is_created_with_the_commands_defaults(self, operator: Client) -> None:
        assert operator.post("/admin/vaults/apikey/add/", self.TYPED).status_code == 302
        key = ApiKey.objects.get(name="aws")
        assert (key.region, key.access_key, key.secret) == ("us-east-1", "AKIA2", SECRET)

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"provider": "minio"}, "--endpoint is needed"),
            ({"provider": "minio", "endpoint": "http://user:pw@host"}, "--endpoint must be"),
            ({"secret": ""}, "--secret is missing"),
            ({"from_environment": "on"}, "--from-environment takes neither"),
            ({"region": "eu central"}, "--region must be"),
        ],
    )
    def test_what_the_command_refuses_is_refused(
        self, operator: Client, changes: dict[str, str], complaint: str
    ) -> None:
        answer = operator.post("/admin/vaults/apikey/add/", {**self.TYPED, **changes})
        assert complaint in answer.context["adminform"].form.non_field_errors()[0]
        assert SECRET not in answer.content.decode()
        assert not ApiKey.objects.exists()

    def test_the_secret_is_never_shown_and_kept_when_none_is_typed(self, operator: Client, key: ApiKey) -> None:
        address = f"/admin/vaults/apikey/{key.pk}/change/"
        for page in (address, "/admin/vaults/apikey/", f"/admin/vaults/apikey/{key.pk}/history/"):
            assert SECRET not in operator.get(page).content.decode()
        assert (
            operator.post(address, {"name": "renamed", "region": "eu", "access_key": "B", "secret": ""}).status_code
            == 302
        )
        key.refresh_from_db()
        assert (key.name, key.region, key.access_key, key.secret) == ("renamed", "eu", "B", SECRET)
        operator.post(address, {"name": "renamed", "region": "eu", "access_key": "B", "secret": "new-one"})
        key.refresh_from_db()
        assert key.secret == "new-one"

    def test_a_used_key_keeps_its_place_and_is_not_deleted(self, operator: Client, key: ApiKey, vault: Vault) -> None:
        page = operator.get(f"/admin/vaults/apikey/{key.pk}/change/")
        assert not {"provider", "endpoint", "from_environment"} & set(page.context["adminform"].form.fields)
        assert "photos" in page.content.decode()
        assert operator.post(f"/admin/vaults/apikey/{key.pk}/delete/", {"post": "yes"}).status_code == 403
        bulk = {"action": "delete_selected", "_selected_action": [key.pk], "post": "yes"}
        operator.post("/admin/vaults/apikey/", bulk)
        assert ApiKey.objects.filter(pk=key.pk).exists()
        vault.delete()
        operator.post(f"/admin/vaults/apikey/{key.pk}/delete/", {"post": "yes"})
        assert not ApiKey.objects.exists()
