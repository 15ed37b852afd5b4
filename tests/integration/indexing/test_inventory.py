"""Inventories into the index: what each row means, what is refused, and that nothing is seen before all of it is."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from indexing import merge
from indexing import sql as index_sql
from indexing.events import apply as applying
from indexing.events.records import Change, Effect
from indexing.inventory import runs, sql
from indexing.models import IndexCount, IndexState, RemoteObject, Source
from tests.support.deliveries import VERSIONS_SCHEMA, csv_bytes, deliver, row
from vaulthalla import cli
from vaulthalla.stores.base import ObjectInfo
from vaulthalla.vaults.models import Vault
from vaulthalla.work.models import Run

pytestmark = pytest.mark.django_db(transaction=True)

HEADER = ["bucket", "key", "size", "last_modified_date", "etag", "storage_class"]
SCHEMA = ",".join(HEADER)
AS_OF = datetime(2026, 11, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
ODD = ["a b", "a+b", "ü/🎉", "new\nline", 'quote"', "tab\there", "back\\slash", "c,d", "%41", "\\N", "\\."]


class Vh:
    """`vh vault sync inventory photos …`"""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, *options: str, code: int = 0) -> Any:
        found = cli.run(["vault", "sync", "inventory", "photos", *options, "--json"])
        said = self.capsys.readouterr()
        assert found == code, said.err
        return json.loads(said.out) if code == 0 else json.loads(said.err)["error"]

    def rows(
        self, rows: Sequence[Sequence[str]], *options: str, code: int = 0, as_of: datetime = AS_OF, header: bool = True
    ) -> Any:
        body = csv_bytes([HEADER, *rows] if header else rows)
        return self.raw(body, *options, "--as-of", as_of.isoformat(), code=code)

    def raw(self, body: bytes, *options: str, code: int = 0) -> Any:
        file = self.folder / "inventory.csv"
        file.write_bytes(body)
        return self("--file", str(file), *options, code=code)


@pytest.fixture
def vh(vault: Vault, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Vh:
    return Vh(tmp_path, capsys)


def live(vault: Vault) -> dict[str, tuple[str, bool]]:
    found = RemoteObject.objects.filter(vault=vault, tombstone=False)
    state = IndexState.objects.get(vault=vault)
    assert state.object_count == len(found)
    assert state.doubtful_count == sum(row.doubtful for row in found)
    assert state.total_bytes == sum(row.size for row in found)
    return {row.key: (row.etag, row.doubtful) for row in found}


def known(*keys: str, etag: str = "e", doubtful: bool = False) -> dict[str, tuple[str, bool]]:
    return dict.fromkeys(keys, (etag, doubtful))


def see(vault: Vault, key: str, at: datetime, etag: str = "e") -> None:
    info = ObjectInfo(key=key, size=5, etag=etag, last_modified=at, observed_at=at)
    with transaction.atomic():
        merge.observe(vault.pk, [info], source=Source.HEAD)


def event(vault: Vault, effect: Effect, key: str, at: datetime, etag: str = "") -> None:
    with transaction.atomic():
        applying.apply(vault, [Change(effect=effect, bucket="bucket", key=key, at=at, etag=etag, size=5)])


def test_a_file_with_a_header(vault: Vault, vh: Vh) -> None:
    said = vh.rows([row(key) for key in ODD])
    assert said.pop("run") == str(Run.objects.get(kind="inventory", status="success").pk)
    # The manifest: a delta and its root.
    assert {name: n for name, n in said.pop("requests").items() if n} == {"put": 2}
    assert said == {
        "vault": "photos",
        "objects_indexed": len(ODD),
        "added": len(ODD),
        "changed": 0,
        "removed": 0,
        "doubtful": 0,
        "rows_skipped": 0,
        "skipped": {},
        "as_of": "2026-11-20T00:00:00Z",
        "known_from": None,
        "warnings": [],
    }
    assert live(vault) == known(*ODD)
    state = IndexState.objects.get()
    assert (state.complete, state.source, state.snapshot_as_of) == (True, "inventory", AS_OF)
    counted = IndexCount.objects.get()
    assert (counted.revision, counted.classes) == (
        state.revision,
        {"STANDARD": {"objects": len(ODD), "bytes": 5 * len(ODD)}},
    )
    found = RemoteObject.objects.first()
    assert found is not None
    assert (found.last_modified, found.storage_class) == (datetime(2026, 1, 1, tzinfo=UTC), "STANDARD")


def test_again_changes_nothing(vault: Vault, vh: Vh) -> None:
    vh.rows([row(key) for key in ODD])
    before = list(RemoteObject.objects.order_by("key").values())
    said = vh.rows([row(key) for key in reversed(ODD)])
    assert (said["objects_indexed"], said["added"], said["changed"], said["removed"]) == (len(ODD), 0, 0, 0)
    assert list(RemoteObject.objects.order_by("key").values()) == before


def odd_rows() -> list[list[str]]:
    """More than a block of them, among them keys that sort by bytes only."""
    keys = [*ODD, *(f"k{number:04}" for number in range(3 * runs.ROWS_A_DIGEST)), "\uffff", "\U0001f600"]
    return [row(key, at=AS_OF - timedelta(microseconds=number * 1000)) for number, key in enumerate(keys)]


def test_what_is_as_it_was_is_not_looked_at(vault: Vault, vh: Vh, monkeypatch: pytest.MonkeyPatch) -> None:
    vh.rows(odd_rows())
    RemoteObject.objects.filter(key="k0003").update(version_id="known from an event")
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(sql.Comparison, "_suspect", lambda _, span: found.append(span))
    assert vh.rows(odd_rows()[::-1])["objects_indexed"] == len(odd_rows())
    assert found == []


def test_single_differences_are_found(vault: Vault, vh: Vh) -> None:
    vh.rows(odd_rows())
    later = AS_OF + 72 * HOUR
    changed = [[*cells[:4], "new", cells[5]] if cells[1] == "k0200" else cells for cells in odd_rows()]
    RemoteObject.objects.filter(key="k0300").update(restore="active", restore_expires=AS_OF)
    said = vh.rows([cells for cells in changed if cells[1] != "k0001"] + [row("zz"), row("!")], as_of=later)
    assert [said[name] for name in ("added", "changed", "removed", "doubtful")] == [2, 1, 1, 0]
    assert RemoteObject.objects.get(key="k0200").etag == "new"
    assert RemoteObject.objects.get(key="k0300").restore == ""
    assert RemoteObject.objects.get(key="k0001").tombstone


def test_an_inventory_without_an_object(vault: Vault, vh: Vh) -> None:
    vh.rows([row("a")])
    said = vh.rows([], as_of=AS_OF + 72 * HOUR)
    assert (said["objects_indexed"], said["removed"], live(vault)) == (0, 1, {})


def test_comparing_uses_the_primary_key(vault: Vault, vh: Vh) -> None:
    vh.rows([row(f"{number:06}") for number in range(20_000)])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE indexing_remoteobject")
    plan = index_sql.explain_digests(vault.pk, [("004999", "005099"), ("005099", "005199")])
    assert "Index Scan using indexing_remoteobject_pkey" in plan
    (condition,) = [line for line in plan.splitlines() if "Index Cond" in line]
    assert "key >" in condition
    assert "key <=" in condition


def test_columns_in_any_order_and_unknown_ones(vault: Vault, vh: Vh) -> None:
    options = ("--schema", "ETag, color, Key, Size", "--as-of", "2026-11-20")
    vh.raw(b'"e","red","a%20b+c","7"\n', *options)
    found = RemoteObject.objects.get()
    assert (found.key, found.size, found.last_modified, found.storage_class) == ("a b c", 7, None, "STANDARD")
    # A header in spite of the option is no object.
    said = vh.raw(b"etag,color,key,size\ne,red,a%20b+c,7\n", *options)
    assert (said["objects_indexed"], said["rows_skipped"]) == (1, 0)


def test_gzip_and_the_files_own_time(vault: Vault, vh: Vh, tmp_path: Path) -> None:
    file = tmp_path / "inventory.csv.gz"
    file.write_bytes(csv_bytes([HEADER, row("a")], zipped=True))
    said = vh("--file", str(file))
    assert datetime.fromisoformat(said["as_of"]) == datetime.fromtimestamp(file.stat().st_mtime, UTC)


def test_a_delivery(vault: Vault, vh: Vh, tmp_path: Path) -> None:
    manifest = deliver(tmp_path, [[row("a"), row("b")], [row("c")]], as_of=AS_OF)
    said = vh("--manifest", str(manifest))
    assert (said["objects_indexed"], said["as_of"]) == (3, "2026-11-20T00:00:00Z")
    assert live(vault) == known("a", "b", "c")


def test_versions_and_delete_markers(vault: Vault, vh: Vh, tmp_path: Path) -> None:
    def version(key: str, number: str, latest: str, marker: str, etag: str = "e") -> list[str]:
        size = "" if marker == "true" else "5"
        return ["bucket", key, number, latest, marker, size, "2026-01-01T00:00:00.000Z", etag, "STANDARD"]

    rows = [
        version("a", "2", "true", "false", "new"),
        version("a", "1", "false", "false", "old"),
        version("gone", "2", "true", "true", ""),
        version("gone", "1", "false", "false"),
    ]
    said = vh("--manifest", str(deliver(tmp_path, [rows], as_of=AS_OF, schema=VERSIONS_SCHEMA)))
    assert said["skipped"] == {"old_version": 2, "delete_marker": 1}
    assert live(vault) == known("a", etag="new")
    assert RemoteObject.objects.get().version_id == "2"


def test_prefix_vaults_take_only_their_own(vault: Vault, vh: Vh) -> None:
    Vault.objects.update(prefix="p/")
    said = vh.rows([row("p/a"), row("q/a"), row("p/.vaulthalla/manifest.json"), row("p/"), row("p/b"), row("p/b")])
    assert said["skipped"] == {"other_prefix": 2, "vaulthalla_object": 1, "duplicate_key": 1}
    assert live(vault) == known("a", "b")


def test_a_part_moves_neither_age_nor_completeness(vault: Vault, vh: Vh) -> None:
    vh.rows([row("x/a"), row("x/b"), row("y")])
    said = vh.rows([row("x/a"), row("y2")], "--prefix", "x/", as_of=AS_OF + 72 * HOUR)
    assert said["skipped"] == {"other_prefix": 1}
    assert live(vault) == known("x/a", "y")
    assert IndexState.objects.get().snapshot_as_of == AS_OF


def inserted() -> int:
    """Row versions that the index's table holds, dead ones included."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_size('indexing_remoteobject')")
        (size,) = cursor.fetchone()
    return int(size)


