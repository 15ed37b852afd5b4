"""Reports as files: what is read of them, what is told of their lines, and what is refused as a whole."""

from __future__ import annotations

import gzip
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest

from budgets.bill_map import Format
from budgets.bill_read import LENS_COLUMNS, Line, Skipped, instant, read, whole
from tests.support.bills import ACCOUNT, LENS, cur, cur_line, lens, lens_line, r2, r2_group
from vaulthalla.errors import Refused
from vaulthalla.requests import RequestClass as R

CUR, LENSES, R2 = Format.AWS_CUR, Format.STORAGE_LENS, Format.R2_ANALYTICS


@pytest.fixture
def found(tmp_path: Path) -> object:
    def reading(content: bytes, report: Format) -> list[Line | Skipped]:
        file = tmp_path / "report"
        file.write_bytes(content)
        return list(read(str(file), report))

    return reading


PUTS = cur_line("Requests-Tier1", "PutObject", 12, bucket="photos")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_a_line_item(found, version: int, packed: bool) -> None:
    content = cur([PUTS], version=version)
    [line] = found(gzip.compress(content) if packed else content, CUR)
    assert (line.account, line.bucket, line.operation, line.quantity) == (ACCOUNT, "photos", "PutObject", 12)
    assert line.billed.request_class is R.PUT
    assert line.starts_at == datetime(2026, 11, 5, 10, tzinfo=UTC)
    assert line.ends_at == datetime(2026, 11, 5, 11, tzinfo=UTC)


def test_lines_that_count_no_requests_are_told_by_reason(found) -> None:
    lines = [
        cur_line("TimedStorage-ByteHrs", "StandardStorage", "0.0000123"),
        cur_line("BoxUsage:t3.micro", "RunInstances", 1, ProductCode="AmazonEC2"),
        cur_line("Requests-Tier1", "PutObject", 1, LineItemType="Tax"),
        cur_line("Requests-Tier1", "PutObject", 1, LineItemType="Credit"),
        PUTS,
    ]
    *skipped, line = found(cur(lines), CUR)
    assert [one.reason for one in skipped] == ["no_requests", "other_product", "not_usage", "not_usage"]
    assert [one.number for one in skipped] == [2, 3, 4, 5]
    assert (any(one.bad for one in skipped), line.quantity) == (False, 12)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount": "1.5"}, "bad_quantity"),
        ({"amount": "-1"}, "bad_quantity"),
        ({"amount": "NaN"}, "bad_quantity"),
        ({"amount": ""}, "bad_quantity"),
        ({"amount": "1e30"}, "bad_quantity"),
        ({"start": "5 November"}, "bad_date"),
        ({"start": "9999-12-31T10:00:00Z", "end": "9999-12-31T11:00:00Z"}, "bad_date"),
        ({"start": "9999-12-31T23:00:00-05:00"}, "bad_date"),
        ({"end": "0001-01-01T00:00:00+05:00"}, "bad_date"),
        ({"operation": "Put\0Object"}, "bad_name"),
        ({"operation": "P" * 5000}, "bad_name"),
        ({"bucket": "photos\0"}, "bad_name"),
        ({"bucket": "p" * 5000}, "bad_name"),
        ({"UsageAccountId": "1" * 65}, "bad_name"),
        ({"end": ""}, "bad_date"),
        ({"end": "2026-11-05T10:00:00Z"}, "not_within_a_day"),
        # Billed by the month, or over midnight: no day to compare it with.
        ({"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"}, "not_within_a_day"),
        ({"start": "2026-11-05T23:30:00Z", "end": "2026-11-06T00:30:00Z"}, "not_within_a_day"),
    ],
)
def test_a_bad_line_is_told_and_the_rest_is_read(found, change: dict[str, str], reason: str) -> None:
    bad = cur_line("Requests-Tier1", **{"operation": "PutObject", "amount": 1, **change})
    skipped, line = found(cur([bad, PUTS]), CUR)
    assert (skipped, line.quantity) == (Skipped(number=2, reason=reason, bad=True), 12)


def test_a_line_with_too_few_columns(found) -> None:
    assert found(cur([PUTS]) + b"a,b,c\n", CUR)[1] == Skipped(number=3, reason="too_few_columns", bad=True)


def test_a_last_line_need_not_end_with_a_newline(found) -> None:
    assert [line.quantity for line in found(cur([PUTS, PUTS])[:-1], CUR)] == [12, 12]


def test_a_line_that_is_too_short_for_a_column_named_twice(found) -> None:
    content = cur([PUTS]).replace(b"product/region", b"lineItem/UsageAmount")
    assert found(content + b",".join([b"x"] * 17) + b"\n", CUR)[1].reason == "too_few_columns"


def test_numbers_are_those_of_lines_of_the_file(found) -> None:
    quoted = cur_line("TimedStorage-ByteHrs", "x", 1, LineItemDescription="two\nlines")
    _, bad = found(cur([quoted]) + b"\na,b\n", CUR)
    assert bad.number == 5


