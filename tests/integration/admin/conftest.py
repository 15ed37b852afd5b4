"""An administrator's browser, and a database with some of everything."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client

from budgets.models import Delivery, Notification
from indexing.models import IndexState
from sync.models import Conflict, Direction, Operation, OperationStatus, Transfer
from sync.start import first_chunks
from vaulthalla.vaults.models import ApiKey, SyncPolicy, Vault, VaultKind
from vaulthalla.work.engine import create_run
from vaulthalla.work.models import Chunk, Run, RunKind, RunStatus

SECRET = "a-secret-nobody-may-read"


@pytest.fixture
def operator(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.fixture
def key(db: None) -> ApiKey:
    return ApiKey.objects.create(
        name="minio", provider="minio", endpoint="http://127.0.0.1:9", access_key="AKIA", secret=SECRET
    )


def make_vault(key: ApiKey, name: str = "photos") -> Vault:
    """An S3 vault; nothing here reaches its root or its bucket."""
    vault = Vault.objects.create(
        name=name, kind=VaultKind.S3, root=f"/roots/{name}", api_key=key, bucket=name, marker=uuid4()
    )
    SyncPolicy.objects.create(vault=vault)
    return vault


@pytest.fixture
def vault(key: ApiKey) -> Vault:
    return make_vault(key)


@pytest.fixture
def local(db: None) -> Vault:
    vault = Vault.objects.create(
        name="docs", kind=VaultKind.LOCAL, root="/roots/docs", replica="/roots/docs-copy", marker=uuid4()
    )
    SyncPolicy.objects.create(vault=vault, strategy="sync", conflict_policy="keep_both")
    return vault


def populate(vault: Vault) -> Run:
    """A finished run that stalled, with a failed operation; a conflict; a transfer; an index."""
    run = create_run(vault, RunKind.SYNC, chunks=first_chunks(vault))
    Chunk.objects.filter(run=run).update(status="done", items_total=10, items_done=4)
    run.budget.filter(request_class="put").update(used=7)
    stall = {"stall_code": "budget_put", "stall_reason": "no PUT is left", "stall_remedy": "vh vault sync set <b>"}
    estimate = {
        "requests": {"put": 3_012, **dict.fromkeys(("list", "head", "get", "copy", "delete", "downloaded_bytes"), 0)},
        "bytes": {"up": 5 * 2**20, "down": 0},
        "cost": {"amount": "0.01506", "currency": "USD", "catalog": "v1"},
    }
    Run.objects.filter(pk=run.pk).update(status=RunStatus.STALLED, result={"estimate": estimate}, **stall)
    Operation.objects.create(run=run, ordinal=1, path="a<b", action="upload", status=OperationStatus.FAILED, size=2048)
    open_conflict(vault, f"both-{run.pk}")
    Transfer.objects.create(
        vault=vault,
        path=f"large-{run.pk}",
        direction=Direction.UP,
        version="v",
        size=30,
        part_size=10,
        parts={"1": "e"},
    )
    IndexState.objects.get_or_create(vault=vault)
    notification = Notification.objects.create(
        topic="budget.sync_blocked",
        severity="critical",
        cause=f"run-{run.pk}",
        title="<b> stopped",
        text="no PUT is left",
        vault_id=vault.pk,
        vault_name=vault.name,
    )
    Delivery.objects.create(notification=notification, channel="webhook", error="answered 500")
    return run


def open_conflict(vault: Vault, path: str) -> Conflict:
    return Conflict.objects.create(
        vault=vault,
        path=path,
        reason="both changed",
        local={"present": True, "size": 2048},
        remote={"present": False},
        local_version="l",
        remote_version="r",
    )