class TestAbsence:
    def test_what_was_known_two_days_before_is_gone(self, vault: Vault, vh: Vh) -> None:
        see(vault, "old", AS_OF - 49 * HOUR)
        see(vault, "recent", AS_OF - HOUR)
        see(vault, "later", AS_OF + HOUR)
        said = vh.rows([row("a")])
        assert (said["removed"], said["doubtful"]) == (1, 1)
        assert live(vault) == known("a", "later") | known("recent", doubtful=True)

    def test_ten_percent(self, vault: Vault, vh: Vh) -> None:
        keys = [f"k{number:03}" for number in range(100)]
        vh.rows([row(key) for key in keys])
        later = AS_OF + 24 * HOUR
        error = vh.rows([row(key) for key in keys[11:]], as_of=later, code=2)
        assert error["code"] == "removes_too_much"
        assert "11 of 100" in error["message"]
        assert live(vault) == known(*keys)
        assert vh.rows([row(key) for key in keys[10:]], as_of=later)["removed"] == 10
        assert vh.rows([row("k099")], "--replace", as_of=later + HOUR)["removed"] == 89
        assert live(vault) == known("k099")

    def test_what_is_refused_was_never_written(self, vault: Vault, vh: Vh) -> None:
        """Another bucket's keys lie near none of the index's: none of them is taken in before the guard has spoken."""
        vh.rows([row(f"k{number:03}") for number in range(100)])
        before = inserted()
        others = [row(f"z{number:04}") for number in range(2_000)]
        assert vh.rows(others, as_of=AS_OF + 24 * HOUR, code=2)["code"] == "removes_too_much"
        assert inserted() == before

    def test_rows_nobody_could_read_may_be_any(self, vault: Vault, vh: Vh) -> None:
        vh.rows([row("a"), row("b")])
        said = vh.rows([row("a"), ["torn"]], as_of=AS_OF + 72 * HOUR)
        assert (said["removed"], said["doubtful"]) == (0, 1)
        assert live(vault) == known("a") | known("b", doubtful=True)


