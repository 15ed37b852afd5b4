"""Rows of an inventory as lines for COPY, judged one by one. No database; this is the inner loop of an import.

A row that cannot be used is counted by its reason, never guessed at. What is wrong with a file as a whole (torn,
another bucket's) is Refused.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any, TextIO
from urllib.parse import unquote_plus

from indexing.inputs import damaged
from indexing.inventory.schema import Schema, is_header, missing, schema_of
from indexing.merge import OWN_KEYS, storable
from vaulthalla.errors import Refused
from vaulthalla.stores.profiles import ARCHIVE_STATUSES

# A row is a few hundred characters, a key at most 1 024 bytes.
LONGEST_LINE = 1 << 20
LONGEST_KEY = 1_024
BAD_SHOWN = 10
LARGEST = 2**63 - 1
# Characters that are looked at together.
BLOCK = 1 << 18
# What text COPY gives a meaning of its own.
_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


class Skip(StrEnum):
    """Why a row is not indexed, though nothing is wrong with it."""

    OLD_VERSION = "old_version"
    DELETE_MARKER = "delete_marker"
    OTHER_PREFIX = "other_prefix"
    CONTROL = "vaulthalla_object"
    DUPLICATE = "duplicate_key"


class Bad(StrEnum):
    """What is wrong with a row."""

    COLUMNS = "wrong_column_count"
    KEY = "bad_key"
    NOT_TEXT = "key_not_text"
    SIZE = "bad_size"
    TIME = "bad_time"
    ETAG = "bad_etag"
    FLAG = "bad_flag"


class BadRow(Exception):
    """One row's fault."""

    def __init__(self, reason: Bad) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of a whole import. `rows` includes those that were skipped."""

    rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    first_bad: list[str] = field(default_factory=list)

    def fault(self, place: str, reason: Bad) -> None:
        self.bad[reason] += 1
        if len(self.first_bad) < BAD_SHOWN:
            self.first_bad.append(f"{place}: {reason.replace('_', ' ')}")

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            rows=self.rows + other.rows,
            skipped=self.skipped + other.skipped,
            bad=self.bad + other.bad,
            first_bad=[*self.first_bad, *other.first_bad][:BAD_SHOWN],
        )

    def as_json(self) -> dict[str, Any]:
        counts = {"skipped": _plain_counts(self.skipped), "bad": _plain_counts(self.bad)}
        return {"rows": self.rows, **counts, "first_bad": self.first_bad}

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Tally:
        """What `as_json` wrote."""
        counts = {name: Counter(found[name]) for name in ("skipped", "bad")}
        return cls(rows=found["rows"], **counts, first_bad=list(found["first_bad"]))

    def check(self) -> None:
        """Raises Refused when more than 1 % of the rows (and more than 10) are bad."""
        count = self.bad.total()
        if count > 10 and count * 100 > self.rows:
            shown = "\n".join(self.first_bad)
            raise Refused(
                f"{count} of {self.rows} rows cannot be used. The first ones:\n{shown}",
                code="too_many_bad_rows",
                remedy="Check the schema and the file; the index is as it was.",
            )


def _plain_counts(counts: Counter[str]) -> dict[str, int]:
    return {str(reason): count for reason, count in counts.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What of an inventory belongs to a vault: its bucket and prefix, and of that the part below `part`."""

    bucket: str
    prefix: str = ""
    part: str = ""


@dataclass(slots=True, kw_only=True)
class Csv:
    """One CSV of an inventory. `schema`: from an option or a manifest; a header, where there is one, must agree."""

    name: str
    scope: Scope
    tally: Tally
    schema: Schema | None = None
    has_header: bool = False

    def blocks(self, file: TextIO) -> Iterator[str]:
        """Lines for COPY, some thousands at a time. Raises Refused."""
        at = Place()
        try:
            yield from self._blocks(file, at)
        except csv.Error as error:
            raise damaged(self.name, f"line {at.line}", str(error)) from error

    def _blocks(self, file: TextIO, at: Place) -> Iterator[str]:
        first = next(csv.reader(_lines((file,), self.name, at), strict=True), None)
        if first is None and self.schema is not None:
            return
        header = first is not None and (self.has_header or is_header(first))
        schema = self.schema or self._schema(first if header else None)
        line_of = Line(self.name, schema, self.scope, self.tally)
        plain = Plain.of(schema, self.scope)
        if first is not None and not header:
            yield line_of(first, at.line)
        while text := file.read(BLOCK) + file.readline(LONGEST_LINE):
            done = plain.lines(text)
            if done is None:
                yield self._one_by_one(text, file, at, plain, line_of)
            else:
                at.line += text.count("\n")
                yield done
        self.tally.rows += plain.rows

    def _one_by_one(self, text: str, file: TextIO, at: Place, plain: Plain, line_of: Line) -> str:
        """The rows that begin in `text`; the last one may go on in the file."""
        part = io.StringIO(text, newline="")
        lines = _lines((part, file), self.name, at)
        done = []
        while part.tell() < len(text):
            line = next(lines)
            done.append(plain.line(line) or line_of(_row(line, lines), at.line))
        return "".join(done)

    def _schema(self, header: list[str] | None) -> Schema:
        if header is None:
            raise missing(self.name)
        return schema_of(header, origin=f"The header of {self.name}")


