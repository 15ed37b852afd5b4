"""Parquet and ORC say what their CSV says, row for row; types are read as they are, or refused by name."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import orc, parquet

from indexing.inventory import columns, loading
from indexing.inventory.csvs import Csv
from indexing.inventory.delivery import DataFile
from indexing.inventory.rows import Scope, Tally
from indexing.inventory.schema import schema_of, split
from tests.support.deliveries import SCHEMA, VERSIONS_SCHEMA, columns_bytes, csv_bytes, row, table_bytes
from vaulthalla.errors import Refused

FORMS = ("Parquet", "ORC")
STREAM = "ORC, as a stream"
BUCKET = Scope(bucket="bucket")


def read(
    raw: bytes, folder: Path, scope: Scope = BUCKET, names: list[str] | None = None
) -> tuple[list[tuple[Any, ...]], Tally]:
    file, tally = folder / "f", Tally()
    file.write_bytes(raw)
    with columns.opened(file, "f") as groups:
        source = columns.Columnar(groups=groups, scope=scope, tally=tally, names=names)
        return rows_of(source.tables()), tally


def rows_of(tables: Iterable[Any]) -> list[tuple[Any, ...]]:
    """In no order."""
    found: list[tuple[Any, ...]] = []
    for table in tables:
        found += zip(*[table[name].to_pylist() for name in table.column_names], strict=True)
    return sorted(found, key=str)


KEYS = [
    "a",
    "p/a",
    "p/q/b",
    "p/",
    "p/q/",
    "a b",
    "a+b",
    "%41",
    'a"b',
    "a,b",
    "a\\b",
    "ü/🎉",
    "",
    "x" * 1025,
    "a\tb",
    "\0",
]
CONTROL = [".vaulthalla/x", "p/.vaulthalla/x", "p/q/.vaulthalla", "p/" + "ü" * 511, "p/" + "ü" * 512]
cells = st.tuples(
    st.just("bucket"),
    st.sampled_from([*KEYS, *CONTROL]),
    st.sampled_from(["v1", "", "v\\"]),
    st.sampled_from(["true", "false"]),
    st.sampled_from(["false", "false", "true"]),
    st.sampled_from(["0", "5", str(2**63 - 1), "-1", ""]),
    st.sampled_from(["2026-01-31T00:00:00.000Z", "", "1960-01-01T00:00:00.000Z"]),
    st.sampled_from(["e1", '"e1"', "", "a-2", "e\n1"]),
    st.sampled_from(["STANDARD", "GLACIER_IR", ""]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(cells, max_size=8),
    st.sampled_from(["", "p/"]),
    st.sampled_from(["", "q/"]),
    st.sampled_from([*FORMS, STREAM]),
)
def test_what_columns_say_is_what_their_csv_says(
    tmp_path: Path, rows: list[tuple[str, ...]], prefix: str, part: str, form: str
) -> None:
    scope = Scope(bucket="bucket", prefix=prefix, part=part)
    encoded = [[bucket, row(key)[1], *rest] for bucket, key, *rest in rows]
    with pytest.MonkeyPatch.context() as patch:
        if form == STREAM:
            patch.setattr(columns, "ROWS_A_STRIPE", 0)
        found, counted = read(columns_bytes(encoded, VERSIONS_SCHEMA, form.partition(",")[0]), tmp_path, scope)
    expected = Tally()
    source = Csv(name="f", scope=scope, tally=expected, schema=schema_of(split(VERSIONS_SCHEMA), origin="here"))
    assert found == rows_of(source.tables(iter([csv_bytes(encoded)])))
    assert (counted.rows, counted.skipped, counted.bad) == (expected.rows, expected.skipped, expected.bad)


def table(**changes: Any) -> pa.Table:
    """One object, with some columns of other types."""
    plain = {"bucket": ["bucket"], "key": ["a"], "size": [5], "last_modified_date": [datetime(2026, 1, 1, tzinfo=UTC)]}
    return pa.table({**plain, "e_tag": ["e"], "storage_class": ["GLACIER"], **changes})


TIME = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": pa.array([5], pa.int32())},
        {"size": pa.array([5], pa.uint64())},
        {"size": pa.array([5], pa.uint8())},
        {"key": pa.array(["a"], pa.large_string())},
        {"key": pa.array([b"a"], pa.binary()), "e_tag": pa.array([b"e"], pa.large_binary())},
        {"key": pa.array(["a"]).dictionary_encode(), "storage_class": pa.array(["GLACIER"]).dictionary_encode()},
        {"key": pa.array(["a"], pa.string_view()), "bucket": pa.array([b"bucket"], pa.binary_view())},
        *({"last_modified_date": pa.array([TIME], pa.timestamp(unit, "UTC"))} for unit in ("s", "ms", "us", "ns")),
        {"last_modified_date": pa.array([TIME.replace(tzinfo=None)], pa.timestamp("ms"))},
        {"last_modified_date": pa.array([TIME], pa.timestamp("us", "Asia/Tokyo"))},
        {"last_modified_date": pa.array(["2026-01-01T12:00:00Z"])},
        {"is_latest": pa.array([True]), "is_delete_marker": pa.array([None], pa.bool_())},
        {"is_latest": pa.array(["true"]), "is_delete_marker": pa.nulls(1)},
        {"color": pa.array([[1, 2]])},
    ],
)
def test_physical_types(tmp_path: Path, changes: dict[str, Any]) -> None:
    (found,), tally = read(table_bytes(table(**changes), "Parquet"), tmp_path)
    assert found[:6] == ("a", "e", "GLACIER", "", "", 5)
    assert found[6] == (TIME if "last_modified_date" in changes else TIME.replace(hour=0))
    assert not tally.bad


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": pa.array([5.0])}, "column size is double; accepted is an integer"),
        ({"size": pa.array(["5"])}, "column size is string; accepted is an integer"),
        ({"key": pa.array([1])}, "column key is int64; accepted is text"),
        ({"last_modified_date": pa.array([5])}, "column last_modified_date is int64; accepted is a timestamp"),
        ({"is_latest": pa.array([1])}, "column is_latest is int64; accepted is a boolean"),
    ],
)
def test_other_types_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused) as caught:
        read(table_bytes(table(**changes), "Parquet"), tmp_path)
    assert caught.value.code == "schema_invalid"
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": pa.array([b"\xff"], pa.binary())}, "key not text"),
        ({"size": pa.array([None], pa.int64())}, "bad size"),
        ({"size": pa.array([2**63], pa.uint64())}, "bad size"),
        ({"e_tag": pa.nulls(1)}, "bad etag"),
        ({"last_modified_date": pa.array([2**62], pa.timestamp("us"))}, "bad time"),
        ({"is_latest": pa.array(["maybe"])}, "bad flag"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    found, tally = read(table_bytes(table(**changes), "Parquet"), tmp_path)
    assert (found, tally.rows, tally.first_bad) == ([], 1, [f"f, row group 1, row 1: {reason}"])


@pytest.mark.parametrize("form", FORMS)
def test_another_bucket_is_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(Refused, match="row group 1, row 2: this is an inventory of 'other'"):
        read(columns_bytes([row("a"), row("b", bucket="other")], SCHEMA, form), tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_torn_files_are_refused(tmp_path: Path, form: str) -> None:
    raw = columns_bytes([row(f"key {number} {number * 7919}") for number in range(500)], SCHEMA, form)
    for torn in (raw[: len(raw) // 2], raw[:6], raw[:-1], raw[:100] + bytes(400) + raw[500:]):
        with pytest.raises(Refused) as caught:
            read(torn, tmp_path)
        assert caught.value.code == "input_damaged"


def many(count: int) -> pa.Table:
    return pa.concat_tables([table(key=[f"k{number}"]) for number in range(count)]).combine_chunks()


def without_a_page() -> bytes:
    """Parquet whose first page says that it is of no kind: pyarrow passes over it."""
    into = io.BytesIO()
    parquet.write_table(many(300), into, use_dictionary=False, compression="gzip")
    raw = bytearray(into.getvalue())
    assert raw[4:6] == b"\x15\x00"
    raw[5] = 77
    return bytes(raw)


def without_a_stripe(stripes: int) -> bytes:
    """ORC of so many stripes of 100 rows, whose footer has lost the first."""
    into = io.BytesIO()
    options = {"stripe_size": 1, "batch_size": 100, "compression": "uncompressed"}
    orc.write_table(many(stripes * 100), into, **options)
    raw = bytearray(into.getvalue())
    # It begins at byte 3 of the file. Its tag becomes one of a field that nobody knows.
    tag = raw.rindex(b"\x08\x03\x10") - 2
    assert raw[tag] == 0x1A
    raw[tag] = 0x7A
    return bytes(raw)


@pytest.mark.parametrize("form", [*FORMS, STREAM])
def test_files_that_lost_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    if form == STREAM:
        monkeypatch.setattr(columns, "ROWS_A_STRIPE", 0)
    for raw in [without_a_page()] if form == "Parquet" else [without_a_stripe(1), without_a_stripe(3)]:
        with pytest.raises(Refused, match=r"has \d+ rows, not the \d+ that it says") as caught:
            read(raw, tmp_path)
        assert caught.value.code == "input_damaged"


def test_a_file_that_lost_rows_is_not_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ROWS_A_CHUNK", 150)
    raw = without_a_stripe(4)
    (tmp_path / "f").write_bytes(raw)
    with pytest.raises(Refused, match="has 300 rows, not the 400 that it says"):
        loading._lots(DataFile(name="f", size=len(raw), path=str(tmp_path / "f")))


def test_row_groups_by_themselves(tmp_path: Path) -> None:
    raw = columns_bytes([row(f"k{number}") for number in range(10)], SCHEMA, "Parquet", row_group_size=4)
    (tmp_path / "f").write_bytes(raw)
    with columns.opened(tmp_path / "f", "f") as groups:
        assert list(groups.rows) == [4, 4, 2]
        source = columns.Columnar(groups=groups, scope=BUCKET, tally=Tally())
        parts = [len(rows_of(source.tables(first, last))) for first, last in ((0, 1), (1, 2), (2, None))]
    assert parts == [4, 4, 2]


def test_a_large_stripe_is_never_held_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = columns_bytes([row(f"k{number}") for number in range(10)], SCHEMA, "ORC")
    whole = read(raw, tmp_path)[0]
    monkeypatch.setattr(columns, "ROWS_A_STRIPE", 9)
    monkeypatch.setattr(columns, "BATCH", 4)
    with columns.opened(tmp_path / "f", "f") as groups:
        assert list(groups.rows) == [10]
        assert [batch.num_rows for batch in groups.read(0, ["key"])] == [4, 4, 2]
    assert read(raw, tmp_path)[0] == whole


def test_names_where_the_file_has_none(tmp_path: Path) -> None:
    raw = table_bytes(table().rename_columns([f"_col{number}" for number in range(6)]), "ORC")
    with pytest.raises(Refused, match="lacks key, size, etag"):
        read(raw, tmp_path)
    found, _ = read(raw, tmp_path, names=split("bucket,key,size,last_modified_date,etag,storage_class"))
    assert len(found) == 1
    with pytest.raises(Refused, match="has 6 columns, --schema names 3"):
        read(raw, tmp_path, names=["key", "size", "etag"])
