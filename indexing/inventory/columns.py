"""Inventories in Parquet and ORC, a batch of rows at a time.

Keys are plain here: S3 form-encodes them in CSV alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from indexing.inputs import damaged
from indexing.inventory.batches import FLAGS, Batches
from indexing.inventory.rows import Scope, Tally
from indexing.inventory.schema import Schema, accepted, schema_of

BATCH = 32_768
# One row group holds less in memory than this, or the file is taken for a bomb.
LARGEST_GROUP = 2 * 2**30
# A stripe is held as a whole, so a file whose stripes are larger is read as a stream, by one process.
ROWS_A_STRIPE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """A file of row groups (stripes): their row counts, `exact` where the file tells them, and how to read one.

    `total`: the rows of the whole file, as it says itself.
    """

    name: str
    columns: Sequence[tuple[str, Any]]
    rows: Sequence[int]
    exact: bool
    total: int
    read: Callable[[int, Sequence[str]], Iterator[Any]]

    def count(self) -> None:
        """For a file that is not read as a whole: raises Refused unless it has all its rows. One column is read."""
        narrow = next((name for name, kind in self.columns if pa.types.is_integer(kind)), self.columns[0][0])
        found = (
            batch.num_rows
            for number in range(len(self.rows))
            for batch in _reading(self, number, [narrow], _place(number))
        )
        self.check(sum(found), self.total, "")

    def check(self, found: int, wanted: int, place: str) -> None:
        """Raises Refused: pyarrow ends early at some damage as if nothing more were there."""
        if found != wanted:
            raise damaged(self.name, place, f"has {found} rows, not the {wanted} that it says")


@contextmanager
def opened(path: Path, name: str) -> Iterator[Groups]:
    """Raises Refused for what is no whole Parquet or ORC file."""
    with told(name), path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    with told(name):
        groups = _parquet(path, name) if parquet else _orc(path, name)
    if groups.exact:
        groups.check(sum(groups.rows), groups.total, "")
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
    columns = _columns(file.schema_arrow)
    return Groups(name=name, columns=columns, rows=rows, exact=True, total=about.num_rows, read=read)


def _orc(path: Path, name: str) -> Groups:
    from pyarrow import orc

    file = orc.ORCFile(path)
    count, columns = file.nstripes, _columns(file.schema)
    # A stripe's own count is in its statistics, which pyarrow does not show: all but the last are about alike.
    share = -(-file.nrows // count) if count else 0
    if share > ROWS_A_STRIPE:
        read_all = partial(_streamed, path)
        return Groups(name=name, columns=columns, rows=[file.nrows], exact=True, total=file.nrows, read=read_all)

    def read(number: int, columns: Sequence[str]) -> Iterator[Any]:
        stripe = file.read_stripe(number, columns=list(columns))
        for start in range(0, stripe.num_rows, BATCH):
            yield stripe.slice(start, BATCH)

    return Groups(name=name, columns=columns, rows=[share] * count, exact=count < 2, total=file.nrows, read=read)


def _streamed(path: Path, _: int, columns: Sequence[str]) -> Iterator[Any]:
    from pyarrow import dataset

    options = {"batch_size": BATCH, "batch_readahead": 0, "fragment_readahead": 0, "use_threads": False}
    yield from dataset.dataset(path, format="orc").scanner(columns=list(columns), **options).to_batches()


def _columns(schema: Any) -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in schema]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columnar:
    """Some row groups of one file. `names`: what the columns are called, where the file itself does not say."""

    groups: Groups
    scope: Scope
    tally: Tally
    names: Sequence[str] | None = None

    def tables(self, first: int = 0, last: int | None = None) -> Iterator[Any]:
        """Rows to be kept (`batches.KEPT`). Raises Refused."""
        schema = self.schema()
        wanted = sorted(schema.positions, key=schema.positions.__getitem__)
        stored = [self.groups.columns[schema.positions[name]][0] for name in wanted]
        batches = Batches(self.groups.name, wanted, self.scope, self.tally, encoded=False, place="row")
        last = len(self.groups.rows) if last is None else last
        total = 0
        for number in range(first, last):
            place = _place(number)
            at = 0
            for batch in _reading(self.groups, number, stored, place):
                with told(self.groups.name, place):
                    columns = {name: _flat(batch.column(n)) for n, name in enumerate(wanted)}
                    table = batches.table(columns, at, where=place)
                yield table
                at += batch.num_rows
            if self.groups.exact:
                self.groups.check(at, self.groups.rows[number], place)
            total += at
        if (first, last) == (0, len(self.groups.rows)):
            self.groups.check(total, self.groups.total, "")

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


def _place(number: int) -> str:
    return f"row group {number + 1}"


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
