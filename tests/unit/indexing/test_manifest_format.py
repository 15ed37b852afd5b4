"""What is written is read back, and nothing else is."""

from __future__ import annotations

import io
import zlib
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexing.manifest.format import (
    GZIP,
    MOST_LINE_BYTES,
    ROWS_HEADER,
    Entry,
    Facts,
    Pack,
    Retired,
    Root,
    Row,
    Unusable,
    as_json,
    decode_root,
    encode_root,
    of_json,
    unpack,
    verify,
)

AT = datetime(2026, 11, 27, 1, 2, 3, 4, tzinfo=UTC)
DELTA = f"delta-{'0' * 32}.gz"

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
keys = texts.filter(lambda key: key and not key.startswith(".vaulthalla/"))
micros = st.integers(min_value=-(10**15), max_value=10**16)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
rows = st.builds(
    Row,
    keys,
    micros,
    st.booleans(),
    st.integers(min_value=0, max_value=2**50),
    texts,
    st.none() | micros,
    texts,
    texts,
    st.sampled_from(["", "ongoing", "active"]),
    st.none() | micros,
    texts,
    texts,
    st.none() | digests,
    st.none() | st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.none() | micros,
)
tables = st.lists(rows, min_size=1, max_size=20, unique_by=lambda row: row.key).map(
    lambda some: sorted(some, key=lambda row: row.key.encode())
)


def row(key: str, **facts: object) -> Row:
    plain = Row(key, 1, False, 3, "x", None, "STANDARD", "", "", None, "", "", None, None, None)
    return msgspec.structs.replace(plain, **facts)  # type: ignore[arg-type]


def pack_of(table: list[Row]) -> tuple[bytes, Entry]:
    file = io.BytesIO()
    pack = Pack(name=DELTA, file=file)
    for one in table:
        pack.add([one])
    entry = pack.finish()
    return file.getvalue(), entry


def entry(name: str, first: str = "a", last: str = "b") -> Entry:
    return Entry(name=name, sha256="0" * 64, bytes=10, unpacked=20, rows=1, first=first, last=last)


def root(**members: object) -> Root:
    plain = Root(
        bucket="bucket",
        prefix="photos/",
        writer=None,
        generated_at=AT,
        object_count=1,
        total_bytes=3,
        facts=Facts(complete=True, snapshot_as_of=AT, floor_at=None, events_through=AT + timedelta(hours=1)),
        shards=(entry(f"shard-{'1' * 32}.gz"),),
        deltas=(entry(DELTA),),
        retired=(Retired(name=f"delta-{'2' * 32}.gz", at=AT),),
    )
    return msgspec.structs.replace(plain, **members)  # type: ignore[arg-type]


def read(raw: bytes) -> Root:
    return decode_root(raw, bucket="bucket", prefix="photos/")


@settings(max_examples=100, deadline=None)
@given(tables)
def test_rows_travel_as_they_are(table: list[Row]) -> None:
    body, named = pack_of(table)
    verify(io.BytesIO(body), named)
    assert list(unpack(io.BytesIO(body), named)) == table
    assert (named.rows, named.first, named.last) == (len(table), table[0].key, table[-1].key)


@settings(max_examples=200, deadline=None)
@given(tables, st.data())
def test_any_tampered_byte_of_an_object_is_refused(table: list[Row], data: st.DataObject) -> None:
    body, named = pack_of(table)
    place = data.draw(st.integers(min_value=0, max_value=len(body) - 1))
    other = bytearray(body)
    other[place] ^= data.draw(st.integers(min_value=1, max_value=255))
    for wrong in (bytes(other), body[:place], body + b"\0"):
        with pytest.raises(Unusable):
            verify(io.BytesIO(wrong), named)


def test_the_root_travels_as_it_is() -> None:
    assert read(encode_root(root())) == root()
    assert of_json(as_json(root())) == root()
    assert of_json(None) is None