class TestOrder:
    """An inventory is certain only up to 48 hours before it began."""

    def test_news_from_before_it_that_it_missed(self, vault: Vault, vh: Vh) -> None:
        vh.rows([row("a"), row("gone")])
        event(vault, Effect.CREATED, "a", AS_OF - HOUR, "new")
        event(vault, Effect.CREATED, "missed", AS_OF - HOUR, "e")
        event(vault, Effect.REMOVED, "gone", AS_OF - HOUR)
        assert live(vault) == known("a", etag="new") | known("missed")

    def test_news_that_came_before_it(self, vault: Vault, vh: Vh) -> None:
        event(vault, Effect.CREATED, "a", AS_OF - HOUR, "new")
        event(vault, Effect.REMOVED, "gone", AS_OF - HOUR)
        event(vault, Effect.CREATED, "older", AS_OF - HOUR, "old")
        vh.rows([row("a"), row("gone"), row("older", etag="newer", at=AS_OF - HOUR / 2)])
        assert live(vault) == known("a", etag="new") | known("older", etag="newer")

    def test_news_from_long_before_it_is_in_it(self, vault: Vault, vh: Vh) -> None:
        vh.rows([row("a")])
        event(vault, Effect.CREATED, "a", AS_OF - 50 * HOUR, "old")
        event(vault, Effect.CREATED, "b", AS_OF - 50 * HOUR, "old")
        assert live(vault) == known("a")

    def test_an_older_inventory_changes_nothing(self, vault: Vault, vh: Vh) -> None:
        vh.rows([row("a", etag="new", at=AS_OF - HOUR)])
        vh.rows([row("a", etag="old"), row("b")], as_of=AS_OF - 72 * HOUR)
        assert live(vault) == known("a", etag="new")
        assert IndexState.objects.get().snapshot_as_of == AS_OF

    def test_a_listing_within_the_two_days_knows_better(self, vault: Vault, vh: Vh) -> None:
        see(vault, "a", AS_OF - 100 * HOUR)
        IndexState.objects.update(complete=True, snapshot_as_of=AS_OF - HOUR, source="list_objects_v2")
        vh.rows([row("deleted"), row("new", at=AS_OF - HOUR / 2)])
        assert live(vault) == known("a", doubtful=True) | known("new")


