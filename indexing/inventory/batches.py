"""Rows of an inventory a batch at a time: most are judged and kept by column, at a tenth of the cost of a row.

Whatever is unusual about a row goes to `rows.Line`, which decides the same for one. No database. pyarrow is loaded
only by who reads or merges an inventory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from indexing.inventory.rows import LONGEST_KEY, Line, Scope, Skip, Tally
from indexing.inventory.schema import Schema
from indexing.merge import OWN_KEYS
from vaulthalla.stores.profiles import ARCHIVE_STATUSES

# What is kept of a row; `last_modified` alone may be null.
KEPT = pa.schema(
    [
        ("key", pa.string()),
        ("etag", pa.string()),
        ("storage_class", pa.string()),
        ("version_id", pa.string()),
        ("archive_status", pa.string()),
        ("size", pa.int64()),
        ("last_modified", pa.timestamp("us", "UTC")),
    ]
)
FLAGS = frozenset({"is_latest", "is_delete_marker"})
# Times that PostgreSQL, Python and Arrow agree about.
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)

Columns = Mapping[str, Any]


class Batches:
    """Judges batches of known columns. `file` and `place` (what its rows' numbers count) are for errors."""

    def __init__(
        self, file: str, names: Sequence[str], scope: Scope, tally: Tally, *, encoded: bool, place: str
    ) -> None:
        self.file, self.names, self.scope, self.tally = file, list(names), scope, tally
        self.encoded, self.place = encoded, place
        self.below = scope.prefix + scope.part
        self.schema = Schema(positions={name: n for n, name in enumerate(self.names)}, width=len(self.names))

    def table(
        self, columns: Columns, at: int, *, cells: Columns | None = None, sound: Any = None, where: str = ""
    ) -> Any:
        """The rows of one batch to be kept, in KEPT; its first row is number `at` + 1 of `where` in the file.

        `cells`: the columns as they were written, where that is not the same. `sound`: rows that `columns` tells
        of truly; the others are looked at one by one.
        """
        found = self._judged(columns, sound) if _valid(columns.values()) else None
        if found is None:
            return self._one_by_one(cells or columns, range(len(columns["key"])), at, where)
        plain, special = found
        chosen = columns
        if _count(plain) < len(plain):
            chosen = {name: column.filter(plain) for name, column in columns.items()}
        kept = self._kept(chosen)
        if not special:
            return kept
        return pa.concat_tables([kept, self._one_by_one(cells or columns, special, at, where)])

    def of_rows(self, rows: Sequence[tuple[Any, ...]]) -> Any:
        """Rows that `Line` has kept."""
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(KEPT)
        return pa.table([pa.array(column, field.type) for column, field in zip(columns, KEPT, strict=True)], KEPT)

    def _judged(self, columns: Columns, sound: Any) -> tuple[Any, list[int]] | None:
        """Which rows can be kept by column, and the numbers of those to be looked at one by one.

        Rows that are only to be counted are neither. None: look at all of them.
        """
        if not all(_comparable(name, column) for name, column in columns.items()):
            return None
        key = columns["key"]
        good = _all(
            sound,
            pc.greater(pc.binary_length(key), 0),
            pc.less_equal(pc.binary_length(key), LONGEST_KEY),
            pc.equal(columns["bucket"], self.scope.bucket) if "bucket" in columns else None,
        )
        skipped, live = self._skipped(columns, good)
        plain = _all(live, *_plain(columns))
        self.tally.rows += _count(plain) + sum(skipped.values())
        for reason, count in skipped.items():
            if count:
                self.tally.skipped[reason] += count
        special = pc.indices_nonzero(pc.invert(pc.or_(plain, _all(good, pc.invert(live)))))
        return plain, special.to_pylist()

    def _skipped(self, columns: Columns, good: Any) -> tuple[dict[Skip, int], Any]:
        """How many of the `good` rows are not indexed, by reason and in the order of `Line`, and the rest of them."""
        key, start = columns["key"], len(self.scope.prefix.encode())
        latest, marker = _flag(columns.get("is_latest")), _flag(columns.get("is_delete_marker"))
        inside = _all(pc.starts_with(key, self.below), pc.greater(pc.binary_length(key), start)) if self.below else None
        reasons = (
            (Skip.OLD_VERSION, latest),
            (Skip.DELETE_MARKER, None if marker is None else pc.invert(marker)),
            (Skip.OTHER_PREFIX, inside),
            (Skip.CONTROL, pc.invert(pc.starts_with(key, self.scope.prefix + OWN_KEYS))),
        )
        counts, live = {}, good
        for reason, passes in reasons:
            left = live if passes is None else _all(live, passes)
            counts[reason] = _count(live) - _count(left)
            live = left
        return counts, live

    def _kept(self, columns: Columns) -> Any:
        key = columns["key"]
        start = len(self.scope.prefix)
        storage_class = _texts(columns.get("storage_class"), len(key))
        modified = columns.get("last_modified")
        values = {
            "key": pc.utf8_slice_codeunits(key, start) if start else key,
            "etag": columns["etag"],
            "storage_class": pc.if_else(pc.equal(storage_class, ""), "STANDARD", storage_class),
            "version_id": _texts(columns.get("version_id"), len(key)),
            "archive_status": _tiers(_texts(columns.get("access_tier"), len(key))),
            "size": columns["size"],
            "last_modified": pa.nulls(len(key), KEPT.field("last_modified").type) if modified is None else modified,
        }
        return pa.table([values[name] for name in KEPT.names], KEPT)

    def _one_by_one(self, columns: Columns, numbers: Sequence[int], at: int, where: str) -> Any:
        file = f"{self.file}, {where}" if where else self.file
        line = Line(file, self.schema, self.scope, self.tally, encoded=self.encoded, place=self.place)
        chosen = pa.array(numbers, pa.int64())
        values = [_cells(columns[name].take(chosen)) for name in self.names]
        found = (line(row, at + number + 1) for number, row in zip(numbers, zip(*values, strict=True), strict=True))
        return self.of_rows([row for row in found if row is not None])


def _plain(columns: Columns) -> Iterator[Any]:
    """What must hold of a row besides its key, for each column."""
    for column in columns.values():
        if pa.types.is_string(column.type) and b"\0" in raw(column):
            yield pc.invert(pc.fill_null(pc.match_substring(column, "\0"), fill_value=False))
    yield pc.greater(pc.binary_length(columns["etag"]), 0)
    if b'"' in raw(columns["etag"]):
        yield pc.invert(pc.match_substring(columns["etag"], '"'))
    yield pc.greater_equal(columns["size"], 0)
    if (modified := columns.get("last_modified")) is not None:
        within = pc.and_(pc.greater_equal(modified, _EARLIEST), pc.less(modified, _LATEST))
        yield pc.fill_null(within, fill_value=True)


def raw(texts: Any) -> bytes:
    """The bytes of a whole column of strings (or binaries), one after the other."""
    _, offsets, data = texts.buffers()
    if data is None:
        return b""
    ends = memoryview(offsets).cast("i")
    return bytes(memoryview(data)[ends[texts.offset] : ends[texts.offset + len(texts)]])


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


def _texts(column: Any | None, count: int) -> Any:
    """A column without nulls, or one of empty texts where there is none."""
    return pa.repeat(pa.scalar("", pa.string()), count) if column is None else pc.fill_null(column, "")


def _tiers(column: Any) -> Any:
    """Only a tier that needs a restore is remembered."""
    return pc.if_else(pc.is_in(column, pa.array(sorted(ARCHIVE_STATUSES))), column, "")


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
        return ["" if value is None else value.decode("utf-8", "surrogateescape") for value in _values(column)]
    if pa.types.is_timestamp(column.type):
        return [_instant(value) for value in column.cast(pa.int64()).to_pylist()]
    return ["" if value is None else str(value).lower() for value in column.to_pylist()]


def _values(texts: Any) -> list[bytes | None]:
    found: list[bytes | None] = texts.cast(pa.binary()).to_pylist()
    return found


def _instant(microseconds: int | None) -> str:
    """What no calendar knows stays a number, which is no time."""
    if microseconds is None:
        return ""
    try:
        return datetime.fromtimestamp(microseconds / 1_000_000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"?{microseconds}"
