"""One CSV of an inventory, some ten thousand rows at a time. No database.

A block of lines is split into columns at once where it is certain what splits it; any other is read row by row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from indexing.inputs import damaged
from indexing.inventory.batches import FLAGS, Batches, raw
from indexing.inventory.rows import BadRow, Line, Row, Scope, Tally, decoded
from indexing.inventory.schema import Schema, is_header, missing, schema_of

# A row is a few hundred bytes, a key at most 1 024.
LONGEST_LINE = 1 << 20
# More in a row are no inventory, but somebody's way to keep us busy.
MOST_BLANK_LINES = 100_000
BOM = b"\xef\xbb\xbf"
_SIZE = r"^[0-9]{1,18}$"
_TIME = (
    r"^[12][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?Z$"
)
_STAMP = pa.timestamp("us", "UTC")


@dataclass(slots=True, kw_only=True)
class Csv:
    """`schema`: from an option or a manifest; a header, where there is one, must agree."""

    name: str
    scope: Scope
    tally: Tally
    schema: Schema | None = None
    has_header: bool = False

    def tables(self, pieces: Iterator[bytes]) -> Iterator[Any]:
        """Rows to be kept (`batches.KEPT`) of the file that comes in pieces. Raises Refused."""
        lines = Lines(pieces, self.name)
        try:
            yield from self._tables(lines)
        except csv.Error as error:
            raise damaged(self.name, f"line {lines.number}", str(error)) from error

    def _tables(self, lines: Lines) -> Iterator[Any]:
        first = next(csv.reader(lines, strict=True), None)
        if first is None and self.schema is not None:
            return
        header = first is not None and (self.has_header or is_header(first))
        schema = self.schema or self._schema(first if header else None)
        line_of = Line(self.name, schema, self.scope, self.tally)
        blocks = _Blocks(self.name, schema, self.scope, self.tally)
        if first is not None and not header and (row := line_of(first, lines.number)) is not None:
            yield blocks.batches.of_rows([row])
        while block := lines.block():
            table = blocks.table(block, lines.number)
            if table is None:
                rows = list(_one_by_one(lines, line_of))
                table = blocks.batches.of_rows(rows)
            else:
                lines.skip()
            yield table

    def _schema(self, header: list[str] | None) -> Schema:
        if header is None:
            raise missing(self.name)
        return schema_of(header, origin=f"The header of {self.name}")


def _one_by_one(lines: Lines, line_of: Line) -> Iterator[Row]:
    """The rows that begin in the block at hand; the last one may go on beyond it."""
    begun, blanks = lines.blocks, 0
    while lines.blocks == begun and lines.left:
        cells = next(csv.reader(chain((next(lines),), lines), strict=True), [])
        blanks = 0 if cells else blanks + 1
        if blanks > MOST_BLANK_LINES:
            raise damaged(lines.name, f"line {lines.number}", "blank lines without an end, instead of objects")
        if (row := line_of(cells, lines.number)) is not None:
            yield row


class Lines:
    """The lines of a file that comes in pieces: one at a time as text, or as many as there are at once as bytes.

    `number` is that of the line taken last. Lines are of bounded length.
    """

    def __init__(self, pieces: Iterator[bytes], name: str) -> None:
        self.pieces, self.name = pieces, name
        self.number = self.blocks = 0
        self._block, self._at, self._rest = b"", 0, b""
        self._fill()
        if self._block.startswith(BOM):
            self._at = len(BOM)

    @property
    def left(self) -> bool:
        """Whether any line of the block at hand is left."""
        return self._at < len(self._block)

    def block(self) -> bytes:
        """What is left of the block at hand, or the next one: whole lines, but for the last of the file."""
        if not self.left:
            self._fill()
        return self._block[self._at :] if self._at else self._block

    def skip(self) -> None:
        """Passes over `block`."""
        self.number += self._block.count(b"\n", self._at)
        self._at = len(self._block)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self.left:
            self._fill()
        if not self.left:
            raise StopIteration
        end = self._block.find(b"\n", self._at) + 1 or len(self._block)
        line, self._at = self._block[self._at : end], end
        self.number += 1
        if len(line) >= LONGEST_LINE:
            raise damaged(self.name, f"line {self.number}", f"longer than {LONGEST_LINE} bytes")
        return line.decode("utf-8", "surrogateescape")

    def _fill(self) -> None:
        """The next block: at least one whole line, the end of the file, or a line that is too long anyhow."""
        found = [self._rest]
        length = len(self._rest)
        self._rest = b""
        for piece in self.pieces:
            cut = piece.rfind(b"\n") + 1
            if cut:
                found.append(piece[:cut])
                self._rest = piece[cut:]
                break
            found.append(piece)
            length += len(piece)
            if length >= LONGEST_LINE:
                break
        self._block, self._at = b"".join(found), 0
        self.blocks += 1


class _Blocks:
    """Blocks of whole lines into tables, where that is certain to say what reading row by row would."""

    def __init__(self, name: str, schema: Schema, scope: Scope, tally: Tally) -> None:
        self.width = schema.width
        self.names = {str(position): name for name, position in schema.positions.items()}
        self.batches = Batches(name, list(self.names.values()), scope, tally, encoded=True, place="line")
        self.all_names = [str(position) for position in range(schema.width)]
        self.options = arrow_csv.ConvertOptions(
            include_columns=list(self.names),
            column_types=dict.fromkeys(self.names, pa.string()),
            strings_can_be_null=False,
        )

    def table(self, block: bytes, before: int) -> Any | None:
        """The rows to be kept of a block that follows line `before`; None: read it row by row."""
        rows = block.count(b"\n")
        quoted = _quoting(block, rows, self.width)
        cells = None if quoted is None else self._cells(block, quoted=quoted)
        if cells is None or len(cells["key"]) != rows:
            return None
        columns, sound = _typed(cells)
        return self.batches.table(columns, before, cells=cells, sound=sound)

    def _cells(self, block: bytes, *, quoted: bool) -> dict[str, Any] | None:
        reading = arrow_csv.ReadOptions(column_names=self.all_names, use_threads=False, block_size=len(block) + 1)
        parsing = arrow_csv.ParseOptions(quote_char='"' if quoted else False, newlines_in_values=False)
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(block), read_options=reading, parse_options=parsing, convert_options=self.options
            )
        except pa.ArrowInvalid:  # another number of cells somewhere, or no UTF-8
            return None
        whole = table.combine_chunks()
        return {name: whole[position].chunk(0) for position, name in self.names.items()} if whole.num_rows else None


def _quoting(block: bytes, rows: int, width: int) -> bool | None:
    """Whether all cells of whole lines are in quotes, or none has any; None where neither is certain.

    All are, when no quote is left over besides those around cells: then none is within one.
    """
    if not block.endswith(b"\n"):
        return None
    end = b"\r\n" if block.endswith(b"\r\n") else b"\n"
    if block.count(b"\r") != (rows if end == b"\r\n" else 0) or b"\0" in block:
        return None
    quotes = block.count(b'"')
    if not quotes:
        return False
    between = block.count(b'","') == (width - 1) * rows and block.count(b'"' + end + b'"') == rows - 1
    around = block.startswith(b'"') and block.endswith(b'"' + end)
    return True if between and around and quotes == 2 * width * rows else None


def _typed(cells: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Columns of their own types, and which rows they tell of truly."""
    columns = dict(cells)
    columns["key"], sound = _keys(cells["key"])
    fits = pc.match_substring_regex(cells["size"], _SIZE)
    columns["size"] = pc.if_else(fits, cells["size"], None).cast(pa.int64())
    if (modified := cells.get("last_modified")) is not None:
        fits = pc.match_substring_regex(modified, _TIME)
        columns["last_modified"] = pc.if_else(fits, modified, None).cast(_STAMP)
        sound = _both(sound, pc.or_(fits, pc.equal(modified, "")))
    for name in FLAGS & cells.keys():
        flag = pc.ascii_lower(cells[name])
        columns[name] = pc.equal(flag, "true")
        sound = _both(sound, pc.is_in(flag, pa.array(["true", "false", ""])))
    return columns, sound


def _keys(keys: Any) -> tuple[Any, Any | None]:
    """Decoded keys, and which of them could be; None: all."""
    written = raw(keys)
    if b"%" not in written:
        return (pc.replace_substring(keys, "+", " ") if b"+" in written else keys), None
    encoded = pc.match_substring_regex(keys, "[%+]")
    texts = [_decoded(text) for text in keys.filter(encoded).to_pylist()]
    found = pc.replace_with_mask(keys, encoded, pa.array(texts, pa.string()))
    return found, pc.is_valid(found) if None in texts else None


def _decoded(text: str) -> str | None:
    try:
        return decoded(text)
    except BadRow:
        return None


def _both(one: Any | None, other: Any) -> Any:
    return other if one is None else pc.and_(one, other)
