"""Events into the index: once, twice, in any order, the same index; and each is counted by what became of it."""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexing import inputs, merge
from indexing.events import apply as applying
from indexing.events.records import Change, Effect
from indexing.models import IndexState, RemoteObject, Source
from indexing.order import Known, fold
from vaulthalla import cli
from vaulthalla.stores.base import ObjectInfo
from vaulthalla.vaults.models import Vault
from vaulthalla.work.models import Run

START = datetime(2026, 11, 20, 10, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def change(effect: Effect, seconds: float, key: str = "a", **facts: Any) -> Change:
    if effect in (Effect.CREATED, Effect.STORED):
        facts.setdefault("etag", "x")
        facts.setdefault("size", 5)
    return Change(effect=effect, bucket="bucket", key=key, at=at(seconds), **facts)


def created(seconds: float, **facts: Any) -> Change:
    return change(Effect.CREATED, seconds, **facts)


def removed(seconds: float, **facts: Any) -> Change:
    return change(Effect.REMOVED, seconds, **facts)


def apply(vault: Vault, *changes: Change) -> dict[str, int]:
    with transaction.atomic():
        return {name: count for name, count in applying.apply(vault, changes).items() if count}


def rows(vault: Vault) -> dict[str, dict[str, Any]]:
    values = RemoteObject.objects.filter(vault=vault).values()
    return {row["key"]: {name: row[name] for name in row if name != "revision"} for row in values}


def live(vault: Vault) -> dict[str, tuple[str, bool]]:
    found = RemoteObject.objects.filter(vault=vault, tombstone=False)
    state = IndexState.objects.get(vault=vault)
    assert state.object_count == len(found)
    assert state.doubtful_count == sum(row.doubtful for row in found)
    assert state.total_bytes == sum(row.size for row in found)
    return {row.key: (row.etag, row.doubtful) for row in found}


def seen(vault: Vault, key: str, seconds: float, **facts: Any) -> None:
    info = ObjectInfo(key=key, **{"size": 5, "etag": "x", "last_modified": at(0), "observed_at": at(seconds), **facts})
    with transaction.atomic():
        merge.observe(vault.pk, [info], source=Source.HEAD)


# As a store makes them: the order of sequencers is the order of times.
histories = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", ""]), st.integers(min_value=1, max_value=30)),
    min_size=1,
    max_size=8,
    unique_by=lambda step: (step[0], step[2]),
).flatmap(
    lambda steps: st.tuples(
        st.permutations(
            [
                change(
                    Effect.CREATED if etag else Effect.REMOVED,
                    5 * second,
                    key=key,
                    etag=etag,
                    sequencer=f"{second:04X}",
                )
                for key, etag, second in steps
            ]
        ),
        st.integers(min_value=1, max_value=4),
    )
)


@pytest.mark.django_db
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories)
def test_any_order_any_batches_and_twice_is_one_index(vault: Vault, history: tuple[list[Change], int]) -> None:
    changes, size = history
    with transaction.atomic():
        merge.reset(vault.pk)
        for start in range(0, len(changes), size):
            apply(vault, *changes[start : start + size])
        once = rows(vault)
        expected: dict[str, Known | None] = {
            key: fold(known for c in changes if c.key == key and (known := applying.knowledge(c, None)))
            for key in {c.key for c in changes}
        }
        for key, known in expected.items():
            assert known is not None
            assert (once[key]["etag"], once[key]["tombstone"]) == (known.etag, known.gone)
        live(vault)
        again = apply(vault, *changes)
        assert rows(vault) == once
        assert set(again) <= {"stale", "duplicate"}


