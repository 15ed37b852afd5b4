"""Inventories in Parquet and ORC as the same lines for COPY that their CSV would give, a batch of rows at a time.

Most rows of a batch are judged and written by column; whatever is unusual about one goes to `rows.Line`, as its CSV
would. Keys are plain here: S3 form-encodes them in CSV alone. pyarrow is loaded only by who reads such a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from indexing.inputs import damaged
from indexing.inventory.rows import LONGEST_KEY, Line, Scope, Skip, Tally
from indexing.inventory.schema import Schema, accepted, schema_of
from indexing.merge import OWN_KEYS
from vaulthalla.stores.profiles import ARCHIVE_STATUSES

BATCH = 32_768
# One row group or stripe holds less in memory than this, or the file is taken for a bomb.
LARGEST_GROUP = 2 * 2**30
MOST_ROWS = 50_000_000
TEXTS = frozenset({"bucket", "key", "etag", "storage_class", "version_id", "access_tier"})
FLAGS = frozenset({"is_latest", "is_delete_marker"})
_SPECIAL = r"[\\\t\n\r\x00]"
# Times that PostgreSQL, Python and Arrow spell alike.
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """A file of row groups (stripes): their row counts where the file tells them, and how to read one."""

    name: str
    columns: Sequence[tuple[str, Any]]
    rows: Sequence[int]
    read: Callable[[int, Sequence[str]], Iterator[Any]]


@contextmanager
def opened(path: Path, name: str) -> Iterator[Groups]:
    """Raises Refused for what is no whole Parquet or ORC file."""
    with told(name), path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    with told(name):
        groups = _parquet(path, name) if parquet else _orc(path, name)
    yield groups


@contextmanager
def told(name: str, place: str = "") -> Iterator[None]:
    """What pyarrow says of a damaged file."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
        why = str(error).strip().partition("\n")[0][:300]
        raise damaged(name, place, f"cannot be read ({why})") from error


def _parquet(path: Path, name: str) -> Groups:
    from pyarrow import parquet

    file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20, memory_map=False)
    about = file.metadata
    for number in range(about.num_row_groups):
        if about.row_group(number).total_byte_size > LARGEST_GROUP:
            raise damaged(name, f"row group {number + 1}", f"unpacks to more than {LARGEST_GROUP} bytes")

    def read(number: int, columns: Sequence[str]) -> Iterator[Any]:
        yield from file.iter_batches(BATCH, row_groups=[number], columns=list(columns), use_threads=False)

    rows = [about.row_group(number).num_rows for number in range(about.num_row_groups)]
    return Groups(name=name, columns=_columns(file.schema_arrow), rows=rows, read=read)


def _orc(path: Path, name: str) -> Groups:
    from pyarrow import orc

    file = orc.ORCFile(path)
    count = file.nstripes
    if file.nrows > count * MOST_ROWS:
        raise damaged(name, "", f"{file.nrows} rows in {count} stripes, more than {MOST_ROWS} each")

    def read(number: int, columns: Sequence[str]) -> Iterator[Any]:
        stripe = file.read_stripe(number, columns=list(columns))
        for start in range(0, stripe.num_rows, BATCH):
            yield stripe.slice(start, BATCH)

    # A stripe's own count is in its statistics, which pyarrow does not show: all but the last are about alike.
    share = -(-file.nrows // count) if count else 0
    return Groups(name=name, columns=_columns(file.schema), rows=[share] * count, read=read)


def _columns(schema: Any) -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in schema]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columnar:
    """Some row groups of one file. `names`: what the columns are called, where the file itself does not say."""

    groups: Groups
    scope: Scope
    tally: Tally
    names: Sequence[str] | None = None

    def blocks(self, first: int = 0, last: int | None = None) -> Iterator[bytes]:
        """Lines for COPY. Raises Refused."""
        schema = self.schema()
        wanted = sorted(schema.positions, key=schema.positions.__getitem__)
        stored = [self.groups.columns[schema.positions[name]][0] for name in wanted]
        batches = _Batches(self, wanted)
        for number in range(first, len(self.groups.rows) if last is None else last):
            place = f"row group {number + 1}"
            at = 0
            for batch in _reading(self.groups, number, stored, place):
                yield batches.lines(batch, place, at)
                at += batch.num_rows

    def schema(self) -> Schema:
        """Raises Refused where a column that matters is missing, or is of a type that nothing can be read from."""
        found = [name for name, _ in self.groups.columns]
        names = found if self.names is None else list(self.names)
        if len(names) != len(found):
            raise damaged(self.groups.name, "", f"has {len(found)} columns, --schema names {len(names)}")
        schema = schema_of(names, origin=self.groups.name)
        for name, position in schema.positions.items():
            stored, kind = self.groups.columns[position]
            if not _readable(name, kind):
                raise accepted(self.groups.name, stored, str(kind), _wanted(name))
        return schema


