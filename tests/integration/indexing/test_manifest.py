"""Hosts that share a bucket learn from each other through its manifest, whatever happens in between.

A second host is a second vault of the same bucket: another index, another published state, nothing in common but
the bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from django.db import connection, transaction

from budgets.access import ChunkMeter, open_store, spent
from budgets.catalog import seed
from budgets.policies import set_policy
from budgets.price_policy import Scope
from indexing import merge, state
from indexing import sql as index_sql
from indexing.manifest import publish, refresh, sql
from indexing.manifest import state as manifest_state
from indexing.manifest.describe import warnings
from indexing.manifest.format import FOLDER, ROOT, Retired, Root, as_json, decode_root, encode_root
from indexing.manifest.publish import publish_chunks
from indexing.manifest.refresh import Look, News
from indexing.manifest.state import publish_needs, root_of
from indexing.models import IndexState, RemoteObject, Source
from vaulthalla.errors import VaulthallaError
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import ObjectInfo, StoreUnavailable
from vaulthalla.stores.memory import Fault, MemoryBucket, Moment
from vaulthalla.vaults.models import SyncPolicy, Vault
from vaulthalla.work.engine import Lease, create_run, drive, run_inline
from vaulthalla.work.models import Run, RunKind, RunStatus

pytestmark = pytest.mark.django_db(transaction=True)

START = datetime(2026, 11, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def bucket(vault: Vault, buckets: dict[str, MemoryBucket]) -> MemoryBucket:
    return buckets.setdefault(vault.bucket, MemoryBucket())


def another_host(vault: Vault) -> Vault:
    other = Vault.objects.create(
        name=uuid4().hex, kind="s3", root="/else", marker=uuid4(), api_key=vault.api_key, bucket=vault.bucket
    )
    SyncPolicy.objects.create(vault=other)
    return other


def info(key: str, seconds: float = 0, etag: str = "x", size: int = 10) -> ObjectInfo:
    return ObjectInfo(key=key, etag=etag, size=size, observed_at=at(seconds), last_modified=START)


def sees(vault: Vault, *infos: ObjectInfo, source: Source = Source.OWN) -> None:
    with transaction.atomic():
        merge.observe(vault.pk, infos, source=source)


def listed(vault: Vault, seconds: float = 0) -> None:
    """A complete listing began then, and said what is known already."""
    with transaction.atomic():
        merge.observe(vault.pk, [], source=Source.LIST) if state.state_of(vault.pk).pk else _born(vault)
        state.scan_finished(vault.pk, started_at=at(seconds))


def _born(vault: Vault) -> None:
    index_sql.begin(vault.pk)


def published(vault: Vault, **options: Any) -> Run:
    return drive(create_run(vault, RunKind.RECONCILE, options=options, chunks=publish_chunks(vault)).pk)


def looked(vault: Vault) -> tuple[Look, Requests]:
    found: list[Look] = []

    def look(lease: Lease) -> None:
        meter = ChunkMeter(lease)
        fresh = Vault.objects.select_related("policy", "api_key").get(pk=vault.pk)
        found.append(refresh.refresh(lease, fresh, open_store(fresh, meter), meter))

    run = run_inline(vault, RunKind.EVENTS, look)
    return found[0], Requests({name: n for name, n in spent(run.pk).items() if n})


def known(vault: Vault) -> dict[str, tuple[str, bool, bool]]:
    rows = RemoteObject.objects.filter(vault=vault).values_list("key", "etag", "tombstone", "doubtful")
    return {key: (etag, gone, doubtful) for key, etag, gone, doubtful in rows}


def live(vault: Vault) -> dict[str, str]:
    return {key: etag for key, (etag, gone, _) in known(vault).items() if not gone}


def counts_are_exact(vault: Vault) -> None:
    found = IndexState.objects.get(vault=vault)
    rows = RemoteObject.objects.filter(vault=vault)
    kept = [row for row in rows if not row.tombstone]
    assert found.object_count == len(kept)
    assert int(found.total_bytes) == sum(row.size for row in kept)
    assert found.doubtful_count == sum(row.doubtful for row in rows)


def root(vault: Vault, bucket: MemoryBucket) -> Root:
    return decode_root(bucket.objects[ROOT].body, bucket=vault.bucket, prefix="")


def test_a_fresh_host_learns_everything_with_one_get_and_the_objects(vault: Vault, bucket: MemoryBucket) -> None:
    sees(vault, *(info(f"{n:03}", etag=str(n)) for n in range(200)))
    with transaction.atomic():
        merge.observe_gone(vault.pk, [("000", at(10))], source=Source.OWN)
    listed(vault, 20)
    run = published(vault)
    assert run.result["manifest"] | {"bytes": 0} == {"published": True, "objects": 2, "rows": 200, "bytes": 0}
    assert bucket.seen == {RequestClass.PUT: 2}
    other = another_host(vault)
    look, cost = looked(other)
    assert look.news is News.MERGED
    assert cost.pop(RequestClass.DOWNLOAD_BYTES) == run.result["manifest"]["bytes"]
    assert cost == {RequestClass.GET: 2}
    assert known(other) == known(vault)
    counts_are_exact(other)
    mine, theirs = IndexState.objects.get(vault=vault), IndexState.objects.get(vault=other)
    assert (theirs.complete, theirs.source, theirs.snapshot_as_of) == (True, "manifest", at(20))
    assert (theirs.manifest_etag, theirs.manifest_object_count) == (mine.manifest_etag, 199)
    # Nothing new: one GET that answers 304, and nothing to publish.
    assert looked(other) == (Look(news=News.SAME), {RequestClass.GET: 1})
    before = Requests(bucket.seen)
    published(other)
    published(vault)
    assert bucket.seen == before


def test_a_host_that_knows_nothing_takes_rows_as_a_merge_would(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_state, "SHARD_ROWS", 20)
    monkeypatch.setattr(manifest_state, "MOST_DELTA_PERCENT", 90)
    sees(vault, *(info(f"{n:03}", etag=str(n), size=n) for n in range(100)), source=Source.HEAD)
    listed(vault, 20)
    published(vault)
    # Deletes, doubt about content and about a delete, changes, and a rival that is too old to raise doubt.
    sees(vault, *(info(f"{n:03}", 30, etag="new") for n in range(10, 30)), source=Source.HEAD)
    sees(vault, *(info(f"{n:03}", 31, etag="rival") for n in range(20, 30)), source=Source.EVENT)
    with transaction.atomic():
        merge.observe_gone(vault.pk, [(f"{n:03}", at(30.5)) for n in range(15, 20)], source=Source.EVENT)
        merge.observe_gone(vault.pk, [(f"{n:03}", at(40)) for n in range(40, 50)], source=Source.EVENT)
    old = RemoteObject.objects.filter(vault=vault, key__startswith="02", doubtful=True).order_by("key")[0]
    RemoteObject.objects.filter(vault=vault, key=old.key).update(rival_at=at(-60))
    published(vault)
    assert (len(root(vault, bucket).shards), len(root(vault, bucket).deltas)) == (5, 1)

    def learned() -> list[dict[str, Any]]:
        other = another_host(vault)
        assert looked(other)[0].news is News.MERGED
        counts_are_exact(other)
        fields = ("object_count", "revision", "published_revision", "base_revision", "complete", "snapshot_as_of")
        rows = list(RemoteObject.objects.filter(vault=other).order_by("key").values())
        for row in rows:
            del row["vault_id"]
        return [*rows, *IndexState.objects.filter(vault=other).values(*fields)]

    with monkeypatch.context() as patched:
        patched.delattr(sql, "merge")
        straight = learned()
    monkeypatch.setattr(index_sql, "knows_nothing", lambda *_: False)
    assert straight == learned()
    assert {(row["tombstone"], row["doubtful"], row["etag"] == "") for row in straight[:-1]} == {
        (False, False, False),
        (True, False, True),
        (False, True, False),
        (False, True, True),
    }


def test_a_hundred_changes_of_many_are_two_objects(vault: Vault, bucket: MemoryBucket) -> None:
    sees(vault, *(info(f"{n:05}") for n in range(3_000)))
    listed(vault, 5)
    published(vault)
    other = another_host(vault)
    looked(other)
    sees(vault, *(info(f"{n:05}", 60, etag="y") for n in range(100)))
    before = Requests(bucket.seen)
    assert published(vault).result["manifest"]["rows"] == 3_000  # deltas were everything: the first shard
    assert bucket.seen - before == {RequestClass.PUT: 2}
    sees(vault, *(info(f"{n:05}", 120, etag="z") for n in range(100)))
    before = Requests(bucket.seen)
    assert published(vault).result["manifest"]["rows"] == 100
    assert bucket.seen - before == {RequestClass.PUT: 2}
    assert [len(root(vault, bucket).shards), len(root(vault, bucket).deltas)] == [1, 1]
    looked(other)
    sees(vault, info("new", 180))
    published(vault)
    assert looked(other)[1][RequestClass.GET] == 2
    assert known(other) == known(vault)
    counts_are_exact(other)


def test_without_rows_only_the_root_says_how_young_it_is(vault: Vault, bucket: MemoryBucket) -> None:
    sees(vault, info("a"))
    listed(vault, 10)
    published(vault)
    listed(vault, 500)
    before = Requests(bucket.seen)
    published(vault)
    assert bucket.seen - before == {RequestClass.PUT: 1}
    other = another_host(vault)
    looked(other)
    assert IndexState.objects.get(vault=other).snapshot_as_of == at(500)


def test_two_hosts_race_and_nothing_is_lost(vault: Vault, bucket: MemoryBucket) -> None:
    hosts = [vault, another_host(vault)]
    listed(vault, 0)
    expected = {}
    for number in range(50):
        for index, host in enumerate(hosts):
            key = f"{number % 20}/{index}" if number % 3 else "both"
            etag = f"{number}-{index}"
            sees(host, info(key, 100 + 10 * number + 5 * index, etag=etag))
            expected[key] = etag
        # Neither has looked since the other published.
        for host in hosts if number % 2 else reversed(hosts):
            assert published(host).status == RunStatus.SUCCESS
    for host in hosts:
        looked(host)
        assert live(host) == expected
        assert not any(doubtful for _, _, doubtful in known(host).values())
        counts_are_exact(host)
    late = another_host(vault)
    looked(late)
    assert live(late) == expected


def test_quick_successions_of_one_publisher_are_no_doubt(vault: Vault, bucket: MemoryBucket) -> None:
    listed(vault, 0)
    other = another_host(vault)
    for number in range(4):
        sees(vault, info("a", 100 + number * 0.5, etag=str(number)))
        published(vault)
        looked(other)
        assert known(other)["a"] == (str(number), False, False)
    late = another_host(vault)
    looked(late)
    assert known(late)["a"] == ("3", False, False)


def test_doubt_is_passed_on(vault: Vault, bucket: MemoryBucket) -> None:
    listed(vault, 0)
    sees(vault, info("a", 100, etag="x"), source=Source.HEAD)
    published(vault)
    other = another_host(vault)
    looked(other)
    sees(vault, info("a", 101, etag="y"), source=Source.EVENT)
    assert known(vault)["a"][2]
    published(vault)
    looked(other)
    assert known(other)["a"] == ("y", False, True)
    counts_are_exact(other)


def test_what_a_scan_found_absent_stays_absent(vault: Vault, bucket: MemoryBucket) -> None:
    """The other host saw it, published it, and nobody told this one before its scan did not find it."""
    other = another_host(vault)
    sees(other, info("ghost", 10))
    published(other)
    listed(vault, 1_000)
    sees(vault, info("a", 1_010))
    published(vault)
    assert known(vault)["ghost"][1]
    late = another_host(vault)
    for host in (other, late):
        looked(host)
        assert live(host) == {"a": "x"}


def test_what_only_one_host_saw_before_anothers_scan_is_asked_for(vault: Vault, bucket: MemoryBucket) -> None:
    other = another_host(vault)
    sees(other, info("ghost", 10), info("later", 2_000))
    listed(vault, 1_000)
    published(vault)
    looked(other)
    assert known(other) == {"ghost": ("x", False, True), "later": ("x", False, False)}
    counts_are_exact(other)


def test_own_news_survives_a_refresh_and_is_published(vault: Vault, bucket: MemoryBucket) -> None:
    listed(vault, 0)
    sees(vault, info("a", 10), info("b", 10))
    published(vault)
    other = another_host(vault)
    looked(other)
    sees(vault, info("a", 20, etag="theirs"))
    published(vault)
    sees(other, info("b", 30, etag="mine"), info("c", 30))
    looked(other)
    assert live(other) == {"a": "theirs", "b": "mine", "c": "x"}
    assert published(other).result["manifest"]["rows"] == 2
    looked(vault)
    assert known(vault) == known(other)


@pytest.mark.parametrize("place", ["root", "object", "gone", "cut"])
def test_a_tampered_manifest_is_refused_and_the_index_stays(vault: Vault, bucket: MemoryBucket, place: str) -> None:
    listed(vault, 0)
    sees(vault, *(info(f"{n}") for n in range(50)))
    published(vault)
    other = another_host(vault)
    sees(other, info("own", 5))
    before = known(other), IndexState.objects.get(vault=other)
    name = ROOT if place == "root" else next(key for key in bucket.objects if key.startswith(FOLDER))
    body = bytearray(bucket.objects[name].body)
    body[len(body) // 2] ^= 1
    if place == "gone":
        bucket.remove(name)
    else:
        bucket.write(name, bytes(body[:-3] if place == "cut" else body))
    with pytest.raises(VaulthallaError) as refusal:
        looked(other)
    assert refusal.value.code == "manifest_damaged"
    assert "--offline" in refusal.value.remedy
    after = IndexState.objects.get(vault=other)
    assert known(other) == before[0]
    assert (after.revision, after.complete, after.manifest_etag) == (before[1].revision, False, "")
    # Nor is it written over.
    told = published(other).result["manifest"]
    assert (told["published"], "manifest_damaged" in told["reason"]) == (False, True)


def test_manifests_of_others_and_of_the_future_are_refused(vault: Vault, bucket: MemoryBucket) -> None:
    sees(vault, info("a"))
    published(vault)
    raw = bucket.objects[ROOT].body
    other = another_host(vault)
    for body, code in (
        (raw.replace(b'"version":1', b'"version":2'), "manifest_newer"),
        (encode_root(_elsewhere(root(vault, bucket))), "manifest_foreign"),
    ):
        bucket.write(ROOT, body)
        with pytest.raises(VaulthallaError) as refusal:
            looked(other)
        assert (refusal.value.code, bool(refusal.value.remedy), known(other)) == (code, True, {})
        sees(vault, info("b", 50))
        assert not published(vault).result["manifest"]["published"]
        assert bucket.objects[ROOT].body == body


def _elsewhere(found: Root) -> Root:
    return msgspec.structs.replace(found, prefix="elsewhere/")


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_publish_that_breaks_off_is_made_up_for(vault: Vault, bucket: MemoryBucket, moment: Moment, nth: int) -> None:
    listed(vault, 0)
    sees(vault, info("a", 10))
    bucket.inject(Fault(operation="put", nth=nth, error=StoreUnavailable("gone"), moment=moment))
    broken = published(vault)
    assert (broken.status, broken.result["manifest"]["published"]) == (RunStatus.SUCCESS, False)
    looked(vault)
    published(vault)
    published(vault)
    late = another_host(vault)
    looked(late)
    assert live(late) == {"a": "x"}
    found = root(vault, bucket)
    named = {FOLDER + name for name in (*found.names, *(name.name for name in found.retired))}
    # What was sent in vain is found again without a LIST, at the latest by the next publish.
    sees(vault, info("b", 20))
    published(vault)
    found = root(vault, bucket)
    named = {FOLDER + name for name in (*found.names, *(name.name for name in found.retired))}
    assert {key for key in bucket.objects if key.startswith(FOLDER)} <= named


def test_retired_objects_are_deleted_after_a_week_without_a_list(vault: Vault, bucket: MemoryBucket) -> None:
    listed(vault, 0)
    sees(vault, info("a", 10))
    published(vault)
    sees(vault, info("a", 20, etag="y"))
    published(vault)
    (old,) = root(vault, bucket).retired
    assert FOLDER + old.name in bucket.objects
    found = root_of(IndexState.objects.get(vault=vault))
    assert found is not None
    aged = msgspec.structs.replace(found, retired=(Retired(name=old.name, at=datetime.now(UTC) - timedelta(days=8)),))
    IndexState.objects.filter(vault=vault).update(manifest_root=as_json(aged))
    sees(vault, info("a", 30, etag="z"))
    before = Requests(bucket.seen)
    needs = publish_needs(vault, dict.fromkeys(RequestClass), now=datetime.now(UTC), changes=False)
    published(vault)
    spent_now = bucket.seen - before
    assert spent_now == {RequestClass.PUT: 2, RequestClass.DELETE: 1}
    assert +needs | {RequestClass.HEAD: 0} == {RequestClass.PUT: 2, RequestClass.DELETE: 1, RequestClass.HEAD: 0}
    assert FOLDER + old.name not in bucket.objects
    assert old.name not in {name.name for name in root(vault, bucket).retired}


def test_many_small_deltas_become_one(vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "DELTAS_FOLDED_AT", 3)
    listed(vault, 0)
    sees(vault, *(info(f"{n:04}", 5) for n in range(1_000)))
    published(vault)
    sees(vault, info("0000", 6, etag="y"))
    published(vault)  # into a shard
    other = another_host(vault)
    for number in range(9):
        sees(vault, info(f"{number:04}", 100 + number, etag=str(number)))
        published(vault)
        if number % 4 == 0:
            looked(other)
        assert len(root(vault, bucket).deltas) <= 3
    for host in (other, another_host(vault)):
        looked(host)
        assert known(host) == known(vault)
    # The other one goes on from there, and folds as well.
    for number in range(5):
        sees(other, info(f"{number:04}", 200 + number, etag=f"other {number}"))
        published(other)
    late = another_host(vault)
    looked(late)
    assert known(late) == known(other)


def test_many_rows_are_cut_into_shards_by_key(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_state, "SHARD_ROWS", 100)
    listed(vault, 0)
    sees(vault, *(info(f"{n:04}", 5) for n in range(950)))
    published(vault)
    found = root(vault, bucket)
    assert (len(found.shards), len(found.deltas), sum(shard.rows for shard in found.shards)) == (10, 0, 950)
    assert bucket.seen == {RequestClass.PUT: 11}
    late = another_host(vault)
    assert looked(late)[1][RequestClass.GET] == 11
    assert known(late) == known(vault)
    # A few changes are one delta; many are folded into shards by the publish after them.
    for day, (rows, shape) in enumerate([(1, (10, 1)), (100, (10, 2)), (1, (11, 0))], 1):
        sees(vault, *(info(f"{n:04}", 100 * day, etag=f"{day}") for n in range(rows)))
        published(vault)
        found = root(vault, bucket)
        assert (len(found.shards), len(found.deltas)) == shape
        looked(late)
        assert known(late) == known(vault)
    # Unless they are more than a shard holds: such a delta would be read as a whole, and written twice.
    sees(vault, *(info(f"{n:04}", 1_000, etag="new") for n in range(101)))
    published(vault)
    found = root(vault, bucket)
    assert ((len(found.shards), len(found.deltas)), found.object_count) == ((11, 0), 950)
    looked(late)
    assert known(late) == known(vault)


def test_where_shards_are_too_dear_the_first_publish_is_a_delta(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_state, "SHARD_ROWS", 100)
    listed(vault, 0)
    sees(vault, *(info(f"{n:04}", 5) for n in range(950)))
    assert published(vault, limits={"put": 5}).result["manifest"]["objects"] == 2
    assert bucket.seen == {RequestClass.PUT: 2}
    assert len(root(vault, bucket).deltas) == 1


def test_a_budget_that_does_not_suffice_leaves_a_mark(vault: Vault, bucket: MemoryBucket) -> None:
    listed(vault, 0)
    sees(vault, info("a", 10))
    run = published(vault, limits={"put": 1})
    remedy = "vh vault sync set photos --s3-budget-put 2"
    told = {"published": False, "reason": "budget_put", "remedy": remedy}
    assert (run.status, run.result["manifest"], bucket.seen) == (RunStatus.SUCCESS, told, {})
    assert [("budget_put" in text, remedy in text) for text in warnings(run)] == [(True, True)]
    assert published(vault).result["manifest"]["published"]
    other = another_host(vault)
    SyncPolicy.objects.filter(vault=other).update(budget_get=1)
    look, _ = looked(other)
    assert (look.news, look.short, look.planned) == (News.SHORT, RequestClass.GET, 2)
    assert known(other) == {}
    SyncPolicy.objects.filter(vault=other).update(budget_get=10, budget_download_bytes=10)
    assert looked(other)[0].news is News.SHORT
    SyncPolicy.objects.filter(vault=other).update(budget_get=0)
    assert looked(other) == (Look(news=News.SHORT, short=RequestClass.GET, planned=1), {})


def test_where_money_is_short_that_is_the_reason(vault: Vault, bucket: MemoryBucket) -> None:
    assert vault.api_key is not None
    vault.api_key.region = "us-east-1"
    vault.api_key.save()
    seed()
    listed(vault, 0)
    sees(vault, info("a", 10))
    set_policy(Scope.GLOBAL, None, {"mode": "enforce", "max_run": "0.000005"})
    run = published(vault)
    assert (run.status, bucket.seen) == (RunStatus.SUCCESS, {})
    # A sync looks at the manifest, too, before it publishes.
    remedy = "vh pricing budget set-global --max-run 0.0000104"
    assert run.result["manifest"] == {"published": False, "reason": "price_budget", "remedy": remedy}
    assert [("price_budget" in text, remedy in text) for text in warnings(run)] == [(True, True)]
    set_policy(Scope.GLOBAL, None, {"max_run": "0.0000104"})
    assert published(vault).result["manifest"]["published"]
    assert warnings(published(vault)) == []


def test_a_manifest_that_others_keep_changing_is_a_stall(
    vault: Vault, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(vault, 0)
    other = another_host(vault)
    numbers = iter(range(100))
    original: Callable[..., Any] = publish.Publisher._put_root

    def beaten(self: publish.Publisher, found: Root, etag: str) -> Any:
        if self.vault.pk == vault.pk:
            # On a helper thread no database is at hand: the other's root is written as it is.
            bucket.write(ROOT, encode_root(_later(found, next(numbers))))
        return original(self, found, etag)

    monkeypatch.setattr(publish.Publisher, "_put_root", beaten)
    sees(vault, info("a", 10))
    run = published(vault)
    assert (run.status, run.stall_code) == (RunStatus.STALLED, "manifest_conflict")
    assert "vh vault sync" in run.stall_remedy
    monkeypatch.setattr(publish.Publisher, "_put_root", original)
    published(vault)
    looked(other)
    assert live(other) == {"a": "x"}


def _later(found: Root, number: int) -> Root:
    return msgspec.structs.replace(found, deltas=(), shards=(), retired=(), object_count=number)


def test_a_manifest_that_was_deleted_is_published_anew(vault: Vault, bucket: MemoryBucket) -> None:
    listed(vault, 0)
    sees(vault, info("a", 10))
    published(vault)
    bucket.remove(ROOT)
    assert looked(vault)[0].news is News.ABSENT
    assert published(vault).result["manifest"]["published"]
    other = another_host(vault)
    looked(other)
    assert live(other) == {"a": "x"}


def test_a_mirror_has_one_writer(vault: Vault, bucket: MemoryBucket) -> None:
    SyncPolicy.objects.update(strategy="mirror")
    listed(vault, 0)
    sees(vault, info("a", 10))
    published(vault)
    assert root(vault, bucket).writer == str(vault.marker)
    other = another_host(vault)
    reader = another_host(vault)
    SyncPolicy.objects.filter(vault=other).update(strategy="mirror")
    looked(reader)
    with pytest.raises(VaulthallaError) as refusal:
        looked(other)
    assert (refusal.value.code, "--take-over" in refusal.value.remedy) == ("mirror_writer", True)
    Vault.objects.filter(pk=other.pk).update(mirror_writer=other.marker)
    looked(other)
    published(other)
    assert root(vault, bucket).writer == str(other.marker)
    with pytest.raises(VaulthallaError, match="mirrors into"):
        looked(vault)


def test_what_is_unpublished_is_found_without_reading_the_index(vault: Vault) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO indexing_remoteobject (vault_id, key, size, etag, storage_class, archive_status, restore,
              version_id, sequencer, source, observed_at, tombstone, doubtful, revision)
            SELECT %s, to_char(n, 'FM000000'), 1, 'x', 'STANDARD', '', '', '', '', 'inventory', now(), false, false,
              n / 1000
            FROM generate_series(1, 100000) n
            """,
            [vault.pk],
        )
        cursor.execute("ANALYZE indexing_remoteobject")
    plan = sql.explain_unpublished(vault.pk, 99)
    assert "Bitmap Index Scan on remote_unpublished" in plan, plan
    assert "Seq Scan" not in plan
