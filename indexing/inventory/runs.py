"""What an import sorts by itself, so that the database need not: sorted runs, their merge, and rows as it reads them.

Rows are gathered up to some memory, sorted by key, and kept in pieces; a run is the pieces of one sort. Read back in
the order of their first keys, the pieces of all runs give all rows in order. No database. Tables are of
`batches.KEPT`; keys sort as bytes, like the index's own.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from indexing.digests import BETWEEN, EPOCH_MICROS, OPTIONAL, of_columns
from indexing.inventory.batches import raw
from indexing.inventory.rows import EPOCH, MICROSECOND

# A process holds a few runs at most while it loads, and a piece of each while it merges.
RUN_BYTES = 8 * 2**20
PIECE_BYTES = 2**15
TABLES_A_LOOK = 16
# Rows that are sorted together in a merge, at least.
MERGED_BYTES = 4 * 2**20
# Rows that are compared by one digest: enough to be cheap, few enough that one difference costs little.
ROWS_A_DIGEST = 128
_TEXTS = ("key", "etag", "storage_class", "version_id", "archive_status")
_WRITTEN = pa.ipc.IpcWriteOptions(compression="lz4")
_LENGTHS = pa.array([n.to_bytes(4, "big") for n in range(2048)], pa.binary())
_NULL = b"\xff\xff\xff\xff"

Piece = tuple[str, bytes]


def sorted_runs(tables: Iterable[Any]) -> Iterator[list[Piece]]:
    """All rows as runs; now and then an empty one, so that whoever waits for the next can look up."""
    gathered: list[Any] = []
    size = 0
    for number, table in enumerate(tables, 1):
        gathered.append(table)
        size += table.nbytes
        if size >= RUN_BYTES:
            yield sorted_run(gathered)
            gathered, size = [], 0
        elif number % TABLES_A_LOOK == 0:
            yield []
    yield sorted_run(gathered)


def sorted_run(tables: Sequence[Any]) -> list[Piece]:
    """One run: the first key and the bytes of each piece."""
    table = _sorted(tables)
    if not table.num_rows:
        return []
    rows = max(1, PIECE_BYTES * table.num_rows // max(1, table.nbytes))
    parts = (table.slice(start, rows) for start in range(0, table.num_rows, rows))
    return [(part["key"][0].as_py(), _packed(part)) for part in parts]


def merged(pieces: Iterable[Piece]) -> Iterator[Any]:
    """All rows of all runs by key, of each key the newest one; `pieces` in the order of their first keys."""
    held: list[Any] = []
    size, due = 0, MERGED_BYTES
    for first, piece in pieces:
        if size >= due:
            # No piece to come holds an earlier key.
            table = _newest(_sorted(held))
            cut = _position(table["key"], first)
            if cut:
                yield from _parts(table.slice(0, cut))
            rest = table.slice(cut)
            held, size = [rest], rest.nbytes
            # Else what many runs hold back would be sorted again for each piece.
            due = max(MERGED_BYTES, 2 * size)
        held.append(_unpacked(piece))
        size += held[-1].nbytes
    table = _sorted(held)
    if table.num_rows:
        yield from _parts(_newest(table))


def _parts(table: Any) -> Iterator[Any]:
    """So much at once as is cheap to make rows of, several times over."""
    rows = max(1, MERGED_BYTES * table.num_rows // max(1, table.nbytes))
    return (table.slice(start, rows) for start in range(0, table.num_rows, rows))


def _packed(table: Any) -> bytes:
    into = pa.BufferOutputStream()
    with pa.ipc.new_stream(into, table.schema, options=_WRITTEN) as stream:
        stream.write_table(table)
    packed: bytes = into.getvalue().to_pybytes()
    return packed


def _unpacked(piece: bytes) -> Any:
    with pa.ipc.open_stream(piece) as stream:
        return stream.read_all()


def _sorted(tables: Sequence[Any]) -> Any:
    if not tables:
        return pa.table({"key": pa.array([], pa.string())})
    table = pa.concat_tables(tables).combine_chunks()
    key = table["key"]
    if pc.all(pc.less_equal(key.slice(0, max(0, len(key) - 1)), key.slice(1))).as_py() in (True, None):
        return table
    return table.take(pc.sort_indices(key)).combine_chunks()


def _position(keys: Any, key: str) -> int:
    """How many of the sorted keys come before `key`."""
    wanted, low, high = key.encode(), 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        if keys[middle].as_py().encode() < wanted:
            low = middle + 1
        else:
            high = middle
    return low


def _newest(table: Any) -> Any:
    """One row a key."""
    key = table["key"]
    if table.num_rows < 2 or pc.all(pc.not_equal(key.slice(0, len(key) - 1), key.slice(1))).as_py():
        return table
    by = [("key", "ascending", "at_end"), ("last_modified", "descending", "at_end")]
    table = table.take(pc.sort_indices(table, sort_keys=by)).combine_chunks()
    key = table["key"]
    news = pc.not_equal(key.slice(0, len(key) - 1), key.slice(1)).combine_chunks()
    return table.filter(pa.concat_arrays([pa.array([True]), news]))


# --- rows as PostgreSQL's binary formats have them


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Some rows in blocks of ROWS_A_DIGEST: the keys after and up to which each lies, and its digest.

    `told`: of `digests.OPTIONAL`, what any of the rows has.
    """

    table: Any
    clock: Clock
    spans: Sequence[tuple[str, str]]
    digests: Sequence[str]
    told: frozenset[str]

    def newer(self, numbers: Sequence[int], than: datetime) -> list[int]:
        """Of these blocks, those whose rows all count as seen after `than`."""
        observed, least = self.clock.observed(self.table), (than - EPOCH) // MICROSECOND
        return [n for n in numbers if pc.min(observed.slice(n * ROWS_A_DIGEST, ROWS_A_DIGEST)).as_py() > least]

    def copied(self, numbers: Sequence[int], *, vault_id: int, revision: int) -> Copied:
        """The rows of these blocks as live rows of the index."""
        return next(copied([self._of(numbers)], self.clock, vault_id=vault_id, revision=revision))

    def rows(self, numbers: Sequence[int]) -> bytes:
        """The rows of these blocks as `inventory_suspects` has them."""
        table = self._of(numbers)
        columns = [_text(_column(table, name)) for name in _TEXTS]
        columns += [_integer(_column(table, "size")), _time(_column(table, "last_modified"))]
        columns.append(_time(self.clock.observed(table)))
        return raw(_joined([(len(columns)).to_bytes(2, "big"), *chain.from_iterable(columns)], table.num_rows))

    def _of(self, numbers: Sequence[int]) -> Any:
        parts: list[list[int]] = []
        for number in numbers:
            if parts and parts[-1][1] == number:
                parts[-1][1] += 1
            else:
                parts.append([number, number + 1])
        slices = (self.table.slice(first * ROWS_A_DIGEST, (end - first) * ROWS_A_DIGEST) for first, end in parts)
        return pa.concat_tables(slices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """When a row of an inventory that began at `as_of` counts as seen (`sql` tells why)."""

    as_of: datetime
    settled: datetime

    def observed(self, table: Any) -> Any:
        """Microseconds since 1970."""
        modified = _column(table, "last_modified").cast(pa.int64())
        known = pc.max_element_wise(modified, (self.settled - EPOCH) // MICROSECOND)
        return pc.min_element_wise(known, (self.as_of - EPOCH) // MICROSECOND)


def digested(tables: Iterable[Any], clock: Clock) -> Iterator[Blocks]:
    """All rows in order, table by table, with their digests (`indexing.digests`)."""
    after = ""
    for table in tables:
        told = frozenset(name for name in OPTIONAL if raw(_column(table, name)))
        texts = [_by_block(_column(table, name), BETWEEN) for name in _TEXTS if name in told or name not in OPTIONAL]
        sizes = _by_block(_swapped(_column(table, "size")), b"")
        times = _by_block(_known_times(_column(table, "last_modified")), b"")
        ends = [*range(ROWS_A_DIGEST, table.num_rows, ROWS_A_DIGEST), table.num_rows]
        last = [table["key"][end - 1].as_py() for end in ends]
        yield Blocks(
            table=table,
            clock=clock,
            spans=list(zip([after, *last[:-1]], last, strict=True)),
            digests=[
                of_columns(end - n * ROWS_A_DIGEST, (text[n] for text in texts), sizes[n], times[n])
                for n, end in enumerate(ends)
            ],
            told=told,
        )
        after = last[-1]


def _known_times(column: Any) -> Any:
    """As `indexing.digests` has them."""
    times = _swapped(pc.subtract(column.cast(pa.int64()), EPOCH_MICROS))
    return pc.if_else(pc.is_valid(column), times, pa.scalar(b"\0", pa.binary())) if column.null_count else times


def _by_block(column: Any, between: bytes) -> list[bytes]:
    """The values of each block as one."""
    count = len(column)
    offsets = pa.array([*range(0, count, ROWS_A_DIGEST), count], pa.int32())
    blocks = pa.ListArray.from_arrays(offsets, column.cast(pa.binary()))
    joined: list[bytes] = pc.binary_join(blocks, between).to_pylist()
    return joined


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """Rows as COPY reads them in binary, and what they add up to."""

    body: bytes
    rows: int
    size: int


def copied(tables: Iterable[Any], clock: Clock, *, vault_id: int, revision: int) -> Iterator[Copied]:
    """Live rows of the index, in the columns of `sql.INDEXED`."""
    for table in tables:
        parts: list[Any] = [(15).to_bytes(2, "big"), _int4(8), vault_id.to_bytes(8, "big")]
        parts += [*_text(_column(table, "key")), *_integer(_column(table, "size")), *_text(_column(table, "etag"))]
        parts += [*_time(_column(table, "last_modified")), *_text(_column(table, "storage_class"))]
        parts += [*_text(_column(table, "archive_status")), *_text(_column(table, "version_id"))]
        parts += [*_time(clock.observed(table)), _int4(9), b"inventory", _int4(8), revision.to_bytes(8, "big")]
        # Neither restore nor sequencer; neither tombstone nor doubtful.
        parts += [_int4(0), _int4(0), _int4(1), b"\0", _int4(1), b"\0"]
        body = raw(_joined(parts, table.num_rows))
        yield Copied(body=body, rows=table.num_rows, size=pc.sum(table["size"]).as_py() or 0)


def _column(table: Any, name: str) -> Any:
    whole = table[name].combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _int4(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _text(column: Any) -> list[Any]:
    """Length and bytes of each."""
    if not column.null_count and pc.all(pc.equal(column, column[0])).as_py():
        same = column[0].as_py().encode()
        return [_int4(len(same)), same]
    lengths = pc.binary_length(column)
    if (pc.max(lengths).as_py() or 0) < len(_LENGTHS):
        return [_LENGTHS.take(lengths), column.cast(pa.binary())]
    return [pa.array([_int4(length) for length in lengths.to_pylist()], pa.binary()), column.cast(pa.binary())]


def _integer(column: Any) -> list[Any]:
    """Length and bytes of each; null has no bytes."""
    values = _swapped(column)
    if not column.null_count:
        return [_int4(8), values]
    joined = pc.binary_join_element_wise(pa.scalar(_int4(8), pa.binary()), values, b"")
    return [pc.if_else(pc.is_valid(column), joined, pa.scalar(_NULL, pa.binary()))]


def _swapped(column: Any) -> Any:
    """The eight bytes of each, big-endian; of null any."""
    count = len(column)
    swapped = array("q", bytes(column.buffers()[1][8 * column.offset : 8 * (column.offset + count)]))
    if sys.byteorder == "little":
        swapped.byteswap()
    return pa.Array.from_buffers(pa.binary(8), count, [None, pa.py_buffer(swapped)]).cast(pa.binary())


def _time(column: Any) -> list[Any]:
    return _integer(pc.subtract(column.cast(pa.int64()), EPOCH_MICROS))


def _joined(parts: Sequence[Any], count: int) -> Any:
    """Each row's bytes: constants, and columns."""
    folded: list[Any] = []
    for part in parts:
        if isinstance(part, bytes) and folded and isinstance(folded[-1], bytes):
            folded[-1] += part
        else:
            folded.append(part)
    if not any(isinstance(part, pa.Array) for part in folded):
        return pa.array([b"".join(folded)] * count, pa.binary())
    arrays = [pa.scalar(part, pa.binary()) if isinstance(part, bytes) else part for part in folded]
    return pc.binary_join_element_wise(*arrays, b"")