def test_bad_rows_are_counted(vault: Vault, vh: Vh) -> None:
    said = vh.rows([row("a"), row("x" * 1025), [*row("b")[:2], "many", *row("b")[3:]], row("c")])
    assert (said["skipped"], said["rows_skipped"], said["objects_indexed"]) == ({"bad_key": 1, "bad_size": 1}, 2, 2)


def test_too_many_bad_rows_are_refused(vault: Vault, vh: Vh) -> None:
    good = [row(f"k{number}") for number in range(1000)]
    error = vh.rows([*good, *[["bucket", "x"]] * 11], code=2)
    assert error["code"] == "too_many_bad_rows"
    assert "inventory.csv, line 1002: wrong column count" in error["message"]
    assert not RemoteObject.objects.exists()
    assert Run.objects.get().status == "failed"
    assert vh.rows([*good, *[["bucket", "x"]] * 10])["rows_skipped"] == 10


@pytest.mark.parametrize(
    ("body", "options", "code", "said"),
    [
        (csv_bytes([HEADER, row("a"), row("b", bucket="other")]), (), "wrong_bucket", "line 3: "),
        (csv_bytes([row("a")]), (), "schema_missing", "no header"),
        (csv_bytes([row("a")]), ("--schema", "bucket,key"), "schema_invalid", "lacks size, etag"),
        (csv_bytes([row("a")]), ("--schema", "key,size,etag,Key"), "schema_invalid", "twice"),
        (b"", ("--schema", SCHEMA), "input_damaged", "empty"),
        (gzip.compress(b""), (), "schema_missing", "no header"),
        (gzip.compress(csv_bytes([HEADER, row("a")]))[:-9], (), "input_damaged", "the gzip stream ends too early"),
        (gzip.compress(b"x" * 3_000_000), ("--schema", SCHEMA), "input_damaged", "line 1: longer than"),
        (csv_bytes([HEADER, row("a")])[:-3], (), "input_damaged", "line 2: unexpected end of data"),
        (b"PAR1....PAR1", (), "input_damaged", "inventory.csv: cannot be read"),
        (b"ORC....", ("--schema", SCHEMA), "input_damaged", "inventory.csv: cannot be read"),
    ],
    ids=(f"case {number}" for number in range(11)),
)
def test_damage_and_other_buckets_are_refused(
    vault: Vault, vh: Vh, *, body: bytes, options: tuple[str, ...], code: str, said: str
) -> None:
    error = vh.raw(body, *options, code=2)
    assert error["code"] == code
    assert said in error["message"]
    assert not RemoteObject.objects.exists()
    assert not IndexState.objects.filter(complete=True).exists()


