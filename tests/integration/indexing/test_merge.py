"""The set-based merge says what the pure rule says, counts what it does, and keeps to the primary key."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexing import digests, merge, sql
from indexing.models import IndexState, RemoteObject, Source
from indexing.order import Known, join
from vaulthalla.stores.base import ObjectInfo, Page
from vaulthalla.vaults.models import Vault

pytestmark = pytest.mark.django_db

START = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = ("a", "b")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def info(key: str, seconds: float = 0, etag: str = "x", **known: Any) -> ObjectInfo:
    given: dict[str, Any] = {"size": 10, "last_modified": START, **known}
    return ObjectInfo(key=key, etag=etag, observed_at=at(seconds), **given)


def rows(vault: Vault) -> dict[str, RemoteObject]:
    return {row.key: row for row in RemoteObject.objects.filter(vault=vault)}


def live(vault: Vault) -> dict[str, str]:
    return {key: row.etag for key, row in rows(vault).items() if not row.tombstone}


def counts_are_exact(vault: Vault) -> None:
    state = IndexState.objects.get(vault=vault)
    kept = [row for row in rows(vault).values() if not row.tombstone]
    doubtful = sum(row.doubtful for row in rows(vault).values())
    assert (state.object_count, state.total_bytes, state.doubtful_count) == (
        len(kept),
        sum(row.size for row in kept),
        doubtful,
    )


def as_known(row: RemoteObject) -> Known:
    names = {field.name for field in fields(Known)} - {"gone", "source", "sha256"}
    gone = row.tombstone or (row.doubtful and not row.etag)
    sha256 = bytes(row.sha256) if row.sha256 is not None else None
    return Known(gone=gone, source=Source(row.source), sha256=sha256, **{name: getattr(row, name) for name in names})


steps = st.tuples(
    st.sampled_from(KEYS),
    st.builds(
        lambda quarter, etag, source, sequencer, sha256, restore: Known(
            observed_at=at(quarter / 4),
            source=source,
            etag=etag,
            gone=not etag,
            size=len(etag) * 5,
            sequencer=sequencer if source is Source.EVENT else "",
            sha256=sha256 if etag else None,
            restore=restore,
            restore_expires=at(5) if restore else None,
            storage_class="GLACIER" if restore else "STANDARD",
        ),
        st.integers(min_value=0, max_value=30),
        st.sampled_from(["", "x", "y"]),
        st.sampled_from([Source.LIST, Source.HEAD, Source.EVENT, Source.OWN]),
        st.sampled_from(["", "0A", "0a1", "0b"]),
        st.sampled_from([None, b"1" * 32]),
        st.sampled_from(["", "active"]),
    ),
    # How many merges ago the store was asked; None: nobody knows.
    st.sampled_from([None, 0, 1]),
)
floors = st.one_of(st.none(), st.integers(min_value=0, max_value=7))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=8), floors)
def test_the_merge_is_the_pure_rule(
    vault: Vault, story: list[tuple[str, Known, int | None]], floor: int | None
) -> None:
    with transaction.atomic():
        follow(vault, story, None if floor is None else at(floor))
        transaction.set_rollback(True)


def follow(vault: Vault, story: list[tuple[str, Known, int | None]], moment: datetime | None) -> None:
    IndexState.objects.create(vault=vault, complete=moment is not None, snapshot_as_of=moment)
    expected: dict[str, Known | None] = {}
    for revision, (key, known, ago) in enumerate(story, start=1):
        since = None if ago is None else revision - 1 - ago
        before = expected.get(key)
        after = join(before, known, since=since, floor=moment)
        changed = before is None or (after is not None and replace(after, revision=0) != replace(before, revision=0))
        after = replace(after, revision=revision) if after is not None and changed else before
        expected[key] = after
        merge.merge_known(vault.pk, {key: known}, source=known.source, since=since)
        stored = {key: as_known(row) for key, row in rows(vault).items()}
        assert stored == {key: known for key, known in expected.items() if known is not None}
    counts_are_exact(vault)


def page(seconds: float, *infos: ObjectInfo, **known: Any) -> Page:
    return Page(objects=list(infos), next_after=None, observed_at=at(seconds), **known)


def test_a_page_adds_changes_and_removes(vault: Vault) -> None:
    merge.observe(vault.pk, [info("a"), info("b"), info("c"), info("d")], source=Source.HEAD)
    changes = merge.observe_page(
        vault.pk, page(60, info("a", 60), info("b", 60, "y"), info("e", 60)), after="", last=None, since=1
    )
    assert (changes.added, changes.changed, changes.removed) == (1, 1, 2)
    assert live(vault) == {"a": "x", "b": "y", "e": "x"}
    # Unchanged rows are not written again.
    assert (rows(vault)["a"].revision, rows(vault)["a"].observed_at) == (1, at(0))
    counts_are_exact(vault)


listed = st.builds(
    lambda key, etag, size, storage_class, expires: info(
        key, etag=etag, size=size, storage_class=storage_class, restore_expires=expires
    ),
    st.sampled_from(["a", "b", "é", "\U0001f600", "\uffff", "z"]),
    st.sampled_from(["x", "y"]),
    st.sampled_from([0, 2**40]),
    st.sampled_from(["STANDARD", "GLACIER"]),
    st.sampled_from([None, None, None, at(5)]),
)
several = st.lists(listed, unique_by=lambda one: one.key, max_size=4).map(
    lambda found: sorted(found, key=lambda one: one.key.encode())
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(several, st.one_of(several, st.none()), st.sampled_from([("", None), ("a", None), ("m", None), ("", "b")]))
def test_a_page_that_is_known_changes_nothing(
    vault: Vault, before: list[ObjectInfo], found: list[ObjectInfo] | None, span: tuple[str, str | None]
) -> None:
    after, last = span
    now = [one for one in (before if found is None else found) if after < one.key <= (last or digests.LAST)]
    with transaction.atomic():
        merge.observe_page(vault.pk, page(0, *before), after="", last=None, since=0)
        kept = list(RemoteObject.objects.order_by("key").values())
        (known,) = merge.as_known(vault.pk, [(after, last, page(60, *now))])
        changes = merge.observe_page(vault.pk, page(60, *now), after=after, last=last, since=1)
        unchanged = list(RemoteObject.objects.order_by("key").values()) == kept
        if known:
            assert unchanged
            assert changes == sql.Changes()
        elif now and not any(one.restore_expires for one in (*before, *now)):
            assert not unchanged
        transaction.set_rollback(True)


def test_doubtful_rows_are_never_known(vault: Vault) -> None:
    merge.observe(vault.pk, [info("a", 0, "x"), info("a", 1, "y")], source=Source.HEAD)
    assert rows(vault)["a"].doubtful
    assert merge.as_known(vault.pk, [("", None, page(60, info("a", 60, "y")))]) == [False]
    assert merge.as_known(vault.pk, [("", None, page(60)), ("a", None, page(60, info("b", 60)))]) == [False, False]


def test_a_page_removes_only_within_its_range_and_prefix(vault: Vault) -> None:
    keys = ["a", "p/1", "p/2", "p/3", "q"]
    merge.observe(vault.pk, [info(key) for key in keys], source=Source.LIST)
    merge.observe_page(vault.pk, page(60, info("p/2", 60)), after="p/1", last="p/2", since=1, prefix="p/")
    assert sorted(live(vault)) == keys
    merge.observe_page(vault.pk, page(61), after="p/2", last=None, since=2, prefix="p/")
    assert sorted(live(vault)) == ["a", "p/1", "p/2", "q"]
    merge.observe_page(vault.pk, page(62, info("p/2", 62)), after="", last="p/2", since=3, prefix="p/")
    assert sorted(live(vault)) == ["a", "p/2", "q"]
    counts_are_exact(vault)


def test_a_scan_of_a_part_confirms_what_it_saw(vault: Vault) -> None:
    merge.observe(vault.pk, [info("p/1")], source=Source.LIST)
    merge.observe_page(vault.pk, page(60, info("p/1", 60)), after="", last=None, since=1, prefix="p/", touch=True)
    assert rows(vault)["p/1"].observed_at == at(60)


def test_a_page_does_not_remove_what_was_written_after_it_was_asked_for(vault: Vault) -> None:
    since = merge.revision_of(vault.pk)
    merge.observe(vault.pk, [info("ours", 100)], source=Source.OWN)
    merge.observe(vault.pk, [info("theirs", 99)], source=Source.HEAD)
    merge.observe_page(vault.pk, page(100), after="", last=None, since=since)
    assert live(vault) == {"ours": "x", "theirs": ""}
    assert rows(vault)["theirs"].doubtful
    counts_are_exact(vault)


def test_two_scans_in_one_second_leave_no_doubt(vault: Vault) -> None:
    merge.observe_page(vault.pk, page(0, info("a"), info("b")), after="", last=None, since=0)
    since = merge.revision_of(vault.pk)
    merge.observe_page(vault.pk, page(0, info("a", 0, "y"), info("c")), after="", last=None, since=since)
    assert live(vault) == {"a": "y", "c": "x"}
    assert not any(row.doubtful for row in rows(vault).values())


def test_below_an_unreadable_directory_nothing_is_removed_and_all_is_doubtful(vault: Vault) -> None:
    merge.observe(vault.pk, [info("dark/a"), info("dark/b"), info("light")], source=Source.LIST)
    merge.observe_page(vault.pk, page(60, unreadable=["dark/"]), after="", last=None, since=1)
    assert {key: row.doubtful for key, row in rows(vault).items() if not row.tombstone} == {
        "dark/a": True,
        "dark/b": True,
    }
    counts_are_exact(vault)
    merge.observe_page(vault.pk, page(60.5, info("dark/a", 60.5)), after="", last=None, since=2)
    assert {key: row.doubtful for key, row in rows(vault).items()} == {"dark/a": False, "dark/b": False, "light": False}
    assert live(vault) == {"dark/a": "x"}
    counts_are_exact(vault)


def test_an_unordered_scan_sweeps_at_its_end(vault: Vault) -> None:
    merge.observe(vault.pk, [info(key) for key in "abc"], source=Source.LIST)
    since = merge.revision_of(vault.pk)
    merge.observe_page(vault.pk, page(60, info("c", 60)), after="", last=None, since=since, run_id=7)
    merge.observe(vault.pk, [info("new", 61)], source=Source.OWN)
    merge.observe_page(vault.pk, page(62, info("a", 62)), after="", last=None, since=since, run_id=7)
    assert sorted(live(vault)) == ["a", "b", "c", "new"]
    changes = merge.sweep_scan(vault.pk, 7, started_at=at(60), since=since)
    assert changes.removed == 1
    assert sorted(live(vault)) == ["a", "c", "new"]
    counts_are_exact(vault)


def test_own_keys_and_keys_that_cannot_be_stored_have_no_row(vault: Vault) -> None:
    merge.observe(
        vault.pk, [info(".vaulthalla/manifest.json"), info("nul\0"), info("\udcff"), info("a")], source=Source.LIST
    )
    assert sorted(live(vault)) == ["a"]


@pytest.mark.parametrize("key", ["\x1f", "a\x1eb\x1d\x1f", "with ,{}\\\" '%s %% \n\t", "€\U0001f600", "NULL", " "])
def test_any_key_that_is_text_is_kept_exactly(vault: Vault, key: str) -> None:
    merge.observe(
        vault.pk, [info(key, etag='"\x1f,', sha256=b"\\\x00" * 16, mtime_ns=-5), info("b")], source=Source.HEAD
    )
    assert live(vault) == {key: '"\x1f,', "b": "x"}
    row = rows(vault)[key]
    assert (bytes(row.sha256), row.mtime_ns, row.last_modified) == (b"\\\x00" * 16, -5, START)


def test_a_key_twice_in_a_batch_is_merged_first(vault: Vault) -> None:
    merge.observe(vault.pk, [info("a", 10, "y"), info("a", 0, "x"), info("b"), info("b", 1, "y")], source=Source.HEAD)
    assert {key: (row.etag, row.doubtful) for key, row in rows(vault).items()} == {"a": ("y", False), "b": ("y", True)}


def test_a_delete_of_ours_leaves_a_tombstone_that_old_news_cannot_undo(vault: Vault) -> None:
    merge.observe(vault.pk, [info("a")], source=Source.LIST)
    merge.observe_gone(vault.pk, [("a", at(10))], source=Source.OWN)
    merge.observe(vault.pk, [info("a", 5)], source=Source.HEAD)
    assert live(vault) == {}
    counts_are_exact(vault)


def test_merges_and_sweeps_of_a_page_use_the_primary_key(vault: Vault) -> None:
    merge.observe(vault.pk, [info(f"{number:06}") for number in range(20_000)], source=Source.LIST)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE indexing_remoteobject")
    moment = sql.begin(vault.pk)
    columns = merge._page_columns([info(f"{number:06}", 60) for number in range(5000, 5100)])
    span = {"first": "004999", "after": "004999", "last": "005099", "prefix": "", "unreadable": [], "absent_at": at(60)}
    options = {"vault": vault.pk, "since": 1, "touch": False, "run": None, "seen_at": at(60), **span}
    parameters = merge._parameters(moment, columns, Source.LIST, options)
    plan = sql.explain(parameters, absent="page")
    assert "Seq Scan on indexing_remoteobject" not in plan
    assert plan.count("indexing_remoteobject_pkey") >= 2