def _reading(groups: Groups, number: int, columns: Sequence[str], place: str) -> Iterator[Any]:
    """`Groups.read` with its errors told; not those of whoever takes the batches."""
    with told(groups.name, place):
        batches = groups.read(number, columns)
    while True:
        with told(groups.name, place):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _readable(name: str, kind: Any) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_null(value) or _is_text(value):
        return name != "size" or not _is_text(value)
    if name == "size":
        return bool(pa.types.is_integer(value))
    if name == "last_modified":
        return bool(pa.types.is_timestamp(value))
    return name in FLAGS and bool(pa.types.is_boolean(value))


def _is_text(kind: Any) -> bool:
    t = pa.types
    found = (t.is_string, t.is_large_string, t.is_string_view, t.is_binary, t.is_large_binary, t.is_binary_view)
    return any(test(kind) for test in found)


def _wanted(name: str) -> str:
    if name == "size":
        return "an integer"
    if name == "last_modified":
        return "a timestamp (s, ms, us or ns), or text"
    return "a boolean, or text" if name in FLAGS else "text (string, or binary that holds UTF-8)"


class _Batches:
    """Turns batches of known columns into lines."""

    def __init__(self, source: Columnar, names: Sequence[str]) -> None:
        self.scope, self.tally, self.names = source.scope, source.tally, list(names)
        self.file = source.groups.name
        self.below = source.scope.prefix + source.scope.part
        self.schema = Schema(positions={name: n for n, name in enumerate(self.names)}, width=len(self.names))

    def lines(self, batch: Any, place: str, at: int) -> bytes:
        """One batch, whose first row is number `at` of its row group."""
        with told(self.file, place):
            columns = {name: _flat(batch.column(n)) for n, name in enumerate(self.names)}
            found = self._judged(columns) if _valid(columns.values()) else None
        if found is None:
            return self._one_by_one(columns, range(batch.num_rows), place, at)
        plain, special = found
        lines = self._written({name: column.filter(plain) for name, column in columns.items()})
        return lines + self._one_by_one(columns, special, place, at)

    def _judged(self, columns: dict[str, Any]) -> tuple[Any, list[int]] | None:
        """Which rows can be written by column, and the numbers of those to be looked at one by one.

        Rows that are only to be counted are neither. None: look at all of them.
        """
        if not all(_comparable(name, column) for name, column in columns.items()):
            return None
        key = columns["key"]
        good = _all(
            pc.greater(pc.binary_length(key), 0),
            pc.less_equal(pc.binary_length(key), LONGEST_KEY),
            pc.equal(columns["bucket"], self.scope.bucket) if "bucket" in columns else None,
        )
        skipped, live = self._skipped(columns, good)
        plain = _all(live, *self._plain(columns))
        self.tally.rows += _count(plain) + sum(skipped.values())
        for reason, count in skipped.items():
            if count:
                self.tally.skipped[reason] += count
        special = pc.indices_nonzero(pc.invert(pc.or_(plain, _all(good, pc.invert(live)))))
        return plain, special.to_pylist()

    def _skipped(self, columns: dict[str, Any], good: Any) -> tuple[dict[Skip, int], Any]:
        """How many of the `good` rows are not indexed, by reason and in the order of `Line`, and the rest of them."""
        key, start = columns["key"], len(self.scope.prefix.encode())
        latest, marker = _flag(columns.get("is_latest")), _flag(columns.get("is_delete_marker"))
        inside = _all(pc.starts_with(key, self.below), pc.greater(pc.binary_length(key), start))
        reasons = (
            (Skip.OLD_VERSION, latest),
            (Skip.DELETE_MARKER, None if marker is None else pc.invert(marker)),
            (Skip.OTHER_PREFIX, inside),
            (Skip.CONTROL, pc.invert(pc.starts_with(key, self.scope.prefix + OWN_KEYS))),
        )
        counts, live = {}, good
        for reason, passes in reasons:
            left = _all(live, passes)
            counts[reason] = _count(live) - _count(left)
            live = left
        return counts, live

    def _plain(self, columns: dict[str, Any]) -> Iterator[Any]:
        """What must hold of a row besides its key, for each column."""
        for name, column in columns.items():
            if name in TEXTS and name != "bucket":
                yield pc.invert(pc.fill_null(pc.match_substring_regex(column, _SPECIAL), fill_value=False))
        yield _all(
            pc.invert(pc.match_substring(columns["etag"], '"')), pc.greater(pc.binary_length(columns["etag"]), 0)
        )
        yield pc.greater_equal(columns["size"], 0)
        if (modified := columns.get("last_modified")) is not None:
            within = pc.and_(pc.greater_equal(modified, _EARLIEST), pc.less(modified, _LATEST))
            yield pc.fill_null(within, fill_value=True)

    def _written(self, columns: dict[str, Any]) -> bytes:
        """Rows as text COPY reads them: the bytes of one column of joined cells are the lines."""
        key = columns["key"]
        if not len(key):
            return b""
        start = len(self.scope.prefix.encode())
        text = {"key": pc.utf8_slice_codeunits(key, len(self.scope.prefix)) if start else key}
        storage_class = _filled(columns.get("storage_class"))
        empty = pc.equal(storage_class, "") if storage_class is not None else None
        cells = [
            text["key"],
            columns["etag"],
            pc.if_else(empty, "STANDARD", storage_class) if storage_class is not None else "STANDARD",
            _or_empty(_filled(columns.get("version_id"))),
            _or_empty(_tiers(_filled(columns.get("access_tier")))),
            columns["size"].cast(pa.string()),
            self._times(columns.get("last_modified")),
        ]
        lines = pc.binary_join_element_wise(*cells, "\t")
        return _bytes(pc.binary_join_element_wise(lines, "\n", ""))

    def _times(self, column: Any | None) -> Any:
        if column is None:
            return "\\N"
        text = pc.binary_join_element_wise(column.cast(pa.timestamp("us")).cast(pa.string()), "Z", "")
        return pc.fill_null(text, "\\N")

    def _one_by_one(self, columns: dict[str, Any], numbers: Sequence[int], place: str, at: int) -> bytes:
        line = Line(f"{self.file}, {place}", self.schema, self.scope, self.tally, encoded=False, place="row")
        chosen = pa.array(numbers, pa.int64())
        values = [_cells(columns[name].take(chosen)) for name in self.names]
        done = [
            line(list(row), at + number + 1) for number, row in zip(numbers, zip(*values, strict=True), strict=True)
        ]
        return "".join(done).encode()