@pytest.mark.parametrize(
    ("content", "report", "why"),
    [
        (b"", CUR, "lacks the columns"),
        (b"\n", CUR, "lacks the columns"),
        (b"a,b,c\n1,2,3\n", CUR, "line_item_usage_type"),
        (cur([PUTS]).replace(b"lineItem/UsageEndDate", b"x"), CUR, "columns line_item_usage_end_date"),
        (gzip.compress(cur([PUTS] * 500))[:-20], CUR, "ends or breaks"),
        (b"\x1f\x8bnot gzip at all", CUR, "ends or breaks"),
        (cur([PUTS, PUTS])[:-90], CUR, "in the middle of line 3"),
        (gzip.compress(cur([PUTS, PUTS])[:-90]), CUR, "in the middle of line 3"),
        (lens([lens_line("b", "GetRequests", 1)] * 2)[:-20], LENSES, "in the middle of line 3"),
        (cur([PUTS]) + b"\xff\xfe\n", CUR, "ends or breaks"),
        (cur([PUTS]), LENSES, "Storage Lens"),
        (lens([lens_line("b", "GetRequests", 1)]), CUR, "lacks the columns"),
        (b"{}", R2, "no data"),
        (b"[]", R2, "no answer"),
        (b"{", R2, "no answer"),
        (b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}", R2, "no answer"),
        (cur([PUTS]), R2, "no answer"),
        (r2([], errors=[{"message": "quota exceeded"}]), R2, "quota exceeded"),
        (r2([r2_group("PutObject", "many")]), R2, "no answer"),
        (r2([r2_group("PutObject", 1.5)]), R2, "no answer"),
    ],
)
def test_what_is_no_such_report_is_refused(found, content: bytes, report: Format, why: str) -> None:
    with pytest.raises(Refused, match=why) as refused:
        found(content, report)
    assert refused.value.code == "bill_malformed"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(Refused) as refused:
            list(read(str(path), CUR))
        assert refused.value.code == "file_unreadable"


@pytest.mark.parametrize("header", [True, False])
def test_storage_lens(found, header: bool) -> None:
    lines = [
        lens_line("photos", "GetRequests", 34),
        lens_line("", "GetRequests", 99, record="ACCOUNT"),
        lens_line("photos", "StorageBytes", 10**9),
        lens_line("photos", "PutRequests", "-3"),
        lens_line("", "PutRequests", 3),
        lens_line("photos", "GetRequests", 1, day="9999-12-31"),
        lens_line("p" * 256, "GetRequests", 1),
        lens_line("photos", "BytesDownloaded", 5, day="20261106"),
    ]
    first, account, storage, negative, nameless, late, long, last = found(lens(lines, header=header), LENSES)
    assert (first.bucket, first.quantity, first.billed.request_class) == ("photos", 34, R.GET)
    assert (first.starts_at.isoformat(), first.ends_at.isoformat()) == (
        "2026-11-05T00:00:00+00:00",
        "2026-11-06T00:00:00+00:00",
    )
    assert [one.reason for one in (account, storage, negative, nameless, late, long)] == [
        "other_record",
        "no_requests",
        "bad_quantity",
        "no_bucket",
        "bad_date",
        "bad_name",
    ]
    assert [one.bad for one in (account, storage, negative, nameless, late, long)] == [False] * 2 + [True] * 4
    assert last.starts_at.day == 6


def test_the_order_of_columns_is_the_documented_one() -> None:
    assert LENS_COLUMNS == LENS


def test_r2_by_the_day_and_by_the_hour(found) -> None:
    groups = [
        r2_group("PutObject", 3),
        r2_group("GetObject", 4, bucket="eu_photos", datetime="2026-11-05T10:42:17Z"),
        r2_group("ListBuckets", 1, bucket=None, datetimeHour="2026-11-05T11:00:00Z"),
        r2_group("PutSomethingNew", 1),
        {"dimensions": {"actionType": "PutObject"}, "sum": {"requests": 1}},
        {"dimensions": {"date": "2026-11-05"}, "sum": {"requests": 1}},
        r2_group("PutObject", -1),
        r2_group("PutObject", 1, date="9999-12-31"),
        r2_group("PutObject", 1, datetime="9999-12-31T23:30:00Z"),
        r2_group("PutObject", 1, bucket="pho\0tos"),
    ]
    day, hour, nameless, *rest = found(r2(groups), R2)
    assert (day.quantity, (day.ends_at - day.starts_at).days) == (3, 1)
    assert (hour.bucket, hour.starts_at.hour, (hour.ends_at - hour.starts_at).seconds) == ("photos", 10, 3600)
    assert (nameless.bucket, nameless.billed.request_class) == ("", None)
    assert [(one.number, one.reason, one.bad) for one in rest] == [
        (4, "unknown_operation", False),
        (5, "no_date", True),
        (6, "no_action", True),
        (7, "bad_quantity", True),
        (8, "bad_date", True),
        (9, "bad_date", True),
        (10, "bad_name", True),
    ]


def test_several_answers_one_a_line(found) -> None:
    content = b"\n".join(r2([r2_group("PutObject", count)]) for count in (1, 2)) + b"\n"
    assert [line.quantity for line in found(content, R2)] == [1, 2]


@pytest.mark.parametrize(
    ("text", "value"), [("12", 12), ("12.0000000000", 12), ("1E+3", 1000), ("0", 0), (str(2**63 - 1), 2**63 - 1)]
)
def test_whole_numbers_as_reports_write_them(text: str, value: int) -> None:
    assert whole(text) == value


@pytest.mark.parametrize(
    "text", ["2026-11-05T10:00:00Z", "2026-11-05 10:00:00.000", "2026-11-05T12:00:00+02:00", "2026-11-05T10:00:00.000Z"]
)
def test_instants_are_utc(text: str) -> None:
    assert instant(text) == datetime(2026, 11, 5, 10, tzinfo=UTC)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for lines in (500, 10_000):
        file = tmp_path / f"{lines}.csv.gz"
        file.write_bytes(gzip.compress(cur([PUTS] * lines)))
        tracemalloc.start()
        assert sum(1 for _ in read(str(file), CUR)) == lines
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000
