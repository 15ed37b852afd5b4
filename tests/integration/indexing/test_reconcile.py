"""A listing becomes an index page by page: metered, resumable, and honest about how old it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError

from budgets.access import spent
from budgets.catalog import seed
from budgets.policies import set_policy
from budgets.price_policy import Scope
from indexing import findings, freshness, merge, reconcile, scanning, sql
from indexing.describe import index_info, index_report
from indexing.models import Finding, IndexState, RemoteObject, ScannedKey, ScanRange, Source
from indexing.reconcile import reconcile_chunks
from indexing.usable import chunks_before_planning, require_fresh_index
from vaulthalla.console import Console
from vaulthalla.errors import Refused, Stall
from vaulthalla.requests import RequestClass
from vaulthalla.stores import memory
from vaulthalla.stores.base import Meter, Ordering, Page, StoreUnavailable
from vaulthalla.stores.memory import EVERYTHING, Fault, MemoryBucket, MemoryStore
from vaulthalla.vaults.models import SyncPolicy, Vault
from vaulthalla.work import lease
from vaulthalla.work.engine import create_run, drive
from vaulthalla.work.models import Run, RunKind, RunStatus

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> MemoryBucket:
    """The provider's side of every vault; pages hold ten keys."""
    bucket = MemoryBucket()
    monkeypatch.setattr(memory, "PAGE_KEYS", 10)
    monkeypatch.setattr(reconcile, "open_store", lambda vault, meter: MemoryStore(bucket, meter, prefix=vault.prefix))
    return bucket


def fill(bucket: MemoryBucket, count: int, prefix: str = "") -> None:
    for number in range(count):
        bucket.write(f"{prefix}{number:04}", b"x" * number)


def listed(vault: Vault, *, prefix: str = "", allow: bool = True) -> Run:
    return drive(scanning.start_reconcile(vault, allow_list_scan=allow, prefix=prefix).pk)


def live(vault: Vault) -> dict[str, str]:
    return dict(RemoteObject.objects.filter(vault=vault, tombstone=False).values_list("key", "etag"))


def is_true(vault: Vault, bucket: MemoryBucket) -> bool:
    state = IndexState.objects.get(vault=vault)
    assert state.object_count == len(bucket.objects)
    assert state.total_bytes == sum(len(stored.body) for stored in bucket.objects.values())
    return live(vault) == {key: stored.etag for key, stored in bucket.objects.items()}


def test_a_listing_makes_the_index_complete_and_true(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 35)
    before = datetime.now(UTC)
    run = listed(vault)
    assert run.status == RunStatus.SUCCESS
    assert is_true(vault, bucket)
    assert scanning.result_json(run) | {"run": "", "skipped": {}} == {
        "run": "",
        "vault": "photos",
        "status": "success",
        "estimate_list_requests": None,
        "objects_indexed": 35,
        "added": 35,
        "changed": 0,
        "removed": 0,
        "skipped": {},
        "requests": {"list": 4, "head": 0, "get": 0, "put": 2, "copy": 0, "delete": 0, "downloaded_bytes": 0},
        "warnings": [],
    }
    assert bucket.seen[RequestClass.LIST] == 4
    info = index_info(vault)
    assert (info["complete"], info["freshness"], info["source"], info["object_count"]) == (
        True,
        "fresh",
        "list_objects_v2",
        35,
    )
    assert info["snapshot_as_of"] >= before
    state = IndexState.objects.get(vault=vault)
    assert state.scan_started_at is None
    assert not ScanRange.objects.exists()


