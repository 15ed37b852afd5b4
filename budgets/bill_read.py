"""Providers' reports as they are delivered, line by line: nothing is collected, and nothing is stored here.

A file that is not what it is said to be is refused as a whole. A line that cannot be read is told with its number.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from io import SEEK_END, TextIOWrapper
from pathlib import Path
from typing import IO, Any

import msgspec

from budgets import bill_map
from budgets.bill_map import Billed, Format
from budgets.catalog_file import UNDECODABLE
from vaulthalla.errors import Refused

# Analytics answer at most ten thousand rows a query.
LARGEST_JSON = 64 * 2**20
GZIP = b"\x1f\x8b"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MOST = 2**63 - 1
FAILURES = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)

CUR_NEEDED = (
    "line_item_usage_type",
    "line_item_operation",
    "line_item_usage_amount",
    "line_item_usage_start_date",
    "line_item_usage_end_date",
)
# The order of Storage Lens exports, whose header is in the manifest beside them.
LENS_COLUMNS = (
    "version_number",
    "configuration_id",
    "report_date",
    "aws_account_number",
    "aws_region",
    "storage_class",
    "record_type",
    "record_value",
    "bucket_name",
    "metric_name",
    "metric_value",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """So many requests of one kind in one bucket, between two instants."""

    account: str
    bucket: str
    operation: str
    billed: Billed
    starts_at: datetime
    ends_at: datetime
    quantity: int

    def __post_init__(self) -> None:
        """Raises BadLine for names that the columns of BillLine do not hold."""
        names = (self.account, 64), (self.bucket, 255), (self.operation, 100), (self.billed.storage_class, 64)
        for name, longest in names:
            if len(name) > longest or "\0" in name:
                raise BadLine("bad_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A line without requests of ours, or, if `bad`, one that cannot be read."""

    number: int
    reason: str
    bad: bool = False


class BadLine(Exception):
    """The reason is the message."""


Found = Iterator[Line | Skipped]


def read(path: str, report: Format) -> Found:
    """The lines of one file, plain or gzipped. Raises Refused for what is no such report, or ends in the middle."""
    number = 0
    try:
        with _opened(path) as file:
            for number, found in _READERS[report](file, path):
                yield found if not isinstance(found, BadLine) else Skipped(number=number, reason=str(found), bad=True)
    except FAILURES as error:
        if number == 0 and isinstance(error, OSError) and error.strerror:
            raise Refused(
                f"{path}: {error.strerror}.", code="file_unreadable", remedy="Name a readable file."
            ) from None
        raise malformed(path, f"it ends or breaks after line {number}: {error}") from None


def malformed(path: str, why: str) -> Refused:
    return Refused(
        f"{path} cannot be imported: {why}.",
        code="bill_malformed",
        remedy="Nothing was stored. docs/cost-control.md shows what each format looks like.",
    )


def _opened(path: str) -> IO[bytes]:
    with Path(path).open("rb") as file:
        packed = file.read(2) == GZIP
    return gzip.open(path) if packed else Path(path).open("rb")  # type: ignore[return-value]


Rows = Any  # what csv.reader returns; its type has no public name in Python 3.11
Numbered = Iterator[tuple[int, Line | Skipped | BadLine]]


# --- AWS cost and usage reports ---


def _cur(file: IO[bytes], path: str) -> Numbered:
    """Legacy columns (`lineItem/UsageType`) and those of CUR 2.0 (`line_item_usage_type`) are the same, respelled."""
    with TextIOWrapper(file, "utf-8-sig", newline="") as text:
        yield from _cur_rows(csv.reader(text), file, path)


def _cur_rows(rows: Rows, file: IO[bytes], path: str) -> Numbered:
    columns = _columns(next(rows, []))
    if missing := [name for name in CUR_NEEDED if name not in columns]:
        raise malformed(path, f"line 1 lacks the columns {', '.join(missing)} of a cost and usage report")
    yield from _read_rows(rows, _cur_line, columns, file, path)