@pytest.mark.django_db
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.permutations(
        [
            created(10, etag="v1", version_id="1", sequencer="01"),
            created(20, etag="v2", version_id="2", sequencer="02"),
            change(Effect.DOUBT, 30, version_id="2", sequencer="03"),
        ]
    )
)
def test_a_deleted_version_leaves_doubt_in_any_order(vault: Vault, changes: list[Change]) -> None:
    with transaction.atomic():
        merge.reset(vault.pk)
        for one in changes:
            apply(vault, one)
        assert live(vault)["a"][1]
        seen(vault, "a", 40, etag="v1")
        assert live(vault) == {"a": ("v1", False)}
        apply(vault, *changes)
        assert live(vault) == {"a": ("v1", False)}


@pytest.mark.django_db
class TestOneKey:
    def test_a_late_create_does_not_undo_a_delete(self, vault: Vault) -> None:
        assert apply(vault, removed(20, sequencer="0064D3901E")) == {"deleted": 1}
        assert apply(vault, created(10, sequencer="0064D3901D00059242")) == {"stale": 1}
        assert live(vault) == {}

    def test_counts_of_one_batch(self, vault: Vault) -> None:
        first, second = created(10, sequencer="01"), removed(20, sequencer="02")
        assert apply(vault, first, first, second) == {"upserted": 1, "duplicate": 1, "deleted": 1}
        assert apply(vault, second, first) == {"duplicate": 1, "stale": 1}

    def test_without_sequencers_the_time_decides_and_a_tie_is_doubtful(self, vault: Vault) -> None:
        assert apply(vault, created(10), created(10), created(5, etag="y")) == {
            "upserted": 1, "duplicate": 1, "stale": 1,
        }  # fmt: skip
        assert live(vault) == {"a": ("x", False)}
        apply(vault, created(11, etag="y"))
        assert live(vault) == {"a": ("y", True)}

    def test_a_marker_that_went_may_bring_the_object_back(self, vault: Vault) -> None:
        apply(vault, created(10, sequencer="01"), removed(20, sequencer="02"))
        assert apply(vault, change(Effect.DOUBT, 30, sequencer="03", version_id="m")) == {"doubtful": 1}
        assert live(vault) == {"a": ("", True)}
        assert apply(vault, change(Effect.DOUBT, 30, key="new", version_id="m")) == {"doubtful": 1}
        assert live(vault)["new"] == ("", True)

    def test_lifecycle_of_an_old_version_is_no_doubt(self, vault: Vault) -> None:
        apply(vault, created(10, version_id="2"))
        old = change(Effect.DOUBT, 30, version_id="1", lifecycle=True)
        assert apply(vault, old) == {"old_version": 1}
        assert live(vault) == {"a": ("x", False)}

    def test_doubt_older_than_what_is_known_changes_nothing(self, vault: Vault) -> None:
        apply(vault, created(50, sequencer="05"))
        doubt = change(Effect.DOUBT, 30, version_id="1", sequencer="03")
        assert apply(vault, doubt) == {"stale": 1}
        assert apply(vault, change(Effect.DOUBT, 60, sequencer="06"), created(70, sequencer="07")) == {
            "doubtful": 1, "upserted": 1,
        }  # fmt: skip
        assert live(vault) == {"a": ("x", False)}

    def test_storage_class_is_kept_and_changed(self, vault: Vault) -> None:
        seen(vault, "a", 0, storage_class="STANDARD_IA")
        apply(vault, created(10))
        row = RemoteObject.objects.get()
        assert (row.storage_class, row.last_modified) == ("STANDARD_IA", at(0))
        apply(vault, change(Effect.STORED, 20, storage_class="GLACIER"))
        assert RemoteObject.objects.get().storage_class == "GLACIER"
        apply(vault, change(Effect.STORED, 30, restore="active", restore_expires=at(90)))
        row = RemoteObject.objects.get()
        assert (row.storage_class, row.restore, row.restore_expires) == ("GLACIER", "active", at(90))
        apply(vault, change(Effect.STORED, 90))
        row = RemoteObject.objects.get()
        assert (row.storage_class, row.restore, row.size) == ("GLACIER", "", 5)
        assert apply(vault, change(Effect.STORED, 95, etag="other")) == {"doubtful": 1}

    def test_events_from_before_the_snapshot_are_in_it(self, vault: Vault) -> None:
        seen(vault, "a", 0)
        IndexState.objects.update(complete=True, snapshot_as_of=at(100))
        assert apply(vault, removed(50), created(50, key="b"), change(Effect.DOUBT, 50)) == {
            "stale": 3,
        }  # fmt: skip
        assert live(vault) == {"a": ("x", False)}


