"""Bills in the database: imported once however often they are given, and compared with what was booked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from budgets.bill_report import as_csv, comparison
from budgets.bills import import_bill
from budgets.catalog import store
from budgets.catalog_builtin import builtin
from budgets.catalog_file import Prices
from budgets.class_use import by_storage_class, keep_classes
from budgets.ledger import report
from budgets.models import BillLine, ClassUse, DaySpend
from budgets.pricing import Catalog, Charge, Rate, Unit, Usage
from tests.support.bills import cur, cur_line, lens, lens_line, r2, r2_group
from vaulthalla.errors import NotFound, Refused
from vaulthalla.requests import RequestClass as R
from vaulthalla.vaults.models import ApiKey, Provider, SyncPolicy, Vault, VaultKind

pytestmark = pytest.mark.django_db

NOVEMBER = date(2026, 11, 1)
Files = Callable[..., list[str]]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    def write(*contents: bytes) -> list[str]:
        paths = []
        for content in contents:
            path = tmp_path / uuid4().hex
            path.write_bytes(content)
            paths.append(str(path))
        return paths

    return write


def vault_on(bucket: str, *, provider: str = Provider.AWS, name: str = "", storage_class: str = "") -> Vault:
    key, _ = ApiKey.objects.get_or_create(name=provider, provider=provider, defaults={"secret": "secret"})
    vault = Vault.objects.create(
        name=name or bucket,
        kind=VaultKind.S3,
        root=f"/{bucket}",
        api_key=key,
        bucket=bucket,
        storage_class=storage_class,
        marker=uuid4(),
    )
    SyncPolicy.objects.create(vault=vault)
    return vault


def booked(vault: Vault, day: str, *, run: int = 1, lost: int = 0, **used: int) -> None:
    provider = {"aws": "aws-s3", "cloudflare-r2": "cloudflare-r2"}[vault.api_key.provider]  # type: ignore[union-attr]
    for name, count in used.items():
        DaySpend.objects.create(
            run_id=run, vault_id=vault.pk, provider=provider, bucket=vault.bucket, currency="USD",
            day=date.fromisoformat(day), request_class=name, used=count, lost=lost,
        )  # fmt: skip


def puts(amount: int | str, hour: int = 10, **more: str) -> dict[str, str]:
    time = {"start": f"2026-11-05T{hour:02}:00:00Z", "end": f"2026-11-05T{hour + 1:02}:00:00Z"}
    return cur_line("Requests-Tier1", "PutObject", amount, **{"bucket": "photos", **time, **more})


def stored() -> dict[str, int]:
    rows = BillLine.objects.order_by("starts_at", "operation")
    return {f"{row.starts_at:%d %H} {row.operation}": row.quantity for row in rows}


def test_the_same_file_twice_counts_once(files: Files) -> None:
    paths = files(cur([puts(5), puts(3, 11)]))
    first = import_bill(paths, "aws-cur", None)
    assert (first["lines"], first["used"], first["added"], first["replaced"]) == (2, 2, 2, 0)
    assert first["from"] == datetime(2026, 11, 5, 10, tzinfo=UTC)
    again = import_bill(paths, "aws-cur", None)
    assert (again["added"], again["replaced"]) == (0, 2)
    assert stored() == {"05 10 PutObject": 5, "05 11 PutObject": 3}


def test_overlapping_periods_count_once_and_the_later_word_stands(files: Files) -> None:
    import_bill(files(cur([puts(5), puts(3, 11)])), "aws-cur", None)
    import_bill(files(cur([puts(4, 11), puts(2, 12)])), "aws-cur", None)
    assert stored() == {"05 10 PutObject": 5, "05 11 PutObject": 4, "05 12 PutObject": 2}


def test_by_the_hour_and_by_the_day_are_the_same_requests(files: Files) -> None:
    import_bill(files(cur([puts(5), puts(3, 11)])), "aws-cur", None)
    daily = puts(9, start="2026-11-05T00:00:00Z", end="2026-11-06T00:00:00Z")
    import_bill(files(cur([daily])), "aws-cur", None)
    assert stored() == {"05 00 PutObject": 9}
    import_bill(files(cur([puts(5)])), "aws-cur", None)
    assert stored() == {"05 10 PutObject": 5}


def test_lines_of_one_key_are_summed_over_the_parts_of_a_report(files: Files) -> None:
    """Prices in steps are billed on lines of their own, and a report comes in parts."""
    import_bill(files(cur([puts(5), puts(7)]), cur([puts(1)], version=2)), "aws-cur", None)
    assert stored() == {"05 10 PutObject": 13}


@pytest.mark.parametrize(
    "content",
    [b"", b"no,such,report\n1,2,3\n", cur([puts(1)]) + b"\xff\xff\n", cur([puts("x")] * 11 + [puts(1)] * 100)],
)
def test_a_malformed_file_stores_nothing(files: Files, content: bytes) -> None:
    with pytest.raises(Refused) as refused:
        import_bill(files(cur([puts(1)]), content), "aws-cur", None)
    assert refused.value.code == "bill_malformed"
    assert not BillLine.objects.exists()


def test_more_than_can_be_stored_is_refused_and_told_where(files: Files) -> None:
    most = str(2**63 - 1)
    with pytest.raises(Refused, match="PutObject in photos at 2026-11-05 10:00") as refused:
        import_bill(files(cur([puts(1, 9), puts(most), puts(1)])), "aws-cur", None)
    assert refused.value.code == "bill_malformed"
    assert not BillLine.objects.exists()
    import_bill(files(cur([puts(most), puts(most, 11)])), "aws-cur", None)
    [source] = comparison(NOVEMBER)["sources"]
    assert source["foreign"]["requests"] == 2 * (2**63 - 1)


def test_a_report_without_requests_is_refused(files: Files) -> None:
    with pytest.raises(Refused, match="1 no_requests"):
        import_bill(files(cur([cur_line("TimedStorage-ByteHrs", "StandardStorage", 1)])), "aws-cur", None)


def test_some_bad_lines_are_told(files: Files) -> None:
    found = import_bill(files(cur([puts("x"), puts("-1"), puts(1), puts(2, start="then")])), "aws-cur", None)
    assert found["bad"]["reasons"] == {"bad_date": 1, "bad_quantity": 2}
    assert [(one["line"], one["reason"]) for one in found["bad"]["first"]] == [
        (2, "bad_quantity"),
        (3, "bad_quantity"),
        (5, "bad_date"),
    ]


def test_names_that_are_none(files: Files) -> None:
    paths = files(cur([puts(1)]))
    for given, told in [
        ((paths, "cur", None), "--format"),
        ((paths, "aws-cur", "acme"), "--provider"),
        ((paths * 2, "aws-cur", None), "--file"),
        (([*paths, paths[0].replace("/", "/./")], "aws-cur", None), "--file"),
    ]:
        with pytest.raises(Refused, match=told):
            import_bill(*given)
    with pytest.raises(NotFound, match="2026-11"):
        comparison(NOVEMBER)


def test_a_month_beside_the_bill(files: Files) -> None:
    photos, films = vault_on("photos"), vault_on("films")
    booked(photos, "2026-11-05", put=10, get=4, list=1, lost=2)
    booked(photos, "2026-11-06", run=2, put=1)
    booked(photos, "2026-10-31", run=3, put=50)
    booked(films, "2026-11-05", run=4, put=3)
    booked(films, "2026-11-20", run=5, put=30)
    lines = [
        puts(11),
        cur_line("Requests-Tier1", "ListBucket", 1, bucket="photos"),
        cur_line("Requests-Tier2", "GetObject", 9, bucket="photos"),
        puts(1, bucket="photos", start="2026-11-06T23:00:00Z", end="2026-11-07T00:00:00Z"),
        puts(77, bucket="of others"),
        puts(6, bucket="", start="2026-11-01T00:00:00Z", end="2026-11-01T01:00:00Z"),
        puts(500, start="2026-12-01T00:00:00Z", end="2026-12-01T01:00:00Z"),
    ]
    import_bill(files(cur(lines)), "aws-cur", None)
    [source] = comparison(NOVEMBER)["sources"]
    assert (source["from"], source["until"], source["counted_on_other_days"]) == ("2026-11-01", "2026-11-06", 30)
    found = {place["bucket"]: place for place in source["buckets"]}
    assert list(found) == ["films", "photos"]
    assert found["photos"]["vaults"] == ["photos"]
    tiers = {row["name"]: row for row in found["photos"]["tiers"]}
    assert {k: tiers["tier1"][k] for k in ("counted", "lost", "billed", "drift", "drift_percent", "verdict")} == {
        "counted": 12,
        "lost": 4,
        "billed": 13,
        "drift": 1,
        "drift_percent": "8.33",
        "verdict": "within",
    }
    assert (tiers["tier2"]["drift"], tiers["tier2"]["verdict"]) == (5, "above")
    assert [row["verdict"] for row in found["films"]["tiers"]] == ["below"]
    assert source["unattributed"] == {"requests": 6, "operations": {"PutObject": 6}}
    assert source["foreign"] == {"buckets": 1, "requests": 77}
    assert len(source["notes"]) == 2
    rows = as_csv(comparison(NOVEMBER)).splitlines()
    assert rows[0].startswith(
        "month,source,provider,from,until,bucket,vaults,kind,tier,name,counted,lost,unbilled,billed,drift"
    )
    assert "2026-11,aws-cur,aws-s3,2026-11-01,2026-11-06,photos,photos,tier,tier1,tier1,12,4,0,13,1,8.33,within" in rows


def test_vaults_that_share_a_bucket_are_compared_together_and_outlive_themselves(files: Files) -> None:
    one = vault_on("photos", name="one")
    two = vault_on("photos", name="two")
    booked(one, "2026-11-05", put=5)
    booked(two, "2026-11-05", run=2, put=6)
    two.delete()
    import_bill(files(cur([puts(11)])), "aws-cur", None)
    BillLine.objects.update(imported_at=datetime(2026, 12, 1, tzinfo=UTC))
    [source] = comparison(NOVEMBER)["sources"]
    [place] = source["buckets"]
    assert place["tiers"][0]["verdict"] == "within"
    assert place["vaults"][-1] == "one"
    assert len(place["vaults"]) == 2


def test_every_source_has_its_own_word(files: Files) -> None:
    photos, sea = vault_on("photos"), vault_on("sea", provider=Provider.CLOUDFLARE_R2)
    booked(photos, "2026-11-05", put=5, copy=2, get=1, downloaded_bytes=10)
    booked(sea, "2026-11-05", run=2, put=2, get=3)
    lines = [lens_line("photos", "PutRequests", 6), lens_line("photos", "PostRequests", 1)]
    lines += [lens_line("photos", "GetRequests", 1), lens_line("photos", "BytesDownloaded", 10)]
    import_bill(files(lens(lines)), "storage-lens", None)
    groups = [r2_group("PutObject", 2, bucket="sea"), r2_group("GetObject", 3, bucket="eu_sea")]
    import_bill(files(r2(groups)), "r2-analytics", None)
    first, second = comparison(NOVEMBER)["sources"]
    assert (first["source"], second["source"]) == ("r2-analytics", "storage-lens")
    verdicts = {row["name"]: row["verdict"] for source in (first, second) for row in source["buckets"][0]["tiers"]}
    assert verdicts == {
        "class_a": "within",
        "class_b": "within",
        "put_post": "within",
        "get": "within",
        "bytes": "within",
    }


def test_a_report_that_names_no_bucket_is_compared_with_all_vaults(files: Files) -> None:
    booked(vault_on("photos"), "2026-11-05", put=5)
    booked(vault_on("films"), "2026-11-05", run=2, put=6)
    day = puts(11, bucket="", start="2026-11-05T00:00:00Z", end="2026-11-06T00:00:00Z")
    import_bill(files(cur([day])), "aws-cur", None)
    [source] = comparison(NOVEMBER)["sources"]
    [place] = source["buckets"]
    assert (place["bucket"], place["vaults"], place["tiers"][0]["verdict"]) == (None, ["films", "photos"], "within")
    assert "whole account" in source["notes"][0]


# --- storage classes of a month ---


def test_r2_rounds_each_storage_class_up_by_itself() -> None:
    vault = vault_on("sea", provider=Provider.CLOUDFLARE_R2, storage_class="STANDARD_IA")
    booked(vault, "2026-11-05", put=10, get=5, list=1)
    booked(vault, "2026-11-06", run=2, put=7)
    standard = Usage(storage_class="STANDARD", requests={R.GET: 5})
    keep_classes(1, [standard, Usage(storage_class="STANDARD_IA", requests={R.PUT: 10, R.LIST: 1})])
    [bill] = report(NOVEMBER)["by_provider"]
    # Class A of IA, the LIST in class A of Standard, class B of Standard.
    assert bill["billed_rounded_up"] == "13.86"
    assert bill["storage_classes"] == {"STANDARD": 5, "STANDARD_IA": 18}
    # The second run is not over: its PUTs are in the class that the vault writes.
    assert bill["class_assumed"] == 7


def test_a_month_is_rounded_up_by_the_list_that_held_in_it() -> None:
    vault = vault_on("sea", provider=Provider.CLOUDFLARE_R2)
    booked(vault, "2026-11-05", put=1)
    [builtin_list] = [one for one in builtin() if one.catalog.provider == "cloudflare-r2"]
    dear = tuple(replace(rate, price=rate.price * 10) for rate in builtin_list.catalog.rates)
    for version, region, valid_from, told in (
        ("next", "*", datetime.now(UTC) + timedelta(days=40), "4.50"),
        ("after", "*", datetime(2026, 12, 1, tzinfo=UTC), "4.50"),
        ("own", "auto", datetime(2026, 11, 1, tzinfo=UTC), "45.00"),
    ):
        catalog = replace(builtin_list.catalog, version=version, region=region, rates=dear)
        store(Prices(catalog=catalog, valid_from=valid_from, source="a contract"))
        [bill] = report(NOVEMBER)["by_provider"]
        assert bill["billed_rounded_up"] == told


def test_only_who_rounds_up_is_told_rounded_up() -> None:
    booked(vault_on("photos"), "2026-11-05", put=1)
    rates = tuple(
        Rate(storage_class="*", charge=charge, unit=Unit.MILLION, price=Decimal(5))
        for charge in (Charge.PUT, Charge.COPY, Charge.LIST)
    )
    catalog = Catalog(provider="aws-s3", region="*", currency="USD", version="1", rates=rates)
    store(Prices(catalog=catalog, valid_from=datetime(2026, 11, 1, tzinfo=UTC), source="a contract"))
    [bill] = report(NOVEMBER)["by_provider"]
    assert (bill["billed_rounded_up"], bill["after_free_tier"]) == (None, None)


def test_a_run_over_two_months_is_in_both(files: Files) -> None:
    vault = vault_on("sea", provider=Provider.CLOUDFLARE_R2)
    booked(vault, "2026-10-31", copy=3)
    booked(vault, "2026-11-01", copy=1)
    keep_classes(1, [Usage(storage_class="STANDARD_IA", requests={R.COPY: 4}, copied_bytes=400)])
    found = {use.month.month: (use.quantity, use.copied_bytes) for use in ClassUse.objects.all()}
    assert found == {10: (3, 300), 11: (1, 100)}
    november = by_storage_class(DaySpend.objects.filter(day__gte=NOVEMBER))
    assert (november.assumed, november.usages[0].requests[R.COPY], november.usages[0].copied_bytes) == (0, 1, 100)


def test_a_run_over_two_months_is_billed_in_each_for_what_was_not_free_there(files: Files) -> None:
    vault = vault_on("sea", provider=Provider.CLOUDFLARE_R2)
    booked(vault, "2026-10-31", put=60)
    DaySpend.objects.update(unbilled=50)
    booked(vault, "2026-11-01", put=40)
    keep_classes(1, [Usage(storage_class="STANDARD", requests={R.PUT: 50})])
    months = (DaySpend.objects.filter(day__lt=NOVEMBER), DaySpend.objects.filter(day__gte=NOVEMBER))
    found = [by_storage_class(rows) for rows in months]
    assert [(one.assumed, one.usages[0].requests[R.PUT]) for one in found] == [(0, 10), (0, 40)]


def test_a_month_without_any_run() -> None:
    found: dict[str, Any] = report(NOVEMBER)
    assert found["by_provider"] == []