def _cur_line(row: list[str], columns: dict[str, int], number: int) -> Line | Skipped:
    cell = _cells(row, columns)
    if cell("line_item_product_code") not in ("", "AmazonS3"):
        return Skipped(number=number, reason="other_product")
    if cell("line_item_line_item_type") not in ("", "Usage"):
        return Skipped(number=number, reason="not_usage")
    operation = cell("line_item_operation")
    billed = bill_map.aws(cell("line_item_usage_type"), operation)
    if billed is None:
        return Skipped(number=number, reason="no_requests")
    starts_at, ends_at = instant(cell("line_item_usage_start_date")), instant(cell("line_item_usage_end_date"))
    if not starts_at < ends_at <= midnight_after(starts_at):
        # What is billed by the month cannot be compared day by day.
        raise BadLine("not_within_a_day")
    return Line(
        account=cell("line_item_usage_account_id"),
        bucket=bill_map.aws_bucket(cell("line_item_resource_id")),
        operation=operation or "unnamed",
        billed=billed,
        starts_at=starts_at,
        ends_at=ends_at,
        quantity=whole(cell("line_item_usage_amount")),
    )


# --- Storage Lens ---


def _lens(file: IO[bytes], path: str) -> Numbered:
    with TextIOWrapper(file, "utf-8-sig", newline="") as text:
        yield from _lens_rows(csv.reader(text), file, path)


def _lens_rows(rows: Rows, file: IO[bytes], path: str) -> Numbered:
    first: list[str] = next(rows, [])
    columns = _columns(first)
    headless = len(first) == len(LENS_COLUMNS) and first[0].startswith("V_")
    if headless:
        columns = {name: at for at, name in enumerate(LENS_COLUMNS)}
        yield rows.line_num, _or_bad(_lens_line, first, columns, rows.line_num)
    elif missing := [name for name in LENS_COLUMNS[2:] if name not in columns]:
        raise malformed(path, f"line 1 lacks the columns {', '.join(missing)} of a Storage Lens export")
    yield from _read_rows(rows, _lens_line, columns, file, path)


def _lens_line(row: list[str], columns: dict[str, int], number: int) -> Line | Skipped:
    cell = _cells(row, columns)
    # An account's row is the sum of its buckets', a prefix's a part of one.
    if cell("record_type") != "BUCKET":
        return Skipped(number=number, reason="other_record")
    metric = cell("metric_name")
    billed = bill_map.lens(metric, cell("storage_class"))
    if billed is None:
        return Skipped(number=number, reason="no_requests")
    bucket = cell("bucket_name")
    if not bucket:
        raise BadLine("no_bucket")
    day = instant(cell("report_date"))
    return Line(
        account=cell("aws_account_number"),
        bucket=bucket,
        operation=metric,
        billed=billed,
        starts_at=day,
        ends_at=day + DAY,
        quantity=whole(cell("metric_value")),
    )


# --- R2 analytics ---


class _Sum(msgspec.Struct):
    requests: int


class _Group(msgspec.Struct):
    dimensions: dict[str, Any]
    sum: _Sum


class _Account(msgspec.Struct):
    groups: list[_Group] = msgspec.field(name="r2OperationsAdaptiveGroups")
    account: str = msgspec.field(name="accountTag", default="")


class _Viewer(msgspec.Struct):
    accounts: list[_Account]


class _Data(msgspec.Struct):
    viewer: _Viewer


class _Error(msgspec.Struct):
    message: str = "an error without a message"


class _Answer(msgspec.Struct):
    data: _Data | None = None
    errors: list[_Error] | None = None


def _r2(file: IO[bytes], path: str) -> Numbered:
    """One answer of the GraphQL API, or one a line. Numbers are those of the rows."""
    content = file.read(LARGEST_JSON + 1)
    if len(content) > LARGEST_JSON:
        raise malformed(path, f"it is larger than {LARGEST_JSON} bytes; split it, one answer a file")
    number = 0
    for answer in _answers(content, path):
        if answer.errors or answer.data is None:
            told = "; ".join(error.message for error in answer.errors or ()) or "no data"
            raise malformed(path, f"the API answered with an error ({told})")
        for account in answer.data.viewer.accounts:
            for group in account.groups:
                number += 1
                yield number, _r2_line(group, account.account, number)