@dataclass(slots=True)
class Place:
    """The line read last."""

    line: int = 0


# What needs no decoding, no escaping and no judgement: most rows of most inventories.
_PLAIN_KEY = r"[ !#$&'()*\-./0-9:;<=>?@A-Z\[\]^_`a-z{|}~]"
_PLAIN = {
    "size": r"([0-9]{1,18})",
    "etag": r"([0-9A-Za-z-]+)",
    "storage_class": r"([A-Z_]+)",
    "last_modified": (
        r"([12][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
        r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?Z)"
    ),
}


@dataclass(slots=True, kw_only=True)
class Plain:
    """The short way for rows without anything special: the same lines as `Line`, or none, at half the cost."""

    quoted: re.Pattern[str] | None
    bare: re.Pattern[str] | None
    order: Callable[[Sequence[str]], tuple[str, ...]]
    form: str
    rows: int = 0

    @classmethod
    def of(cls, schema: Schema, scope: Scope) -> Plain:
        """Schemas with versions or access tiers always go the long way."""
        names = {position: name for name, position in schema.positions.items()}
        # Its length is looked at the long way.
        length = f"{{1,{max(1, LONGEST_KEY - len((scope.prefix + scope.part).encode()))}}}"
        known = {
            **_PLAIN,
            "bucket": re.escape(scope.bucket),
            "key": f"{re.escape(scope.prefix)}((?!{re.escape(OWN_KEYS)}){re.escape(scope.part)}{_PLAIN_KEY}{length})",
        }
        if not known.keys() >= schema.positions.keys():
            return cls(quoted=None, bare=None, order=tuple, form="")
        cells = [known[names[position]] if position in names else None for position in range(schema.width)]
        quoted = ",".join(f'"{cell or _OTHER}"' for cell in cells)
        bare = ",".join(cell or _OTHER_BARE for cell in cells)
        groups = [name for _, name in sorted(names.items()) if name != "bucket"]
        wanted = ("key", "etag", "storage_class", "size", "last_modified")
        missing = {"storage_class": "STANDARD", "last_modified": r"\N"}
        parts = ["%s" if name in groups else missing[name] for name in wanted]
        return cls(
            quoted=re.compile("^" + quoted + r"\r?\n", re.MULTILINE),
            bare=re.compile("^" + bare + r"\r?\n", re.MULTILINE),
            order=itemgetter(*(groups.index(name) for name in wanted if name in groups)),
            form="{}\t{}\t{}\t\t\t{}\t{}\n".format(*parts),
        )

    def lines(self, text: str) -> str | None:
        """The lines for COPY of a text in which every row is plain; None where any is not."""
        pattern = self.quoted if text[0] == '"' else self.bare
        if pattern is None:
            return None
        rows = pattern.findall(text)
        # A row begins with a line and ends with it, so as many rows as line ends are all there is.
        if len(rows) != text.count("\n") or text[-1] != "\n":
            return None
        self.rows += len(rows)
        return "".join(map(self.form.__mod__, map(self.order, rows)))

    def line(self, line: str) -> str | None:
        """The line for COPY; None for a row that must go the long way."""
        pattern = self.quoted if line[0] == '"' else self.bare
        match = None if pattern is None else pattern.fullmatch(line)
        if match is None:
            return None
        self.rows += 1
        return self.form % self.order(match.groups())


_OTHER = r'[^"\r\n]*'
_OTHER_BARE = r'[^",\r\n]*'


