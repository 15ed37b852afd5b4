"""Rows of an inventory: the short way says what the long way says, and what cannot be used is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexing.inputs import Damaged
from indexing.inventory import csvs
from indexing.inventory.csvs import Csv
from indexing.inventory.rows import Scope, Tally
from indexing.inventory.schema import Schema, schema_of
from tests.support.deliveries import csv_bytes, row

HEADER = ["bucket", "key", "size", "last_modified_date", "etag", "storage_class"]
SCHEMA = schema_of(HEADER, origin="here")
VERSIONED = schema_of([*HEADER, "version_id", "is_latest", "is_delete_marker"], origin="here")
NEW_YEAR = 1_767_225_600_000_000


def rows(
    content: bytes, *, scope: Scope | None = None, schema: Schema | None = SCHEMA, piece: int = 10_000
) -> tuple[list[tuple[Any, ...]], Tally]:
    """What is kept of a file that comes in pieces, with times in microseconds."""
    tally = Tally()
    source = Csv(name="f.csv", scope=scope or Scope(bucket="bucket"), tally=tally, schema=schema)
    found: list[tuple[Any, ...]] = []
    for table in source.tables(pieces(content, piece)):
        columns = [table[name].to_pylist() for name in table.column_names[:-1]]
        columns.append(table["last_modified"].cast("int64").to_pylist())
        found += zip(*columns, strict=True)
    return found, tally


def pieces(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


KEYS = ["a", "p/a", "p/q/b", "p/", "p/q/", "a+b", "a%2Bb", "%FF", 'a"b', "a,b", "a\\b", "ü", "", "x" * 1025, "a\nb"]
CONTROL = [".vaulthalla/x", "p/.vaulthalla/x", "p/q/.vaulthalla", "a b", "~!{}|"]
TIMES = ["2026-01-31T00:00:00.000Z", "2026-02-28T23:59:59Z", "2026-02-30T00:00:00.000Z", "", "2026-01-01"]
ODD_TIMES = ["2026-13-01T00:00:00.000Z", "2026-01-01T24:00:00.000Z", "2026-01-01T00:00:00.000+02:00"]
cells = st.tuples(
    st.sampled_from(["bucket"]),
    st.sampled_from([*KEYS, *CONTROL]),
    st.sampled_from(["0", "5", "007", "9" * 18, "9" * 19, "-1", "", "5 ", "\u0663"]),
    st.sampled_from([*TIMES, *ODD_TIMES]),
    st.sampled_from(["e1", '"e1"', "", "a-2", "e 1"]),
    st.sampled_from(["STANDARD", "GLACIER_IR", "", "x"]),
)


flags = st.sampled_from(["true", "false", "False", "", "maybe"])


@settings(deadline=None)
@given(
    many=st.lists(st.tuples(cells, st.sampled_from(["", "v1"]), flags, flags), min_size=1, max_size=5),
    prefix=st.sampled_from(["", "p/"]),
    part=st.sampled_from(["", "q/"]),
    quoting=st.sampled_from(["quoted", "bare", "mixed"]),
    end=st.sampled_from(["\n", "\r\n"]),
    versions=st.booleans(),
    piece=st.sampled_from([7, 60, 10_000]),
)
def test_the_short_way_says_what_the_long_way_says(
    *,
    many: list[tuple[tuple[str, ...], str, str, str]],
    prefix: str,
    part: str,
    quoting: str,
    end: str,
    versions: bool,
    piece: int,
) -> None:
    written = [(*row, *rest) if versions else row for row, *rest in many]
    lines = [
        _quoted(row) if quoting == "quoted" or (quoting == "mixed" and n % 2) else _bare(row)
        for n, row in enumerate(written)
    ]
    content = "".join(line + end for line in lines).encode("utf-8", "surrogateescape")
    scope = Scope(bucket="bucket", prefix=prefix, part=part)
    schema = VERSIONED if versions else SCHEMA
    short, counted = rows(content, scope=scope, schema=schema, piece=piece)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csvs._Blocks, "table", lambda *_: None)
        long, expected = rows(content, scope=scope, schema=schema)
    assert sorted(short, key=str) == sorted(long, key=str)
    assert (counted.rows, counted.skipped, counted.bad) == (expected.rows, expected.skipped, expected.bad)
    assert sorted(counted.first_bad) == sorted(expected.first_bad)


def _quoted(row: tuple[str, ...]) -> str:
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in row)


def _bare(row: tuple[str, ...]) -> str:
    return ",".join(cell if not set(cell) & set('",\n') else _quoted((cell,)) for cell in row)


def test_most_blocks_go_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvs, "_one_by_one", None)
    some = [row("p/folder/name-1.jpg", etag="0123abc-7"), row("p/ü b")]
    kept = [
        ("folder/name-1.jpg", "0123abc-7", "STANDARD", "", "", 5, NEW_YEAR),
        ("ü b", "e", "STANDARD", "", "", 5, NEW_YEAR),
    ]
    scope = Scope(bucket="bucket", prefix="p/")
    quoted = csv_bytes([some[0], *some])
    for content in (quoted, quoted.replace(b"\n", b"\r\n"), quoted.replace(b'"', b"")):
        assert rows(content, scope=scope)[0] == [kept[0], *kept]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({1: ""}, "bad_key"),
        ({1: "x" * 1025}, "bad_key"),
        ({1: "%FF"}, "key_not_text"),
        ({1: "a%00b"}, "key_not_text"),
        ({1: "\udcff"}, "key_not_text"),
        ({2: ""}, "bad_size"),
        ({2: "-1"}, "bad_size"),
        ({2: "99999999999999999999"}, "bad_size"),
        ({3: "yesterday"}, "bad_time"),
        ({3: "2026-13-01T00:00:00.000Z"}, "bad_time"),
        ({3: "0001-01-01T00:00:00+14:00"}, None),
        ({3: "9999-12-31T23:59:59-14:00"}, None),
        ({3: "10000-01-01T00:00:00Z"}, "bad_time"),
        ({3: "0000-01-01T00:00:00Z"}, "bad_time"),
        ({4: ""}, "bad_etag"),
        ({4: "e\0"}, "key_not_text"),
        ({5: "\udcff"}, "key_not_text"),
    ],
)
def test_bad_rows_are_named(cells: dict[int, str], reason: str | None) -> None:
    bad = row("bad")
    for position, cell in cells.items():
        bad[position] = cell
    found, tally = rows(csv_bytes([row("a"), bad, row("b")]))
    assert (len(found), tally.rows, dict(tally.bad)) == (2 if reason else 3, 3, {reason: 1} if reason else {})
    assert tally.first_bad == ([f"f.csv, line 2: {reason.replace('_', ' ')}"] if reason else [])


def test_a_row_may_span_lines() -> None:
    content = b'"bucket","a\nb","5","","e","STANDARD"\n\nbucket,c,5,,e,STANDARD\nbucket,torn\n'
    for piece in (10_000, 9, 1):
        found, tally = rows(content, piece=piece)
        assert [kept[0] for kept in found] == ["a\nb", "c"]
        assert tally.first_bad == ["f.csv, line 5: wrong column count"]


@pytest.mark.parametrize("length", [csvs.LONGEST_LINE, csvs.LONGEST_LINE * 5])
def test_a_line_without_an_end_is_no_row(length: int) -> None:
    with pytest.raises(Damaged, match="line 2: longer than"):
        rows(csv_bytes([row("a")]) + b"x" * length, piece=2**18)


def test_blank_lines_without_an_end_are_no_rows() -> None:
    with pytest.raises(Damaged, match=f"line {csvs.MOST_BLANK_LINES + 2}: blank lines"):
        rows(csv_bytes([row("a")]) + b"\n" * csvs.MOST_BLANK_LINES * 2, piece=2**18)
    some = b"\n" * (csvs.MOST_BLANK_LINES // 2)
    assert len(rows(some.join([csv_bytes([row(key)]) for key in "abc"]) + some, piece=2**18)[0]) == 3


def test_a_mark_of_the_byte_order_is_no_content() -> None:
    assert [kept[0] for kept in rows(csvs.BOM + csv_bytes([row("a")]))[0]] == ["a"]


@pytest.mark.parametrize(
    ("header", "positions"),
    [
        ("Bucket, Key, Size, ETag", {"bucket": 0, "key": 1, "size": 2, "etag": 3}),
        ("etag,SIZE,color,key,Last Modified Date", {"etag": 0, "size": 1, "key": 3, "last_modified": 4}),
    ],
)
def test_columns_by_name(header: str, positions: dict[str, Any]) -> None:
    assert schema_of(header.split(","), origin="here").positions == positions
