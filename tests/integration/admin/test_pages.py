"""Every page opens, changes nothing that only the engine may write, and asks the database a fixed number of times."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.db.models import CompositePrimaryKey
from django.test import Client
from django.test.utils import CaptureQueriesContext

from sync.start import first_chunks
from tests.integration.admin.conftest import SECRET, make_vault, populate
from vaulthalla.vaults.models import ApiKey, Vault
from vaulthalla.work.engine import create_run
from vaulthalla.work.models import Chunk, RunKind
from vaulthalla.work.phases import Phase

OWN = ("vaults", "work", "budgets", "indexing", "sync")
LISTS = (
    "vaults/vault",
    "vaults/syncpolicy",
    "vaults/apikey",
    "work/run",
    "work/chunk",
    "budgets/runbudget",
    "budgets/allotment",
    "budgets/notification",
    "budgets/delivery",
    "indexing/indexstate",
    "sync/operation",
    "sync/transfer",
    "sync/conflict",
)
READ_ONLY = LISTS[3:]
LEDGERS = ("work.run", "work.chunk", "budgets.runbudget", "sync.operation", "sync.transfer", "sync.conflict")


def queries(client: Client, address: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert client.get(address).status_code == 200
    return len(captured)


def test_every_model_is_there_but_rows_with_composite_keys() -> None:
    known = {model for label in OWN for model in apps.get_app_config(label).get_models()}
    composite = {model for model in known if isinstance(model._meta.pk, CompositePrimaryKey)}
    assert known - composite == {model for model in admin.site._registry if model._meta.app_label in OWN}


@pytest.mark.parametrize("page", LISTS)
def test_a_list_and_its_pages_open(operator: Client, vault: Vault, page: str) -> None:
    populate(vault)
    model = apps.get_model(page.replace("/", "."))
    answer = operator.get(f"/admin/{page}/")
    assert answer.status_code == 200
    for row in model._default_manager.all()[:1]:
        assert operator.get(f"/admin/{page}/{row.pk}/change/").status_code == 200
    assert operator.get(f"/admin/{page}/?q=1").status_code == 200


@pytest.mark.parametrize("page", LISTS)
def test_a_list_asks_the_same_number_of_times_whatever_its_length(
    operator: Client, key: ApiKey, vault: Vault, page: str
) -> None:
    populate(vault)
    before = queries(operator, f"/admin/{page}/")
    for number in range(4):
        other = make_vault(key, f"other{number}")
        populate(other)
        populate(other)
    after = queries(operator, f"/admin/{page}/")
    assert after <= before


@pytest.mark.parametrize("page", READ_ONLY)
def test_what_the_engine_writes_is_not_added_changed_or_deleted_by_hand(
    operator: Client, vault: Vault, page: str
) -> None:
    populate(vault)
    row = apps.get_model(page.replace("/", "."))._default_manager.first()
    assert operator.get(f"/admin/{page}/add/").status_code == 403
    if row is not None:
        assert operator.post(f"/admin/{page}/{row.pk}/change/", {}).status_code == 403
        assert operator.post(f"/admin/{page}/{row.pk}/delete/", {"post": "yes"}).status_code == 403
    actions = operator.get(f"/admin/{page}/").content
    assert b"delete_selected" not in actions


def test_a_run_tells_why_it_stopped_what_it_spent_and_what_helps(operator: Client, vault: Vault) -> None:
    run = populate(vault)
    listed = operator.get("/admin/work/run/").content.decode()
    assert "no PUT is left" in listed
    assert "vh vault sync set &lt;b&gt;" in listed
    assert "7 put" in listed
    page = operator.get(f"/admin/work/run/{run.pk}/change/").content.decode()
    assert f"/admin/sync/operation/?run__id__exact={run.pk}&amp;status__exact=failed" in page.replace(
        "&status", "&amp;status"
    )
    assert ">3012<" in page
    assert "5 MiB up, 0 B down" in page
    assert "0.01506 USD" in page
    assert ">over<" in page
    found = operator.get(f"/admin/sync/operation/?run__id__exact={run.pk}&status__exact=failed").content.decode()
    assert "a&lt;b" in found
    assert "2 KiB" in found


def test_a_run_that_has_only_begun_is_told_in_words(operator: Client, vault: Vault) -> None:
    run = create_run(vault, RunKind.SYNC, chunks=first_chunks(vault))
    Chunk.objects.filter(run=run).update(phase=Phase.SCAN)
    type(run).objects.update(phase=Phase.SCAN, result={})
    page = operator.get(f"/admin/work/run/{run.pk}/change/").content.decode()
    assert ">scan<" in page
    assert ">None<" not in page
    listed = operator.get("/admin/work/chunk/").content.decode()
    assert "scan</td>" in listed
    assert f'<a href="/admin/work/run/{run.pk}/change/">{run.pk}</a>' in listed
    assert "finalise" not in listed.partition('id="changelist-filter"')[0]


def test_the_pages_name_the_product(operator: Client) -> None:
    page = operator.get("/admin/").content.decode()
    assert "Vaulthalla" in page
    assert "Django" not in page


def test_who_may_only_look_sees_neither_secrets_nor_actions(client: Client, key: ApiKey, vault: Vault) -> None:
    populate(vault)
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(viewer)
    for page in LISTS:
        assert client.get(f"/admin/{page}/").status_code == 200
    assert SECRET not in client.get(f"/admin/vaults/apikey/{key.pk}/change/").content.decode()
    assert b"300" in client.get(f"/admin/vaults/syncpolicy/{vault.policy.pk}/change/").content
    assert client.get(f"/admin/vaults/vault/{vault.pk}/change/").status_code == 200
    for page in ("vaults/vault", "work/run", "sync/conflict", "vaults/apikey"):
        assert b'name="action"' not in client.get(f"/admin/{page}/").content


def test_a_stranger_sees_the_login_and_health_says_ok(client: Client, db: None) -> None:
    assert client.get("/admin/", follow=True).templates[0].name == "admin/login.html"
    assert client.get("/healthz").json() == {"status": "ok"}