class Line:
    """Turns one row into one line for COPY, or counts why not (an empty text).

    Keys are form-encoded in CSV alone; `place` is what a row's number counts.
    """

    def __init__(
        self, name: str, schema: Schema, scope: Scope, tally: Tally, *, encoded: bool = True, place: str = "line"
    ) -> None:
        self.name, self.scope, self.tally = name, scope, tally
        self.decoded, self.place = _decoded if encoded else str, place
        self.width = schema.width
        self.bucket, self.key = schema.at("bucket"), schema.positions["key"]
        self.size, self.etag = schema.positions["size"], schema.positions["etag"]
        self.modified, self.storage_class = schema.at("last_modified"), schema.at("storage_class")
        self.latest, self.marker = schema.at("is_latest"), schema.at("is_delete_marker")
        self.version, self.tier = schema.at("version_id"), schema.at("access_tier")
        self.below = scope.prefix + scope.part

    def __call__(self, row: list[str], number: int) -> str:
        if not row:
            return ""
        self.tally.rows += 1
        try:
            return self._line(row, number)
        except BadRow as bad:
            self.tally.fault(f"{self.name}, {self.place} {number}", bad.reason)
            return ""

    def _line(self, row: list[str], number: int) -> str:
        if len(row) != self.width:
            raise BadRow(Bad.COLUMNS)
        if self.bucket is not None and row[self.bucket] != self.scope.bucket:
            raise wrong_bucket(row[self.bucket], self.scope.bucket, f"{self.name}, {self.place} {number}")
        key = _fitting(self.decoded(row[self.key]))
        skip = self._skip(row, key)
        if skip is not None:
            self.tally.skipped[skip] += 1
            return ""
        return self._fields(row, key[len(self.scope.prefix) :])

    def _skip(self, row: list[str], key: str) -> Skip | None:
        if self.latest is not None and not _flag(row[self.latest]):
            return Skip.OLD_VERSION
        if self.marker is not None and _flag(row[self.marker]):
            return Skip.DELETE_MARKER
        if not key.startswith(self.below) or len(key) == len(self.scope.prefix):
            return Skip.OTHER_PREFIX
        return Skip.CONTROL if key.startswith(OWN_KEYS, len(self.scope.prefix)) else None

    def _fields(self, row: list[str], key: str) -> str:
        size = row[self.size]
        if not (size.isascii() and size.isdigit()) or (len(size) > 18 and int(size) > LARGEST):
            raise BadRow(Bad.SIZE)
        etag = row[self.etag].strip('"')
        if not etag:
            raise BadRow(Bad.ETAG)
        modified = r"\N" if self.modified is None else _time(row[self.modified])
        storage_class = "STANDARD" if self.storage_class is None else row[self.storage_class] or "STANDARD"
        version = "" if self.version is None else row[self.version]
        tier = "" if self.tier is None or row[self.tier] not in ARCHIVE_STATUSES else row[self.tier]
        texts = f"{key}\t{etag}\t{storage_class}\t{version}\t{tier}"
        if texts.count("\t") != 4 or _SPECIAL.search(texts.replace("\t", "")):
            texts = "\t".join(map(_escaped, (key, etag, storage_class, version, tier)))
        if not texts.isascii() or "\0" in texts:
            _check_text(texts)
        return f"{texts}\t{size}\t{modified}\n"


def wrong_bucket(found: str, wanted: str, place: str) -> Refused:
    """An inventory of another bucket says nothing about this one."""
    return Refused(
        f"{place}: this is an inventory of {found!r}; the vault's bucket is {wanted}.",
        code="wrong_bucket",
        remedy="Import the inventory of the vault's own bucket.",
    )


def _lines(files: Sequence[TextIO], name: str, at: Place) -> Iterator[str]:
    """Lines of bounded length, of one file after the other; a quoted field may span several."""
    for line in chain.from_iterable(iter(partial(file.readline, LONGEST_LINE), "") for file in files):
        at.line += 1
        if len(line) == LONGEST_LINE:
            raise damaged(name, f"line {at.line}", f"longer than {LONGEST_LINE} characters")
        yield line


def _row(line: str, following: Iterator[str]) -> list[str]:
    """The row that begins with a line, and as many more lines as its quotes span."""
    return next(csv.reader(chain((line,), following), strict=True), [])


def _decoded(cell: str) -> str:
    if "%" not in cell and "+" not in cell:
        return cell
    try:
        return unquote_plus(cell, errors="strict")
    except UnicodeDecodeError:
        raise BadRow(Bad.NOT_TEXT) from None


def _fitting(key: str) -> str:
    if not key or (len(key) * 4 > LONGEST_KEY and len(key.encode(errors="surrogatepass")) > LONGEST_KEY):
        raise BadRow(Bad.KEY)
    return key


def _flag(cell: str) -> bool:
    match cell.lower():
        case "true":
            return True
        case "false" | "":
            return False
    raise BadRow(Bad.FLAG)


def _time(cell: str) -> str:
    """As PostgreSQL reads it, too; the session's zone is UTC."""
    if not cell:
        return r"\N"
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        raise BadRow(Bad.TIME) from None
    return cell if cell.endswith("Z") and len(cell) >= 20 else moment.isoformat()


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], text)


def _check_text(texts: str) -> None:
    if not storable(texts):
        raise BadRow(Bad.NOT_TEXT)