def _flat(column: Any) -> Any:
    """Texts as strings, times as microseconds of UTC, sizes as 64-bit integers; nothing is checked yet."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if _is_text(kind):
        # Bytes that are no UTF-8 are for `_valid` to find.
        return column.cast(pa.binary()).cast(pa.string(), safe=False) if _offsets(kind) else column
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", "UTC"), safe=False)
    if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        return column.cast(pa.int64())
    return column


def _offsets(kind: Any) -> bool:
    return not pa.types.is_string(kind)


def _valid(columns: Any) -> bool:
    """Whether all texts are UTF-8."""
    try:
        for column in columns:
            if pa.types.is_string(column.type):
                column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _comparable(name: str, column: Any) -> bool:
    """Whether the column is of its own type, not of one that is read cell by cell."""
    kind = column.type
    if name == "last_modified":
        return bool(pa.types.is_timestamp(kind))
    if name == "size":
        return bool(pa.types.is_int64(kind))
    return bool(pa.types.is_boolean(kind)) if name in FLAGS else True


def _flag(column: Any | None) -> Any | None:
    """A boolean column without nulls, which mean false; None where there is no such column."""
    return None if column is None else pc.fill_null(column, fill_value=False)


def _filled(column: Any | None) -> Any | None:
    return None if column is None else pc.fill_null(column, "")


def _or_empty(column: Any | None) -> Any:
    return "" if column is None else column


def _tiers(column: Any | None) -> Any | None:
    """Only a tier that needs a restore is remembered."""
    return None if column is None else pc.if_else(pc.is_in(column, pa.array(sorted(ARCHIVE_STATUSES))), column, "")


def _all(*tests: Any | None) -> Any:
    """Where all of them hold; null is no."""
    found = None
    for test in tests:
        if test is not None:
            known = pc.fill_null(test, fill_value=False)
            found = known if found is None else pc.and_(found, known)
    return found


def _count(mask: Any) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _cells(column: Any) -> list[str]:
    """Values as their CSV would have them."""
    if pa.types.is_string(column.type):
        raw = column.cast(pa.binary()).to_pylist()
        return ["" if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
    if pa.types.is_timestamp(column.type):
        return [_instant(value) for value in column.cast(pa.int64()).to_pylist()]
    return ["" if value is None else str(value).lower() for value in column.to_pylist()]


def _instant(microseconds: int | None) -> str:
    """What no calendar knows stays a number, which is no time."""
    if microseconds is None:
        return ""
    try:
        return datetime.fromtimestamp(microseconds / 1_000_000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"?{microseconds}"


def _bytes(texts: Any) -> bytes:
    """The bytes of a whole column of strings, one after the other."""
    _, offsets, data = texts.buffers()
    if data is None:
        return b""
    ends = memoryview(offsets).cast("i")
    start, end = ends[texts.offset], ends[texts.offset + len(texts)]
    return bytes(memoryview(data)[start:end])
