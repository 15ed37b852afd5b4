"""A large bucket is listed in several ranges at once, by whoever comes, and no page that was kept is paid twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from math import ceil

import pytest
from django.db import connection

from indexing import freshness, merge, ranges, reconcile, scanning, sql, state
from indexing.models import IndexState, RemoteObject, ScanRange, Source
from indexing.order import Known
from indexing.reconcile import reconcile_chunks
from indexing.usable import chunks_before_planning
from tests.integration.indexing.test_reconcile import bucket, fill, is_true, listed, live
from vaulthalla.requests import RequestClass
from vaulthalla.stores.base import StoreUnavailable
from vaulthalla.stores.memory import Fault, MemoryBucket
from vaulthalla.vaults.models import SyncPolicy, Vault
from vaulthalla.work import lease
from vaulthalla.work.engine import create_run, drive
from vaulthalla.work.models import RunKind, RunStatus

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["bucket"]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages hold ten keys here, as in the bucket; two pages are worth a range."""
    monkeypatch.setattr(freshness, "KEYS_PER_PAGE", 10)
    monkeypatch.setattr(ranges, "PAGES_PER_RANGE", 2)


def limit(vault: Vault, pages: int | None) -> None:
    SyncPolicy.objects.filter(vault=vault).update(budget_list=pages)
    vault.refresh_from_db()


def requests(bucket: MemoryBucket, action: Callable[[], object]) -> int:
    before = bucket.seen[RequestClass.LIST]
    action()
    return bucket.seen[RequestClass.LIST] - before


def test_a_known_bucket_is_listed_in_ranges_within_its_estimate(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 165)
    assert requests(bucket, lambda: listed(vault)) == 17
    assert state.estimate(vault) == 17 + 7
    for key in ("0003", "0020", "0164"):
        bucket.remove(key)
    bucket.write("0077", b"other")
    bucket.write("9", b"new")
    runs = []
    assert 17 <= requests(bucket, lambda: runs.append(listed(vault))) <= 24
    assert runs[0].options["estimate"] == 24
    assert {name: runs[0].result[name] for name in ("objects_indexed", "added", "changed", "removed")} == {
        "objects_indexed": 163,
        "added": 1,
        "changed": 1,
        "removed": 3,
    }
    assert is_true(vault, bucket)
    assert not ScanRange.objects.exists()
    assert not RemoteObject.objects.filter(doubtful=True).exists()


