"""Rows of an inventory: the short way says what the long way says, and what cannot be used is named."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexing.inventory.rows import Csv, Plain, Scope, Tally
from indexing.inventory.schema import Schema, schema_of
from tests.support.deliveries import csv_bytes, row

HEADER = ["bucket", "key", "size", "last_modified_date", "etag", "storage_class"]
SCHEMA = schema_of(HEADER, origin="here")


def lines(text: str, *, scope: Scope | None = None, schema: Schema | None = SCHEMA) -> tuple[str, Tally]:
    tally = Tally()
    source = Csv(name="f.csv", scope=scope or Scope(bucket="bucket"), tally=tally, schema=schema)
    return "".join(source.blocks(io.StringIO(text, newline=""))), tally


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


@given(
    st.lists(cells, min_size=1, max_size=5),
    st.sampled_from(["", "p/"]),
    st.sampled_from(["", "q/"]),
    st.booleans(),
)
def test_the_short_way_says_what_the_long_way_says(
    rows: list[tuple[str, ...]], prefix: str, part: str, quoted: bool
) -> None:
    text = csv_bytes(rows).decode("utf-8", "surrogateescape") if quoted else "".join(map(_bare, rows))
    scope = Scope(bucket="bucket", prefix=prefix, part=part)
    short, counted = lines(text, scope=scope)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plain, "line", lambda self, line: None)
        patch.setattr(Plain, "lines", lambda self, text: None)
        long, expected = lines(text, scope=scope)
    assert short == long
    assert (counted.rows, counted.skipped, counted.bad) == (expected.rows, expected.skipped, expected.bad)
    assert counted.first_bad == expected.first_bad


def _bare(row: tuple[str, ...]) -> str:
    plain = [cell if not set(cell) & set('",\n') else '"' + cell.replace('"', '""') + '"' for cell in row]
    return ",".join(plain) + "\r\n"


def test_most_rows_go_the_short_way() -> None:
    plain = Plain.of(SCHEMA, Scope(bucket="bucket", prefix="p/"))
    text = csv_bytes([row("p/folder/name-1.jpg", etag="0123abc-7")]).decode()
    assert plain.line(text) == "folder/name-1.jpg\t0123abc-7\tSTANDARD\t\t\t5\t2026-01-01T00:00:00.000Z\n"
    assert plain.line(text.replace('"', "")) == plain.line(text)
    assert plain.line(text.rstrip("\n")) is None


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
        ({4: ""}, "bad_etag"),
    ],
)
def test_bad_rows_are_named(cells: dict[int, str], reason: str) -> None:
    bad = row("bad")
    for position, cell in cells.items():
        bad[position] = cell
    text, tally = lines(csv_bytes([row("a"), bad, row("b")]).decode("utf-8", "surrogateescape"))
    assert (text.count("\n"), tally.rows, dict(tally.bad)) == (2, 3, {reason: 1})
    assert tally.first_bad == [f"f.csv, line 2: {reason.replace('_', ' ')}"]


def test_a_row_may_span_lines() -> None:
    text, tally = lines('"bucket","a\nb","5","","e","STANDARD"\n\nbucket,c,5,,e,STANDARD\nbucket,torn\n')
    assert text == "a\\nb\te\tSTANDARD\t\t\t5\t\\N\nc\te\tSTANDARD\t\t\t5\t\\N\n"
    assert tally.first_bad == ["f.csv, line 5: wrong column count"]


@pytest.mark.parametrize(
    ("header", "positions"),
    [
        ("Bucket, Key, Size, ETag", {"bucket": 0, "key": 1, "size": 2, "etag": 3}),
        ("etag,SIZE,color,key,Last Modified Date", {"etag": 0, "size": 1, "key": 3, "last_modified": 4}),
    ],
)
def test_columns_by_name(header: str, positions: dict[str, Any]) -> None:
    assert schema_of(header.split(","), origin="here").positions == positions