def vh(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = cli.run(["vault", "sync", "events", *arguments])
    said = capsys.readouterr()
    return code, json.loads(said.out or said.err), said.err


def record(seconds: float, key: str, name: str = "ObjectCreated:Put", bucket: str = "bucket") -> dict[str, Any]:
    found = {"key": key, "size": 5, "eTag": "e1", "sequencer": f"{int(seconds):06X}"}
    stamp = at(seconds).isoformat().replace("+00:00", "Z")
    return {"eventName": name, "eventTime": stamp, "s3": {"bucket": {"name": bucket}, "object": found}}


def write(path: Path, *documents: Any) -> str:
    path.write_text("\n".join(json.dumps(document) for document in documents))
    return str(path)


@pytest.mark.django_db(transaction=True)
def test_the_command(vault: Vault, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Vault.objects.update(prefix="p/")
    file = write(
        tmp_path / "events.json",
        {"Event": "s3:TestEvent"},
        {"Records": [record(1, "p/a+b"), record(2, "p/c"), record(3, "p/c", "ObjectRemoved:Delete")]},
        {"Records": [record(1, "q/x"), record(1, "p/x", bucket="other"), record(1, "p/.vaulthalla/manifest.json")]},
        {"Records": [record(2, "p/c"), record(4, "p/%FF"), record(4, "p/c", "ObjectTagging:Put"), record(4, "p/")]},
        {"nothing": 1},
    )
    code, value, _ = vh(capsys, "photos", "--file", file, "--json")
    assert code == 0
    assert value.pop("run") == str(Run.objects.get(kind="events", status="success").pk)
    # The manifest: a delta and its root.
    assert {name: n for name, n in value.pop("requests").items() if n} == {"put": 2}
    assert value == {
        "vault": "photos",
        "records": 11,
        "upserted": 2,
        "deleted": 1,
        "stale": 1,
        "duplicate": 0,
        "doubtful": 0,
        "skipped": {
            "test_event": 1,
            "other_prefix": 2,
            "other_bucket": 1,
            "vaulthalla_object": 1,
            "key_not_text": 1,
            "no_change_of_content": 1,
        },
        "events_through": None,
        "warnings": [],
    }
    assert live(vault) == {"a b": ("e1", False)}


@pytest.mark.django_db(transaction=True)
def test_the_feed_makes_the_index_younger_only_where_it_follows_on(
    vault: Vault, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    IndexState.objects.create(vault=vault, complete=True, snapshot_as_of=at(10), source="list_objects_v2")
    gap = write(tmp_path / "gap.json", record(20, "a"), record(30, "a"))
    assert vh(capsys, "photos", "--file", gap, "--json")[1]["events_through"] is None
    whole = write(tmp_path / "whole.json", record(9, "a"), record(15, "a"))
    assert vh(capsys, "photos", "--file", whole, "--json")[1]["events_through"] == "2026-11-20T10:00:15Z"
    vouched = vh(capsys, "photos", "--file", gap, "--through", "2026-11-20T10:00:40Z", "--json")[1]
    assert vouched["events_through"] == "2026-11-20T10:00:40Z"
    assert IndexState.objects.get().events_through == at(40)
    code, error, _ = vh(capsys, "photos", "--file", gap, "--through", "2999-01-01", "--json")
    assert (code, error["error"]["code"]) == (2, "invalid_value")


def odd(value: object, *where: str) -> str:
    """Two events as JSON Lines, of which the second one has a value that no row can hold."""
    event = record(2, "b")
    inside = event
    for name in where[:-1]:
        inside = inside[name]
    inside[where[-1]] = value
    return json.dumps(record(1, "a")) + "\n" + json.dumps(event)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "text",
    [
        odd("e\0", "s3", "object", "eTag"),
        odd("\0", "s3", "object", "versionId"),
        odd("0A\0", "s3", "object", "sequencer"),
        odd("\ud800", "s3", "object", "eTag"),
        odd(2**63, "s3", "object", "size"),
        odd(10**40, "s3", "object", "size"),
        odd(-1, "s3", "object", "size"),
        odd("0000-01-01T00:00:00Z", "eventTime"),
        odd("0001-01-01T00:00:00+14:00", "eventTime"),
        odd("9999-12-31T23:59:59-14:00", "eventTime"),
        odd("10000-01-01T00:00:00Z", "eventTime"),
    ],
    ids=(f"value {number}" for number in range(11)),
)
def test_what_no_row_can_hold_is_refused_with_its_place(
    vault: Vault, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "events.json"
    file.write_text(text)
    exit_code, value, _ = vh(capsys, "photos", "--file", str(file), "--json")
    assert (exit_code, value["error"]["code"]) == (2, "input_damaged")
    assert "line 2" in value["error"]["message"]
    assert not RemoteObject.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("key", ["a%00b", "a\0b", "%FF", "\ud800"])
def test_keys_that_are_no_text_are_skipped_by_name(
    vault: Vault, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    file = tmp_path / "events.json"
    file.write_text(odd(key, "s3", "object", "key"))
    exit_code, value, _ = vh(capsys, "photos", "--file", str(file), "--json")
    assert exit_code in (0, 2)
    assert (value["skipped"] if exit_code == 0 else value["error"]["code"]) in ({"key_not_text": 1}, "input_damaged")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ('{"Records": []}', "no_records", "no S3 event records found"),
        ('{"some": "thing"}', "no_records", "no S3 event records found"),
        (json.dumps(record(1, "a")) + '\n{"Records": [', "input_damaged", "events.json, line 2: "),
    ],
)
def test_refused_files_change_nothing(
    vault: Vault, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, text: str, code: str, said: str
) -> None:
    file = tmp_path / "events.json"
    file.write_text(text)
    exit_code, value, _ = vh(capsys, "photos", "--file", str(file), "--json")
    assert (exit_code, value["error"]["code"]) == (2, code)
    assert said in value["error"]["message"]
    assert not RemoteObject.objects.exists()
    assert not Run.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress((json.dumps(record(1, "a")) + "\n").encode() * 9_999)[:-40], "the gzip stream ends too early"),
        (gzip.compress(b"{}\n" * 2**20), "it unpacks more than 300-fold"),
    ],
    ids=["cut off", "a bomb"],
)
def test_gzip_that_is_none_changes_nothing(
    vault: Vault,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    content: bytes,
    said: str,
) -> None:
    monkeypatch.setattr(inputs, "BOMB_BYTES", 2**20)
    file = tmp_path / "events.json.gz"
    file.write_bytes(content)
    exit_code, value, _ = vh(capsys, "photos", "--file", str(file), "--json")
    assert (exit_code, value["error"]["code"]) == (2, "input_damaged")
    assert re.search(rf"events.json.gz, after byte \d+ of its content: {said}", value["error"]["message"])
    assert not RemoteObject.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_local_vaults_and_missing_files_are_refused(
    vault: Vault, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, value, _ = vh(capsys, "photos", "--file", str(tmp_path / "none.json"), "--json")
    assert (code, value["error"]["code"]) == (2, "input_missing")
    Vault.objects.update(kind="local", api_key=None, bucket="", replica="/copy")
    code, value, _ = vh(capsys, "photos", "--file", str(tmp_path / "none.json"), "--json")
    assert (code, value["error"]["code"]) == (2, "s3_only")
