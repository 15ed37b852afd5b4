"""Usage reports as providers deliver them: the columns they have, the spelling, and the lines that count nothing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

ACCOUNT = "123456789012"
# A legacy cost and usage report, with resource ids, by the hour; most of its columns are left out here.
CUR = (
    "identity/LineItemId", "identity/TimeInterval", "bill/InvoiceId", "bill/PayerAccountId",
    "bill/BillingPeriodStartDate", "lineItem/UsageAccountId", "lineItem/LineItemType", "lineItem/UsageStartDate",
    "lineItem/UsageEndDate", "lineItem/ProductCode", "lineItem/UsageType", "lineItem/Operation",
    "lineItem/ResourceId", "lineItem/UsageAmount", "lineItem/UnblendedRate", "lineItem/UnblendedCost",
    "lineItem/LineItemDescription", "product/region",
)  # fmt: skip
LENS = (
    "version_number", "configuration_id", "report_date", "aws_account_number", "aws_region", "storage_class",
    "record_type", "record_value", "bucket_name", "metric_name", "metric_value",
)  # fmt: skip


def cur_line(
    usage_type: str,
    operation: str,
    amount: int | str,
    *,
    bucket: str = "",
    start: str = "2026-11-05T10:00:00Z",
    end: str = "2026-11-05T11:00:00Z",
    **other: str,
) -> dict[str, str]:
    """One line item; any column may be given by its name without what is before the slash."""
    line = dict.fromkeys(CUR, "")
    line |= {
        "identity/LineItemId": "ktnmlcxo5m5ysplgqcw5f5kdbpyxjwnyqclc7y5hvz5fwdsn6jxa",
        "identity/TimeInterval": f"{start}/{end}",
        "bill/PayerAccountId": ACCOUNT,
        "bill/BillingPeriodStartDate": "2026-11-01T00:00:00Z",
        "lineItem/UsageAccountId": ACCOUNT,
        "lineItem/LineItemType": "Usage",
        "lineItem/UsageStartDate": start,
        "lineItem/UsageEndDate": end,
        "lineItem/ProductCode": "AmazonS3",
        "lineItem/UsageType": usage_type,
        "lineItem/Operation": operation,
        "lineItem/ResourceId": bucket,
        "lineItem/UsageAmount": amount if isinstance(amount, str) else f"{amount}.0000000000",
        "lineItem/UnblendedRate": "0.0000050000",
        "lineItem/LineItemDescription": "$0.005 per 1,000 PUT, COPY, POST, or LIST requests",
        "product/region": "us-east-1",
    }
    names = {name.partition("/")[2]: name for name in CUR}
    return line | {names[name]: value for name, value in other.items()}


def cur(lines: Iterable[dict[str, str]], *, version: int = 1) -> bytes:
    """The report: with CUR 2.0's column names, and times as it writes them, for version 2."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CUR if version == 1 else [_second(name) for name in CUR])
    for line in lines:
        cells = [line[name] for name in CUR]
        writer.writerow(cells if version == 1 else [_time(cell) for cell in cells])
    return out.getvalue().encode()


def _second(name: str) -> str:
    spelled = "".join(f"_{c.lower()}" if c.isupper() else c for c in name.replace("/", "_"))
    return spelled.replace("__", "_").replace("product_region", "product_region_code")


def _time(cell: str) -> str:
    return cell[:-1].replace("T", " ") + ".000" if len(cell) == 20 and cell.endswith("Z") else cell


def lens_line(
    bucket: str, metric: str, value: int | str, *, day: str = "2026-11-05", record: str = "BUCKET"
) -> tuple[str, ...]:
    named = bucket if record == "BUCKET" else ""
    return ("V_1", "dashboard", day, ACCOUNT, "us-east-1", "", record, named, named, metric, str(value))


def lens(lines: Iterable[tuple[str, ...]], *, header: bool = True) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([*([LENS] if header else []), *lines])
    return out.getvalue().encode()


def r2_group(action: str, requests: Any, *, bucket: str | None = "photos", **time: str) -> dict[str, Any]:
    named = {} if bucket is None else {"bucketName": bucket}
    when = time or {"date": "2026-11-05"}
    return {"dimensions": {"actionType": action, **named, **when}, "sum": {"requests": requests}}


def r2(groups: Iterable[dict[str, Any]], **more: Any) -> bytes:
    accounts = [{"r2OperationsAdaptiveGroups": list(groups)}]
    return json.dumps({"data": {"viewer": {"accounts": accounts}}, "errors": None, **more}).encode()