def test_damaged_deliveries_are_refused(vault: Vault, vh: Vh, tmp_path: Path) -> None:
    manifest = deliver(tmp_path, [[row("a")], [row("b")]], as_of=AS_OF)
    data = tmp_path / "inventories/bucket/all/data/part-1.csv.gz"
    body = data.read_bytes()
    data.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    assert "part-1.csv.gz" in vh("--manifest", str(manifest), code=2)["message"]
    data.write_bytes(body + b"x")
    assert f"{len(body) + 1} bytes" in vh("--manifest", str(manifest), code=2)["message"]
    data.write_bytes(csv_bytes([row("b")] * 2, zipped=True)[: len(body)].ljust(len(body), b"x"))
    vh("--manifest", str(manifest), code=2)
    data.unlink()
    assert "part-1.csv.gz is not there" in vh("--manifest", str(manifest), code=2)["message"]
    data.write_bytes(body)
    checksum = manifest.with_name("manifest.checksum")
    promised = checksum.read_text()
    checksum.write_text("0" * 32)
    assert "its MD5 is" in vh("--manifest", str(manifest), code=2)["message"]
    checksum.unlink()
    assert "not complete" in vh("--manifest", str(manifest), code=2)["message"]
    assert not RemoteObject.objects.exists()
    checksum.write_text(promised)
    assert vh("--manifest", str(manifest))["objects_indexed"] == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sourceBucket": "other"}, "wrong_bucket"),
        ({"fileFormat": "Avro"}, "format_unsupported"),
        ({"fileSchema": "Bucket, Key"}, "schema_invalid"),
        ({"files": [{"key": "../../etc/passwd", "size": 1, "MD5checksum": ""}]}, "input_damaged"),
        ({"creationTimestamp": "soon"}, "input_damaged"),
        ({"creationTimestamp": "99999999999999"}, "input_damaged"),
    ],
)
def test_manifests_of_something_else_are_refused(
    vault: Vault, vh: Vh, tmp_path: Path, *, changes: dict[str, Any], code: str
) -> None:
    manifest = deliver(tmp_path, [[row("a")]], as_of=AS_OF, changes=changes)
    assert vh("--manifest", str(manifest), code=2)["code"] == code


def test_options_that_do_not_go_together(vault: Vault, vh: Vh, tmp_path: Path) -> None:
    for options in (
        (),
        ("--file", "a", "--manifest", "b"),
        ("--file", "s3:///k"),
        ("--manifest", "m", "--schema", "x"),
    ):
        assert vh(*options, code=2)["code"] in {"invalid_value", "input_missing"}
    assert vh("--file", str(tmp_path), code=2)["code"] == "input_missing"
    assert vh.rows([row("a")], as_of=datetime(2999, 1, 1, tzinfo=UTC), code=2)["code"] == "invalid_value"
    Vault.objects.update(kind="local", api_key=None, bucket="", replica="/copy")
    assert vh("--file", "a", code=2)["code"] == "s3_only"
    assert not Run.objects.exists()
