"""Rows of an inventory, judged one by one. No database.

A row that cannot be used is counted by its reason, never guessed at. What is wrong with a file as a whole (torn,
another bucket's) is Refused. Most rows go a shorter way to the same end (`batches`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_plus

from indexing.inventory.schema import Schema
from indexing.merge import OWN_KEYS, storable
from vaulthalla.errors import Refused
from vaulthalla.stores.profiles import ARCHIVE_STATUSES

LONGEST_KEY = 1_024
BAD_SHOWN = 10
LARGEST = 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

# Key, ETag, storage class, version, archive tier, size, and the time of the last change in microseconds since 1970.
Row = tuple[str, str, str, str, str, int, int | None]


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


class Line:
    """Turns the cells of one row into what is kept of it, or counts why not (None).

    Keys are form-encoded in CSV alone; `place` is what a row's number counts.
    """

    def __init__(
        self, name: str, schema: Schema, scope: Scope, tally: Tally, *, encoded: bool = True, place: str = "line"
    ) -> None:
        self.name, self.scope, self.tally = name, scope, tally
        self.decoded, self.place = decoded if encoded else str, place
        self.width = schema.width
        self.bucket, self.key = schema.at("bucket"), schema.positions["key"]
        self.size, self.etag = schema.positions["size"], schema.positions["etag"]
        self.modified, self.storage_class = schema.at("last_modified"), schema.at("storage_class")
        self.latest, self.marker = schema.at("is_latest"), schema.at("is_delete_marker")
        self.version, self.tier = schema.at("version_id"), schema.at("access_tier")
        self.below = scope.prefix + scope.part

    def __call__(self, row: Sequence[str], number: int) -> Row | None:
        if not row:
            return None
        self.tally.rows += 1
        try:
            return self._line(row, number)
        except BadRow as bad:
            self.tally.fault(f"{self.name}, {self.place} {number}", bad.reason)
            return None

    def _line(self, row: Sequence[str], number: int) -> Row | None:
        if len(row) != self.width:
            raise BadRow(Bad.COLUMNS)
        if self.bucket is not None and row[self.bucket] != self.scope.bucket:
            raise wrong_bucket(row[self.bucket], self.scope.bucket, f"{self.name}, {self.place} {number}")
        key = _fitting(self.decoded(row[self.key]))
        skip = self._skip(row, key)
        if skip is not None:
            self.tally.skipped[skip] += 1
            return None
        return self._fields(row, key[len(self.scope.prefix) :])

    def _skip(self, row: Sequence[str], key: str) -> Skip | None:
        if self.latest is not None and not _flag(row[self.latest]):
            return Skip.OLD_VERSION
        if self.marker is not None and _flag(row[self.marker]):
            return Skip.DELETE_MARKER
        if not key.startswith(self.below) or len(key) == len(self.scope.prefix):
            return Skip.OTHER_PREFIX
        return Skip.CONTROL if key.startswith(OWN_KEYS, len(self.scope.prefix)) else None

    def _fields(self, row: Sequence[str], key: str) -> Row:
        size = row[self.size]
        if not (size.isascii() and size.isdigit()) or (len(size) > 18 and int(size) > LARGEST):
            raise BadRow(Bad.SIZE)
        etag = row[self.etag].strip('"')
        if not etag:
            raise BadRow(Bad.ETAG)
        modified = None if self.modified is None else _time(row[self.modified])
        storage_class = "STANDARD" if self.storage_class is None else row[self.storage_class] or "STANDARD"
        version = "" if self.version is None else row[self.version]
        tier = "" if self.tier is None or row[self.tier] not in ARCHIVE_STATUSES else row[self.tier]
        if not all(map(storable, (key, etag, storage_class, version))):
            raise BadRow(Bad.NOT_TEXT)
        return key, etag, storage_class, version, tier, int(size), modified


def wrong_bucket(found: str, wanted: str, place: str) -> Refused:
    """An inventory of another bucket says nothing about this one."""
    return Refused(
        f"{place}: this is an inventory of {found!r}; the vault's bucket is {wanted}.",
        code="wrong_bucket",
        remedy="Import the inventory of the vault's own bucket.",
    )


def decoded(cell: str) -> str:
    """A key as S3 writes it in CSV: form-encoded. Raises BadRow."""
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


def _time(cell: str) -> int | None:
    """Microseconds since 1970; without a zone it is UTC."""
    if not cell:
        return None
    try:
        moment = datetime.fromisoformat(cell)
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND
    except (ValueError, OverflowError):
        raise BadRow(Bad.TIME) from None