def test_any_tampered_byte_of_the_root_is_refused() -> None:
    raw = encode_root(root())
    for place in range(len(raw)):
        for flipped in (1, 0x20, 0x80):
            other = bytearray(raw)
            other[place] ^= flipped
            with pytest.raises(Unusable):
                read(bytes(other))
        with pytest.raises(Unusable):
            read(raw[:place])
    with pytest.raises(Unusable):
        read(raw + b"\n")


def test_who_refuses_says_why() -> None:
    raw = encode_root(root())
    for wrong, code in (
        (raw.replace(b'"version":1', b'"version":2'), "manifest_newer"),
        (b'{"format":"vaulthalla-manifest","version":7,"unheard":"of"}', "manifest_newer"),
        (b'{"format":"else","version":1}', "manifest_damaged"),
        (b"", "manifest_damaged"),
        (b"\xff\xfe", "manifest_damaged"),
        (b'{"a":' * 3_000, "manifest_damaged"),
        (b'{"format":"vaulthalla-manifest","version":1,"manifest":' + b"[" * 3_000, "manifest_damaged"),
        (encode_root(root(bucket="other")), "manifest_foreign"),
        (encode_root(root(prefix="")), "manifest_foreign"),
        (encode_root(root(deltas=(entry(DELTA), entry(DELTA)))), "manifest_damaged"),
        (
            encode_root(root(shards=(entry(f"shard-{'1' * 32}.gz"), entry(f"shard-{'3' * 32}.gz", "b", "c")))),
            "manifest_damaged",
        ),
        (encode_root(root(deltas=(msgspec.structs.replace(entry(DELTA), unpacked=2**40),))), "manifest_damaged"),
        (encode_root(root(deltas=(entry("../../else"),))), "manifest_damaged"),
    ):
        with pytest.raises(Unusable) as refusal:
            read(wrong)
        assert refusal.value.code == code


def squeezed(lines: bytes) -> bytes:
    zipper = zlib.compressobj(9, zlib.DEFLATED, GZIP)
    return zipper.compress(lines) + zipper.flush()


def line(one: Row) -> bytes:
    return msgspec.json.encode(one) + b"\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        ROWS_HEADER,
        line(row("a")),
        ROWS_HEADER + line(row("b")) + line(row("a")),
        ROWS_HEADER + line(row("a")) + line(row("a")),
        ROWS_HEADER + line(row("a")) + line(row("b"))[:-1],
        ROWS_HEADER + line(row("a")) + b"[]\n",
        ROWS_HEADER + line(row("a")) + b"\n",
        ROWS_HEADER + line(row("a")) + line(row("b", etag="\0")),
        ROWS_HEADER + line(row(".vaulthalla/x")) + line(row("b")),
        ROWS_HEADER + line(row("a")) + line(row("b", size=-1)),
        ROWS_HEADER + line(row("a")) + line(row("b", sha256="short")),
        ROWS_HEADER + line(row("a")) + line(row("b"))[:-2] + b"," + b"[" * 3_000 + b"\n",
        ROWS_HEADER + line(row("a")) + b"[" * 3_000 + b"\n",
        ROWS_HEADER + b" " * (MOST_LINE_BYTES * 8),
    ],
)
def test_what_publishers_never_write_is_refused(lines: bytes) -> None:
    """Even under the right checksum."""
    body = squeezed(lines)
    named = Entry(name=DELTA, sha256="0" * 64, bytes=len(body), unpacked=len(lines), rows=2, first="a", last="b")
    with pytest.raises(Unusable):
        list(unpack(io.BytesIO(body), named))


def test_what_unpacks_to_more_than_it_says_stops_early() -> None:
    body = squeezed(ROWS_HEADER + b"x" * 10**8)
    named = Entry(name=DELTA, sha256="0" * 64, bytes=len(body), unpacked=1_000, rows=1, first="a", last="a")
    with pytest.raises(Unusable, match="more than"):
        list(unpack(io.BytesIO(body), named))
