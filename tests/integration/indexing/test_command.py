"""`vh vault sync reconcile` against a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from indexing.models import RemoteObject
from tests.support.servers import ACCESS_KEY, SECRET, S3Server
from vaulthalla import cli
from vaulthalla.vaults.models import ApiKey, SyncPolicy, Vault
from vaulthalla.work.models import Run

pytestmark = pytest.mark.django_db(transaction=True)

ODD = ["a b+c%20&d?#", "emoji 🎉", "a//b", "/lead", "new\nline", "é", "e\u0301", "quote\"'\\", "{,}"]


@pytest.fixture
def buckets() -> None:
    """These talk to a server."""


@pytest.fixture(scope="module")
def roto() -> Iterator[S3Server]:
    with S3Server("roto") as server:
        server.create_bucket("bucket")
        yield server


@pytest.fixture
def vault(transactional_db: None, roto: S3Server) -> Vault:
    key = ApiKey.objects.create(
        name="roto", provider="aws", endpoint=roto.endpoint, region="us-east-1", access_key=ACCESS_KEY, secret=SECRET
    )
    prefix = f"{uuid4().hex}/"
    vault = Vault.objects.create(
        name="my photos", kind="s3", root="/photos", marker=uuid4(), api_key=key, bucket="bucket", prefix=prefix
    )
    SyncPolicy.objects.create(vault=vault)
    return vault


def vh(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON on stdout, and stderr."""
    code = cli.run(["vault", "sync", "reconcile", *arguments])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out.startswith("{") else {"text": said.out}, said.err


def test_reconcile_lists_the_bucket(vault: Vault, roto: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    for key in ODD:
        roto.client().put_object(Bucket="bucket", Key=vault.prefix + key, Body=b"abc")
    code, value, stderr = vh(capsys, "my photos", "--json")
    assert (code, stderr) == (0, "")
    assert value["estimate_list_requests"] is None
    assert (value["vault"], value["objects_indexed"], value["added"]) == ("my photos", len(ODD), len(ODD))
    assert value["requests"]["list"] == 1
    rows = {row.key: (row.size, row.etag) for row in RemoteObject.objects.filter(vault=vault)}
    assert rows == dict.fromkeys(ODD, (3, "900150983cd24fb0d6963f7d28e17f72"))
    code, value, _ = vh(capsys, "my photos", "--json")
    assert (code, value["estimate_list_requests"], value["added"], value["changed"]) == (0, 1, 0, 0)


def test_the_estimate_comes_first_for_people(vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
    code, value, stderr = vh(capsys, "my photos", "--allow-list-scan")
    assert code == 0
    assert stderr.startswith("Estimate: unknown, since there is no index yet")
    assert "Requests:        1 list" in value["text"]
    _, _, stderr = vh(capsys, "my photos")
    assert stderr.startswith("Estimate: 1 LIST request (")


def test_no_finite_budget_is_refused(vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
    SyncPolicy.objects.update(budget_list=None)
    code, _, stderr = vh(capsys, "my photos", "--json")
    error = json.loads(stderr)["error"]
    assert (code, error["code"]) == (2, "list_budget_missing")
    assert "unlimited is not configured" in error["message"]
    assert "vh vault sync reconcile 'my photos' --allow-list-scan" in error["remedy"]
    assert not Run.objects.exists()


def test_a_used_up_budget_is_a_stall(vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
    SyncPolicy.objects.update(budget_list=0)
    code, value, stderr = vh(capsys, "my photos", "--json")
    error = json.loads(stderr)["error"]
    assert (code, error["code"]) == (3, "budget_list")
    assert error["remedy"] == "vh vault sync set 'my photos' --s3-budget-list 1"
    assert value["status"] == "stalled"


def test_a_missing_bucket_is_told(vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
    Vault.objects.update(bucket="nowhere")
    code, _, stderr = vh(capsys, "my photos", "--json")
    error = json.loads(stderr)["error"]
    assert (code, error["code"]) == (1, "bucket_missing")


def test_a_local_vault_has_no_bucket(db: None, capsys: pytest.CaptureFixture[str]) -> None:
    vault = Vault.objects.create(name="docs", kind="local", root="/docs", replica="/copy", marker=uuid4())
    SyncPolicy.objects.create(vault=vault)
    code, _, stderr = vh(capsys, "docs", "--json")
    error = json.loads(stderr)["error"]
    assert (code, error["code"]) == (2, "s3_only")