def _answers(content: bytes, path: str) -> list[_Answer]:
    try:
        try:
            return [msgspec.json.decode(content, type=_Answer)]
        except UNDECODABLE:
            lines = [line for line in content.splitlines() if line.strip()]
            if len(lines) < 2 or not all(line.lstrip().startswith(b"{") for line in lines):
                raise
            return [msgspec.json.decode(line, type=_Answer) for line in lines]
    except UNDECODABLE as error:
        raise malformed(path, f"it is no answer of r2OperationsAdaptiveGroups ({error})") from None


def _r2_line(group: _Group, account: str, number: int) -> Line | Skipped | BadLine:
    told = {name: value for name, value in group.dimensions.items() if isinstance(value, str)}
    action = told.get("actionType", "")
    if not action:
        return BadLine("no_action")
    billed = bill_map.r2(action)
    if billed is None:
        return Skipped(number=number, reason="unknown_operation")
    try:
        starts_at, ends_at = _period(told)
        if not 0 <= group.sum.requests <= MOST:
            raise BadLine("bad_quantity")
        return Line(
            account=account,
            bucket=bill_map.r2_bucket(told.get("bucketName", "")),
            operation=action,
            billed=billed,
            starts_at=starts_at,
            ends_at=ends_at,
            quantity=group.sum.requests,
        )
    except BadLine as bad:
        return bad


def _period(told: dict[str, str]) -> tuple[datetime, datetime]:
    """The day, or the hour that holds any finer time."""
    if "date" in told:
        day = instant(told["date"])
        return day, day + DAY
    times = [value for name, value in told.items() if name.startswith("datetime")]
    if not times:
        raise BadLine("no_date")
    hour = instant(times[0]).replace(minute=0, second=0, microsecond=0)
    return hour, hour + HOUR


# --- cells ---


Reading = Callable[[list[str], dict[str, int], int], Line | Skipped]


def _read_rows(rows: Rows, line: Reading, columns: dict[str, int], file: IO[bytes], path: str) -> Numbered:
    """Rows as what they are, or why they cannot be. Raises Refused where the last one was cut off."""
    width = max(columns.values()) + 1
    short = False
    for row in rows:
        if not row:
            continue
        short = len(row) < width
        yield rows.line_num, BadLine("too_few_columns") if short else _or_bad(line, row, columns, rows.line_num)
    if short and not _ends_with_newline(file):
        raise malformed(path, f"it ends in the middle of line {rows.line_num}")


def _ends_with_newline(file: IO[bytes]) -> bool:
    """Of a file that was read to its end. A gzipped one is read once more."""
    file.seek(-1, SEEK_END)
    return file.read(1) in (b"\n", b"\r")


def _or_bad(line: Reading, row: list[str], columns: dict[str, int], number: int) -> Line | Skipped | BadLine:
    try:
        return line(row, columns, number)
    except BadLine as bad:
        return bad


def _columns(header: list[str]) -> dict[str, int]:
    return {_snake(name): at for at, name in enumerate(header)}


def _snake(name: str) -> str:
    """`lineItem/UsageType` as `line_item_usage_type`."""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.strip()).replace("/", "_").lower()


def _cells(row: list[str], columns: dict[str, int]) -> Any:
    def cell(name: str) -> str:
        at = columns.get(name)
        return "" if at is None else row[at].strip()

    return cell


@lru_cache(maxsize=4096)
def instant(text: str) -> datetime:
    """ISO 8601, UTC where it names no zone. Raises BadLine."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadLine("bad_date") from None
    # In every time zone, and with a day more, still a date.
    if not 2000 <= found.year < 9999:
        raise BadLine("bad_date")
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def midnight_after(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0) + DAY


@lru_cache(maxsize=4096)
def whole(text: str) -> int:
    """A number of requests, written as reports do: `12.0000000000`. Raises BadLine."""
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise BadLine("bad_quantity") from None
    if not found.is_finite() or not 0 <= found <= MOST or found != found.to_integral_value():
        raise BadLine("bad_quantity")
    return int(found)


_READERS = {Format.AWS_CUR: _cur, Format.STORAGE_LENS: _lens, Format.R2_ANALYTICS: _r2}