def test_a_listing_that_keeps_no_differences_is_never_told_as_one_without_any(
    vault: Vault, bucket: MemoryBucket, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(bucket, 3)
    run = scanning.start_reconcile(vault, allow_list_scan=True)
    asked = {"allow_list_scan": True, "prefix": ""}
    assert scanning.drive_reconcile(Console(), vault, listed=True, **asked) == 0
    said = capsys.readouterr()
    assert "Added:           3" in said.out
    assert f"Run {run.pk} was begun without --list" in said.err
    fill(bucket, 1, "new")
    scanning.start_reconcile(vault, allow_list_scan=True, noted=True)
    assert scanning.drive_reconcile(Console(), vault, listed=True, **asked) == 0
    assert capsys.readouterr().out == "added    new0000\n"


def test_a_second_listing_tells_what_changed(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 25)
    listed(vault)
    bucket.remove("0003")
    bucket.remove("0024")
    bucket.write("0012", b"other")
    bucket.write("new", b"")
    run = listed(vault)
    assert run.options["estimate"] == 1
    assert {name: run.result[name] for name in ("added", "changed", "removed")} == {
        "added": 1,
        "changed": 1,
        "removed": 2,
    }
    assert is_true(vault, bucket)
    assert not RemoteObject.objects.filter(doubtful=True).exists()


def test_an_empty_bucket_is_an_index_too(vault: Vault, bucket: MemoryBucket) -> None:
    assert listed(vault).status == RunStatus.SUCCESS
    assert index_info(vault)["freshness"] == "fresh"
    assert spent(Run.objects.get().pk)[RequestClass.LIST] == 1


def test_an_exhausted_budget_stalls_and_the_next_run_pays_only_for_the_rest(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 55)
    SyncPolicy.objects.filter(vault=vault).update(budget_list=4)
    vault.refresh_from_db()
    run = listed(vault, allow=False)
    assert (run.status, run.stall_code) == (RunStatus.STALLED, "budget_list")
    assert run.stall_remedy == "vh vault sync set photos --s3-budget-list 8"
    assert run.result["objects_indexed"] == 40
    assert index_info(vault)["freshness"] == "missing"
    run = listed(vault, allow=False)
    assert run.status == RunStatus.SUCCESS
    assert bucket.seen[RequestClass.LIST] == 6
    assert is_true(vault, bucket)
    assert index_info(vault)["freshness"] == "fresh"


@pytest.mark.parametrize("known", [True, False])
def test_a_price_policy_is_asked_for_the_listing_and_its_manifest(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    monkeypatch.setattr(freshness, "KEYS_PER_PAGE", 10)
    assert vault.api_key is not None
    vault.api_key.region = "us-east-1"
    vault.api_key.save()
    seed()
    fill(bucket, 45)
    if known:
        listed(vault)
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0"})
    # Of an unknown bucket a page is asked for, which lists three where nothing is published; then as much again.
    for pages in (5,) if known else (1, 6):
        run = listed(vault)
        amount = (pages + 2) * Decimal("0.000005")
        assert (run.stall_code, run.stall_remedy) == (
            "price_budget",
            f"vh pricing budget set-global --max-run {amount.normalize():f}",
        )
        set_policy(Scope.GLOBAL, None, {"max_run": str(amount)})
    run = listed(vault)
    assert (run.status, run.result["manifest"]["published"]) == (RunStatus.SUCCESS, True)


def test_an_old_unfinished_listing_is_begun_again(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 15)
    SyncPolicy.objects.filter(vault=vault).update(budget_list=1)
    vault.refresh_from_db()
    listed(vault, allow=False)
    IndexState.objects.update(scan_started_at=datetime.now(UTC) - timedelta(hours=25))
    bucket.remove("0000")
    assert listed(vault).status == RunStatus.SUCCESS
    assert bucket.seen[RequestClass.LIST] == 3
    assert is_true(vault, bucket)


def test_a_prefix_moves_neither_age_nor_completeness(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 12, "p/")
    fill(bucket, 3, "q/")
    run = listed(vault, prefix="p/")
    assert run.result["objects_indexed"] == 12
    assert index_info(vault)["freshness"] == "missing"
    listed(vault)
    as_of = index_info(vault)["snapshot_as_of"]
    bucket.remove("p/0001")
    bucket.remove("q/0001")
    run = listed(vault, prefix="p/")
    assert (run.options["estimate"], run.result["removed"]) == (1, 1)
    assert index_info(vault)["snapshot_as_of"] == as_of
    assert "q/0001" in live(vault)


def test_an_unordered_listing_is_swept_at_its_end(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities = replace(EVERYTHING, ordering=Ordering.UNSPECIFIED)

    def unordered(vault: Vault, meter: Meter) -> MemoryStore:
        return MemoryStore(bucket, meter, capabilities=capabilities)

    monkeypatch.setattr(reconcile, "open_store", unordered)
    fill(bucket, 35)
    listed(vault)
    assert is_true(vault, bucket)
    for key in ("0000", "0017", "0034"):
        bucket.remove(key)
    assert listed(vault).result["removed"] == 3
    assert is_true(vault, bucket)
    assert not ScannedKey.objects.exists()


def test_an_unordered_listing_that_stalls_begins_again(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities = replace(EVERYTHING, ordering=Ordering.UNSPECIFIED)
    monkeypatch.setattr(
        reconcile, "open_store", lambda vault, meter: MemoryStore(bucket, meter, capabilities=capabilities)
    )
    fill(bucket, 35)
    SyncPolicy.objects.filter(vault=vault).update(budget_list=2)
    vault.refresh_from_db()
    assert listed(vault, allow=False).status == RunStatus.STALLED
    assert not ScannedKey.objects.exists()
    assert listed(vault).status == RunStatus.SUCCESS
    assert bucket.seen[RequestClass.LIST] == 6
    assert is_true(vault, bucket)


def test_old_tombstones_are_dropped_by_a_complete_listing(vault: Vault, bucket: MemoryBucket) -> None:
    now = datetime.now(UTC)
    gone = [("old", now - timedelta(days=31)), ("young", now - timedelta(days=29))]
    merge.observe_gone(vault.pk, gone, source=Source.HEAD)
    listed(vault)
    assert list(RemoteObject.objects.values_list("key", flat=True)) == ["young"]


def test_a_change_while_the_bucket_is_listed_is_kept(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 25)

    def write_behind_and_ahead() -> None:
        bucket.write("0000", b"changed behind the listing")
        bucket.write("0024", b"changed ahead of it")

    bucket.inject(Fault(operation="list_page", nth=2, hook=write_behind_and_ahead))
    listed(vault)
    assert live(vault)["0024"] == bucket.objects["0024"].etag
    assert live(vault)["0000"] != bucket.objects["0000"].etag
    listed(vault)
    assert is_true(vault, bucket)


def test_a_run_that_is_asked_to_end_goes_on_where_it_was(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 45)
    bucket.inject(Fault(operation="list_page", nth=2, hook=lease.shutdown.set))
    run = scanning.start_reconcile(vault, allow_list_scan=True)
    drive(run.pk)
    lease.shutdown.clear()
    assert Run.objects.get(pk=run.pk).status == RunStatus.PLANNING
    assert drive(run.pk).status == RunStatus.SUCCESS
    assert bucket.seen[RequestClass.LIST] == 5
    assert is_true(vault, bucket)


def test_a_store_that_is_away_is_a_stall(vault: Vault, bucket: MemoryBucket) -> None:
    bucket.inject(Fault(operation="list_page", error=StoreUnavailable("no route")))
    run = listed(vault)
    assert (run.status, run.stall_code) == (RunStatus.STALLED, "store_unavailable")
    assert run.stall_remedy.startswith(f"vh vault sync reconcile {vault.name}")


def test_own_objects_and_keys_that_are_no_text_are_not_indexed(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 12)
    bucket.write(".vaulthalla/manifest.json", b"{}")
    bucket.write("0005\0", b"nul")
    for number in range(12):
        bucket.write(f"0006\udc80{number}", b"no text")
    run = listed(vault)
    assert run.result["skipped"] == {"key_not_text": 13}
    assert sorted(live(vault)) == [f"{number:04}" for number in range(12)]
    bucket.remove("0006")
    bucket.remove("0007")
    listed(vault)
    assert sorted(live(vault)) == [f"{number:04}" for number in range(12) if number not in (6, 7)]


def test_without_a_finite_budget_only_leave_lists(vault: Vault, bucket: MemoryBucket) -> None:
    SyncPolicy.objects.filter(vault=vault).update(budget_list=None)
    vault.refresh_from_db()
    with pytest.raises(Refused, match="unlimited is not configured") as refusal:
        scanning.start_reconcile(vault)
    assert "--allow-list-scan" in refusal.value.remedy
    assert not Run.objects.exists()
    assert listed(vault).status == RunStatus.SUCCESS


def test_a_first_sync_lists_within_its_budget(vault: Vault, bucket: MemoryBucket) -> None:
    assert [chunk.kind for chunk in chunks_before_planning(vault, list_budget=1)] == ["index.list"]
    for budget in (0, None):
        with pytest.raises(Stall) as stall:
            chunks_before_planning(vault, list_budget=budget)
        assert stall.value.code == "index_missing"
        for way in ("sync inventory photos", "vh vault sync reconcile photos", "--s3-budget-list"):
            assert way in stall.value.remedy
    fill(bucket, 5)
    listed(vault)
    assert chunks_before_planning(vault, list_budget=0) == []


def test_a_stale_index_is_listed_or_stalls(vault: Vault, bucket: MemoryBucket) -> None:
    listed(vault)
    later = datetime.now(UTC) + timedelta(hours=25)
    assert chunks_before_planning(vault, list_budget=1, now=later)
    with pytest.raises(Stall, match="is stale") as stall:
        chunks_before_planning(vault, list_budget=0, now=later)
    assert stall.value.code == "index_stale"
    vault.policy.on_stale_index = "stall"
    with pytest.raises(Stall) as stall:
        chunks_before_planning(vault, list_budget=100, now=later)
    assert "vh vault sync set photos --on-stale-index reconcile" in stall.value.remedy
    vault.policy.max_remote_index_age_seconds = None
    assert chunks_before_planning(vault, list_budget=0, now=later) == []


def test_a_plan_by_a_stale_index_is_told_how_to_refresh_it(vault: Vault, bucket: MemoryBucket) -> None:
    """Nothing of the policy needs to change where a sync would list by itself."""
    listed(vault)
    vault.policy.budget_list, vault.policy.max_remote_index_age_seconds = 100, 1
    IndexState.objects.update(snapshot_as_of=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(Refused, match="is stale") as refusal:
        require_fresh_index(vault)
    commands = [line.removeprefix("# or: ") for line in refusal.value.remedy.splitlines()]
    assert commands == ["vh vault sync dry-run photos --refresh-index", "vh vault sync reconcile photos"]


def test_a_local_vault_is_listed_each_time(db: None, tmp_path: Path) -> None:
    replica = tmp_path / "copy"
    (replica / "sub").mkdir(parents=True)
    (replica / "a").write_text("a")
    (replica / "sub" / "b").write_text("b")
    vault = Vault.objects.create(name="docs", kind="local", root="/docs", replica=str(replica), marker=uuid4())
    SyncPolicy.objects.create(vault=vault)
    with pytest.raises(Refused, match="local vault"):
        scanning.start_reconcile(vault, allow_list_scan=True)

    def look() -> dict[str, str]:
        chunks = chunks_before_planning(vault, list_budget=None)
        assert drive(create_run(vault, RunKind.SYNC, chunks=chunks).pk).status == RunStatus.SUCCESS
        return live(vault)

    assert sorted(look()) == ["a", "sub/b"]
    first = live(vault)["a"]
    (replica / "a").write_text("changed")
    (replica / "sub" / "b").unlink()
    assert sorted(look()) == ["a"]
    assert live(vault)["a"] != first
    assert not RemoteObject.objects.filter(doubtful=True).exists()


def test_two_listings_of_one_vault_at_once_end_in_one_true_index(vault: Vault, bucket: MemoryBucket) -> None:
    """A sync that lists beside a reconcile: whoever is behind goes on where the other one is."""
    fill(bucket, 55)
    interrupt: Callable[[], None] = lease.shutdown.set
    bucket.inject(Fault(operation="list_page", nth=3, hook=interrupt))
    first = scanning.start_reconcile(vault, allow_list_scan=True)
    drive(first.pk)
    lease.shutdown.clear()
    second = create_run(vault, RunKind.SYNC, options={"limits": {"list": None}}, chunks=reconcile_chunks(vault))
    assert drive(second.pk).status == RunStatus.SUCCESS
    assert is_true(vault, bucket)
    assert drive(first.pk).status == RunStatus.SUCCESS
    assert bucket.seen[RequestClass.LIST] == 6
    assert is_true(vault, bucket)


def test_our_own_write_during_a_listing_is_not_swept(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 5)

    def write_of_ours() -> None:
        # The page was read before the write, and its answer arrives after it.
        stored = bucket.write("9999", b"ours")
        info = stored.info("9999", bucket.clock())
        pending.append(lambda: merge.observe(vault.pk, [info], source=Source.OWN))

    pending: list[Callable[[], object]] = []
    bucket.inject(Fault(operation="list_page", nth=1, moment=memory.Moment.AFTER, hook=write_of_ours))
    listed(vault)
    pending[0]()
    assert is_true(vault, bucket)


@pytest.mark.parametrize("ordering", list(Ordering))
def test_each_difference_can_be_listed(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch, ordering: Ordering
) -> None:
    capabilities = replace(EVERYTHING, ordering=ordering)
    monkeypatch.setattr(
        reconcile, "open_store", lambda vault, meter: MemoryStore(bucket, meter, capabilities=capabilities)
    )
    fill(bucket, 25)
    listed(vault)
    assert not Finding.objects.exists()
    bucket.remove("0003")
    bucket.write("0012", b"other")
    bucket.write("new", b"12")
    run = drive(scanning.start_reconcile(vault, allow_list_scan=True, noted=True).pk)
    assert list(findings.noted(run.pk, scanning.DIFFERENCES)) == [
        {"change": "removed", "key": "0003", "bytes": None},
        {"change": "changed", "key": "0012", "bytes": 5},
        {"change": "added", "key": "new", "bytes": 2},
    ]
    monkeypatch.setattr(findings, "PAGE", 1)
    assert [row["key"] for row in findings.noted(run.pk, ("added", "removed"))] == ["0003", "new"]
    again = drive(scanning.start_reconcile(vault, allow_list_scan=True, noted=True).pk)
    assert list(findings.noted(again.pk, scanning.DIFFERENCES)) == []
    assert not Finding.objects.exists()


def test_a_token_that_goes_round_ends_the_scan_and_changes_nothing_more(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(bucket, 35)
    capabilities = replace(EVERYTHING, ordering=Ordering.UNSPECIFIED)

    class Round(MemoryStore):
        def list_page(self, **asked: Any) -> Page:
            page = super().list_page(**asked)
            tokens.append(page.next_after)
            return replace(page, next_after=tokens[0]) if len(tokens) == 3 else page

    tokens: list[str | None] = []
    monkeypatch.setattr(reconcile, "open_store", lambda vault, meter: Round(bucket, meter, capabilities=capabilities))
    run = listed(vault)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "unexpected_response")
    assert index_info(vault)["freshness"] == "missing"


def test_info_tells_all_that_is_known(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 25)
    assert index_report(vault)["last_reconcile"] is None
    listed(vault)
    bucket.remove("0024")
    run = listed(vault)
    since = merge.revision_of(vault.pk)
    merge.observe_gone(vault.pk, [("0023", datetime.now(UTC))], source=Source.HEAD, since=since)
    report = index_report(vault)
    assert report["storage_classes"] == {"STANDARD": {"objects": 23, "bytes": sum(range(23))}}
    assert report["tombstones"] == 2
    last = report["last_reconcile"]
    assert (last["run"], last["requests"], last["removed"], last["status"]) == (str(run.pk), 3, 1, "success")
    assert report["scan"] is None
    bucket.inject(Fault(operation="list_page", nth=2, error=StoreUnavailable("no route")))
    listed(vault)
    scan = index_report(vault)["scan"]
    assert (scan["ranges"], scan["ranges_done"], scan["run"]) == (1, 0, None)


def test_info_shows_the_last_counts_when_counting_takes_too_long(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(bucket, 5)
    listed(vault)
    before = index_report(vault)
    merge.observe_gone(vault.pk, [("0004", datetime.now(UTC))], source=Source.HEAD)

    def slow(vault_id: int, *, within: timedelta | None) -> object:
        assert within is not None
        raise OperationalError("canceling statement due to statement timeout")

    monkeypatch.setattr(sql, "count_classes", slow)
    assert index_report(vault)["storage_classes"] == before["storage_classes"]
    assert index_report(vault)["counted_at"] == before["counted_at"]