def test_pages_of_several_ranges_are_asked_for_at_once(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(bucket, 160)
    listed(vault)
    together = threading.Barrier(7)
    whole = reconcile._Scan._fetch

    def meeting(scan: reconcile._Scan, after: str, pot: object) -> object:
        # The first page goes alone: it tells when the scan began.
        if after in {one.low for one in scan.ranges[1:]}:
            met.add(after)
            together.wait(30)
        return whole(scan, after, pot)  # type: ignore[arg-type]

    met: set[str] = set()
    monkeypatch.setattr(reconcile._Scan, "_fetch", meeting)
    assert listed(vault).status == RunStatus.SUCCESS
    assert len(met) == 7


def test_a_budget_that_has_no_room_for_ranges_has_room_for_the_listing(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 160)
    listed(vault)
    limit(vault, 16)
    assert chunks_before_planning(vault, list_budget=16) == []
    bucket.remove("0000")
    assert requests(bucket, lambda: listed(vault, allow=False)) == 16
    assert is_true(vault, bucket)


def test_an_exhausted_budget_leaves_ranges_that_the_next_run_finishes(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 200)
    listed(vault)
    run = create_run(vault, RunKind.SYNC, options={"limits": {"list": 13}}, chunks=reconcile_chunks(vault))
    # One range only: what a limit of 13 has room for. So begin with leave, and stop half-way.
    assert drive(run.pk).stall_code == "budget_list"
    limit(vault, 100)
    assert requests(bucket, lambda: listed(vault, allow=False)) == 20 - 13
    assert is_true(vault, bucket)


def test_an_interrupted_scan_of_ranges_pays_no_kept_page_twice(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 200)
    listed(vault)
    bucket.remove("0199")
    bucket.write("0055x", b"")
    before = bucket.seen[RequestClass.LIST]
    bucket.inject(Fault(operation="list_page", nth=9, error=StoreUnavailable("no route")))
    run = listed(vault)
    assert (run.status, run.stall_code) == (RunStatus.STALLED, "store_unavailable")
    kept = run.result["objects_indexed"]
    assert 0 < kept < 200
    assert ScanRange.objects.count() == 8
    assert state.state_of(vault.pk).scan_started_at is not None
    again = listed(vault)
    assert again.status == RunStatus.SUCCESS
    assert again.result["objects_indexed"] == 200 - kept
    assert bucket.seen[RequestClass.LIST] - before <= 20 + 7 + 1 + 8  # one failed, and those in flight beside it
    assert is_true(vault, bucket)
    assert not ScanRange.objects.exists()


def test_a_scan_stopped_and_taken_up_again_costs_what_one_does(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 200)
    listed(vault)
    bucket.inject(Fault(operation="list_page", nth=6, hook=lease.shutdown.set))
    run = scanning.start_reconcile(vault, allow_list_scan=True)
    before = bucket.seen[RequestClass.LIST]
    drive(run.pk)
    lease.shutdown.clear()
    other = create_run(vault, RunKind.SYNC, options={"limits": {"list": None}}, chunks=reconcile_chunks(vault))
    assert drive(other.pk).status == RunStatus.SUCCESS
    assert drive(run.pk).status == RunStatus.SUCCESS
    assert bucket.seen[RequestClass.LIST] - before <= 20 + 7
    assert is_true(vault, bucket)


def test_the_same_command_goes_on_with_a_listing_whose_estimate_it_has_moved(
    vault: Vault, bucket: MemoryBucket
) -> None:
    fill(bucket, 50)
    listed(vault)
    fill(bucket, 40, "0000x")
    bucket.inject(Fault(operation="list_page", nth=4, hook=lease.shutdown.set))
    run = scanning.start_reconcile(vault, allow_list_scan=True)
    drive(run.pk)
    lease.shutdown.clear()
    assert state.estimate(vault) != run.options["estimate"]
    assert scanning.start_reconcile(vault, allow_list_scan=True).pk == run.pk


def test_news_from_before_the_scan_changes_no_range_it_has_been_to(vault: Vault, bucket: MemoryBucket) -> None:
    """A create that the scan saw undone: its event comes late, while the other ranges are still being listed."""
    fill(bucket, 200)
    listed(vault)
    bucket.inject(Fault(operation="list_page", nth=10, error=StoreUnavailable("no route")))
    listed(vault)
    moment = merge.begin(vault.pk)
    assert moment.scan_started_at is not None
    open_ = [one for one in moment.ranges if not one.done]
    assert open_
    late = moment.scan_started_at - timedelta(minutes=1)
    beside = [f"{one.low}x" for one in moment.ranges]
    known = {key: Known(observed_at=late, source=Source.EVENT, etag="e", sequencer="1") for key in beside}
    merge.merge_known(vault.pk, known, source=Source.EVENT)
    for key in beside:
        assert (key in live(vault)) == (not moment.scanned(key) and late > _floor(vault))
    listed(vault)
    assert is_true(vault, bucket)


def _floor(vault: Vault) -> object:
    return IndexState.objects.get(vault=vault).snapshot_as_of


def test_changes_during_a_scan_of_ranges_leave_no_wrong_row_behind(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 200)
    listed(vault)

    def change() -> None:
        bucket.remove("0190")
        bucket.write("0195", b"changed ahead")
        bucket.write("0100x", b"new in the middle")

    bucket.inject(Fault(operation="list_page", nth=1, hook=change))
    listed(vault)
    assert is_true(vault, bucket)


def test_an_unknown_small_bucket_is_not_probed(vault: Vault, bucket: MemoryBucket) -> None:
    for part in "abcdef":
        fill(bucket, 20, f"{part}/")
    assert requests(bucket, lambda: listed(vault)) == 12


def test_an_unknown_large_bucket_is_divided_at_its_prefixes(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "PAGES_BEFORE_DIVIDING", 3)
    for part in "abcdefghijkl":
        fill(bucket, 15, f"all/{part}/")
    # One for the level with a single prefix, one for the next; a page more for each further range.
    count = requests(bucket, lambda: listed(vault))
    assert 18 + 2 < count <= 18 + 2 + 7
    assert is_true(vault, bucket)


def test_a_tight_budget_is_not_spent_on_dividing(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "PAGES_BEFORE_DIVIDING", 3)
    for part in "abcdefghijkl":
        fill(bucket, 15, f"{part}/")
    assert requests(bucket, lambda: listed(vault, allow=False)) == 18


def test_a_flat_unknown_bucket_stays_one_range(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "PAGES_BEFORE_DIVIDING", 3)
    fill(bucket, 200)
    assert requests(bucket, lambda: listed(vault)) == 21
    assert is_true(vault, bucket)


@pytest.mark.parametrize("blocks", [None, 500])
def test_quantiles_divide_the_live_rows(vault: Vault, bucket: MemoryBucket, blocks: int | None) -> None:
    fill(bucket, 1_200)
    listed(vault)
    found = sql.quantiles(vault.pk, 4, blocks=blocks)
    assert found == sorted(found)
    keys = sorted(live(vault))
    parts = [sum(low < key <= high for key in keys) for low, high in zip(["", *found], [*found, "~"], strict=True)]
    assert all(abs(part - 300) <= 1 for part in parts)


def test_a_thin_sample_is_no_sample(vault: Vault, bucket: MemoryBucket) -> None:
    fill(bucket, 200)
    listed(vault)
    assert sql.quantiles(vault.pk, 4, blocks=500) == []
    assert sql.quantiles(vault.pk + 1, 4) == []


def test_a_page_costs_as_few_statements_as_before(
    vault: Vault, bucket: MemoryBucket, django_assert_max_num_queries: Callable[..., object]
) -> None:
    fill(bucket, 400)
    listed(vault)
    run = scanning.start_reconcile(vault, allow_list_scan=True)
    with django_assert_max_num_queries(60 + 14 * (40 + 7)):  # type: ignore[attr-defined]
        drive(run.pk)
    assert ceil(400 / 10) == 40
    assert connection.connection is not None
