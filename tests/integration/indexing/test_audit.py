"""An audit looks at a random sample, says how wrong the index is, and corrects what it saw."""

from __future__ import annotations

from decimal import Decimal

import pytest

from budgets import sql
from budgets.access import limits
from budgets.catalog import seed
from budgets.policies import set_policy
from budgets.price_policy import Scope
from indexing import audit, findings, merge, reconcile
from indexing.models import Finding, RemoteObject, Source
from tests.integration.indexing.test_reconcile import bucket, fill, is_true, listed
from vaulthalla.errors import Refused
from vaulthalla.requests import RequestClass
from vaulthalla.stores.base import StoreUnavailable
from vaulthalla.stores.memory import Fault, MemoryBucket, MemoryStore
from vaulthalla.vaults.models import SyncPolicy, Vault
from vaulthalla.work import lease
from vaulthalla.work.engine import drive
from vaulthalla.work.models import Run, RunStatus

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["bucket"]


# Of a HEAD in us-east-1, as the built-in list has it.
HEAD_PRICE = Decimal("0.0000004")


def priced(vault: Vault) -> None:
    """By a list that is known."""
    assert vault.api_key is not None
    vault.api_key.region = "us-east-1"
    vault.api_key.save()
    seed()


@pytest.fixture(autouse=True)
def audited(bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "open_store", lambda vault, meter: MemoryStore(bucket, meter, prefix=vault.prefix))


def looked(vault: Vault, sample: int) -> Run:
    return drive(audit.start_audit(vault, sample).pk)


def test_a_true_index_has_no_errors(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 50)
    listed(vault)
    value = audit.result_json(looked(vault, 20))
    assert {name: value[name] for name in ("sampled", "wrong", "missing", "changed", "error_rate")} == {
        "sampled": 20,
        "wrong": 0,
        "missing": 0,
        "changed": 0,
        "error_rate": 0.0,
    }
    assert (value["requests"]["head"], bucket.seen[RequestClass.HEAD]) == (20, 20)
    assert value["confidence"]["high"] == pytest.approx(0.1611, abs=1e-4)


def test_wrong_rows_are_told_and_corrected(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 50)
    listed(vault)
    for key in ("0003", "0007"):
        bucket.remove(key)
    bucket.write("0011", b"other")
    run = looked(vault, 1_000)
    assert run.status == RunStatus.SUCCESS
    value = audit.result_json(run)
    assert (value["sampled"], value["wrong"], value["missing"], value["changed"]) == (50, 3, 2, 1)
    assert value["error_rate"] == 3 / 50
    assert [(row["change"], row["key"]) for row in findings.noted(run.pk, ("changed", "missing"))] == [
        ("missing", "0003"),
        ("missing", "0007"),
        ("changed", "0011"),
    ]
    assert is_true(vault, bucket)


def test_a_doubtful_row_that_was_looked_at_is_settled(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 3)
    listed(vault)
    RemoteObject.objects.filter(key="0001").update(doubtful=True)
    known = RemoteObject.objects.get(key="0001")
    merge.observe_gone(vault.pk, [("0001", known.observed_at)], source=Source.EVENT)
    assert RemoteObject.objects.filter(doubtful=True).exists()
    looked(vault, 3)
    assert not RemoteObject.objects.filter(doubtful=True).exists()
    assert is_true(vault, bucket)


def test_a_budget_that_does_not_suffice_stalls_with_its_remedy(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 50)
    listed(vault)
    SyncPolicy.objects.filter(vault=vault).update(budget_head=5)
    vault.refresh_from_db()
    run = looked(vault, 20)
    assert (run.status, run.stall_code) == (RunStatus.STALLED, "budget_head")
    assert run.stall_remedy == "vh vault sync set photos --s3-budget-head 20"
    assert (run.result["sampled"], bucket.seen[RequestClass.HEAD]) == (5, 5)
    assert limits(run.pk)[RequestClass.HEAD] == 5


def test_of_a_small_bucket_no_more_is_asked_for_than_it_holds(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 6)
    listed(vault)
    SyncPolicy.objects.filter(vault=vault).update(budget_head=2)
    vault.refresh_from_db()
    run = looked(vault, 100)
    assert "the plan needs 6)" in run.stall_reason
    assert run.stall_remedy == "vh vault sync set photos --s3-budget-head 6"


@pytest.mark.parametrize(("limit", "objects", "needed"), [("0", 50, 20), ("0.0000016", 50, 20), ("0", 6, 6)])
def test_a_price_policy_is_asked_for_the_whole_sample_at_once(
    vault: Vault, bucket: MemoryBucket, limit: str, objects: int, needed: int
) -> None:
    priced(vault)
    fill(bucket, objects)
    listed(vault)
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": limit, "max_daily": "0.00001"})
    run = looked(vault, 20)
    assert (run.status, run.stall_code) == (RunStatus.STALLED, "price_budget")
    today, _ = sql.committed(day=sql.today(), currency="USD", provider="", vault=None)
    whole = needed * HEAD_PRICE
    raised = f"--max-daily {(today + whole).normalize():f} --max-run {whole.normalize():f}"
    assert run.stall_remedy == f"vh pricing budget set-global {raised}"
    amounts = raised.split()
    set_policy(Scope.GLOBAL, None, {"max_daily": amounts[1], "max_run": amounts[3]})
    assert looked(vault, 20).status == RunStatus.SUCCESS


def test_an_audit_asked_to_end_goes_on_with_the_same_sample(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BATCH", 4)
    fill(bucket, 20)
    listed(vault)
    bucket.inject(Fault(operation="head", nth=2, hook=lease.shutdown.set))
    run = audit.start_audit(vault, 12)
    drive(run.pk)
    lease.shutdown.clear()
    assert drive(run.pk).status == RunStatus.SUCCESS
    assert bucket.seen[RequestClass.HEAD] == 12
    assert Run.objects.get(pk=run.pk).result["sampled"] == 12


def test_a_store_that_is_away_is_a_stall(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 3)
    listed(vault)
    bucket.inject(Fault(operation="head", error=StoreUnavailable("no route")))
    run = looked(vault, 3)
    assert (run.status, run.stall_code) == (RunStatus.STALLED, "store_unavailable")


def test_only_the_newest_findings_are_kept(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 3)
    listed(vault)
    looked(vault, 3)
    last = looked(vault, 2)
    assert set(Finding.objects.values_list("run_id", flat=True)) == {last.pk}


def test_what_cannot_be_audited_is_refused(vault: Vault) -> None:
    with pytest.raises(Refused) as refusal:
        audit.start_audit(vault, 10)
    assert refusal.value.code == "index_missing"
    with pytest.raises(Refused, match="1 or more"):
        audit.start_audit(vault, 0)
    assert reconcile.KIND != audit.KIND
    assert not Run.objects.exists()
