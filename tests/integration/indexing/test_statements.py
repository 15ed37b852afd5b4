"""What the index asks of the database: as many statements whatever the size of a batch, and none that reads a table.

Statements are caught where all of them pass, below Django's own log: most of the index's go around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.db import connection, transaction

from indexing import merge, scanning, sql, state
from indexing.events import apply as applying
from indexing.events.records import Change, Effect
from indexing.inventory import sql as inventory_sql
from indexing.inventory.importing import Import
from indexing.models import ScanRange, Source
from indexing.order import Known
from indexing.ranges import Range
from tests.integration.indexing.staged import pieces_of
from tests.integration.indexing.test_manifest import another_host, looked, published
from tests.support import deliveries
from vaulthalla.stores import memory
from vaulthalla.stores.base import ObjectInfo, Page
from vaulthalla.stores.memory import MemoryBucket
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import drive

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime(2026, 11, 20, tzinfo=UTC)
ROWS = 20_000
EXPLAINED = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")


@pytest.fixture
def caught() -> Callable[[], Any]:
    """`with caught() as (statements, plans):`; plans are those that each statement was about to have."""
    execute = psycopg.Cursor.execute

    @contextmanager
    def catching() -> Iterator[tuple[list[str], list[str]]]:
        statements: list[str] = []
        plans: list[str] = []

        def noting(cursor: Any, query: Any, params: Any = None, **options: Any) -> Any:
            text = str(query).strip()
            statements.append(text)
            if text.upper().startswith(EXPLAINED):
                with psycopg.ClientCursor(cursor.connection) as other:
                    found = execute(other, f"EXPLAIN {text}", params).fetchall()
                plans.append("\n".join(str(line) for (line,) in found))
            return execute(cursor, query, params, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(psycopg.Cursor, "execute", noting)
            yield statements, plans

    return catching


def info(number: int, etag: str = "x") -> ObjectInfo:
    return ObjectInfo(key=f"{number:06}", size=5, etag=etag, last_modified=NOW, observed_at=NOW)


def known_rows(vault: Vault, count: int = ROWS) -> None:
    with transaction.atomic():
        for first in range(0, count, 5_000):
            merge.observe(vault.pk, [info(n) for n in range(first, min(first + 5_000, count))], source=Source.LIST)
        state.scan_begun(vault.pk, started_at=NOW, ranges=Range().divided(["005000", "010000"]))
    analyse("indexing_remoteobject")


def many_scans(vault: Vault) -> None:
    """Of other vaults."""
    others = [
        Vault(name=f"v{number}", kind="s3", root=f"/{number}", marker=uuid4(), api_key=vault.api_key, bucket="b")
        for number in range(300)
    ]
    Vault.objects.bulk_create(others)
    ScanRange.objects.bulk_create(
        ScanRange(vault=other, low=str(low), high=str(low + 1), reached=str(low), after=b"")
        for other in others
        for low in range(8)
    )
    analyse("indexing_scanrange")


def analyse(table: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {table}")


def changes(count: int, etag: str) -> list[Change]:
    """Every second one removes."""
    effects = (Effect.CREATED, Effect.REMOVED)
    return [
        Change(
            effect=effects[number % 2],
            bucket="bucket",
            key=f"{number:06}",
            at=NOW + timedelta(minutes=1),
            etag="" if number % 2 else etag,
            size=5,
            sequencer=f"{number:06X}",
        )
        for number in range(count)
    ]


def take_in(vault: Vault, count: int) -> None:
    with transaction.atomic():
        applying.apply(vault, changes(count, f"e{count}"))


def page_of(first: int, count: int, etag: str = "x") -> Page:
    found = [info(number, etag) for number in range(first, first + count)]
    return Page(objects=found, next_after=found[-1].key, observed_at=NOW + timedelta(minutes=2))


def import_of(vault: Vault, count: int) -> None:
    rows = [deliveries.row(f"{number:06}", etag=f"i{count}") for number in range(count)]
    table = inventory_sql.stage(1, uuid4())
    inventory_sql.load(table, pieces_of(*rows))
    with transaction.atomic():
        Import(vault=vault, as_of=NOW + timedelta(days=3), tables=[table], replace=True).merge()
    inventory_sql.drop(table)


@pytest.mark.parametrize("do", [take_in, import_of], ids=["events", "inventory"])
def test_a_batch_has_as_many_statements_whatever_its_size(
    vault: Vault, caught: Callable[[], Any], do: Callable[[Vault, int], None]
) -> None:
    known_rows(vault, 3_000)
    counts = []
    for size in (4, 1_900):
        with caught() as (statements, _):
            do(vault, size)
        counts.append(len(statements))
    assert counts[0] == counts[1] < 40


def test_a_page_has_as_many_statements_whatever_its_size(
    vault: Vault, buckets: dict[str, MemoryBucket], caught: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is committed with its rows, what they say is gone, its range and the lease."""
    counts = {}
    for keys, pages in ((10, 1), (10, 6), (300, 1), (300, 6)):
        one = another_host(vault)
        Vault.objects.filter(pk=one.pk).update(bucket=one.name)
        bucket = buckets[one.name] = MemoryBucket()
        for number in range(keys * pages):
            bucket.write(f"{number:06}", b"x")
        monkeypatch.setattr(memory, "PAGE_KEYS", keys)
        run = scanning.start_reconcile(Vault.objects.get(pk=one.pk), allow_list_scan=True)
        with caught() as (statements, _):
            drive(run.pk)
        counts[keys, pages] = len(statements)
    assert counts[10, 1] == counts[300, 1]
    assert counts[10, 6] == counts[300, 6]
    assert (counts[10, 6] - counts[10, 1]) / 5 <= 12


def test_another_hosts_news_has_as_many_statements_whatever_its_size(
    vault: Vault, buckets: dict[str, MemoryBucket], caught: Callable[[], Any]
) -> None:
    other = another_host(vault)
    counts = []
    for size in (1, 3, 2_000):
        with transaction.atomic():
            merge.observe(vault.pk, [info(number, f"e{size}") for number in range(size)], source=Source.OWN)
        published(vault)
        with caught() as (statements, _):
            looked(other)
        counts.append(len(statements))
    # The first look found an index that knew nothing.
    assert counts[0] < counts[1] == counts[2] < 120


def bookkeeping(vault: Vault) -> None:
    """Of a scan's ranges, from its beginning to its end."""
    ranges = Range().divided(["005000", "010000"])
    with transaction.atomic():
        sql.begin(vault.pk)
        state.scan_begun(vault.pk, started_at=NOW, ranges=ranges)
        sql.ranges_moved(vault.pk, [ranges[0].past(page_of(0, 10), "000009")])
        assert [one.reached for one in sql.ranges_of(vault.pk)] == ["000009", "005000", "010000"]
        state.scan_finished(vault.pk, started_at=NOW)


def merges(vault: Vault) -> None:
    with transaction.atomic():
        merge.observe_page(vault.pk, page_of(100, 50, "y"), after="000099", last="000149", since=0)
        merge.as_known(vault.pk, [("000099", "000149", page_of(100, 50))])
        merge.merge_known(vault.pk, {"000200": Known(observed_at=NOW, source=Source.HEAD)}, source=Source.HEAD)
        applying.apply(vault, changes(40, "z"))
        sql.count_below(vault.pk, "0001")


def look_at_findings(vault: Vault) -> None:
    run = scanning.start_reconcile(vault, allow_list_scan=True, noted=True)
    with transaction.atomic():
        merge.observe_page(vault.pk, page_of(100, 50, "w"), after="000099", last="000149", since=0, noted=run.pk)
        assert len(sql.findings(run.pk, scanning.DIFFERENCES, after="", limit=10)) == 10
        sql.remember_scanned(run.pk, ["000001"])
        sql.forget_scanned(run.pk)


@pytest.mark.parametrize(
    ("do", "index"),
    [
        (bookkeeping, "indexing_scanrange_vault_id"),
        (merges, "indexing_remoteobject_pkey"),
        (look_at_findings, "indexing_finding_pkey"),
    ],
)
def test_no_statement_reads_a_whole_table(
    vault: Vault, caught: Callable[[], Any], do: Callable[[Vault], None], index: str
) -> None:
    known_rows(vault)
    many_scans(vault)
    with connection.cursor() as cursor:
        for table, column in (("indexing_finding", ", change"), ("indexing_scannedkey", "")):
            value = ", 'added'" if column else ""
            cursor.execute(
                f"INSERT INTO {table} (run_id, key{column}) SELECT n % 50 + 1000000, n::text{value}"
                " FROM generate_series(1, 20000) n"
            )
    for table in ("indexing_finding", "indexing_scannedkey", "indexing_indexstate"):
        analyse(table)
    with caught() as (_, plans):
        do(vault)
    assert any(index in plan for plan in plans)
    big = ("indexing_remoteobject", "indexing_scanrange", "indexing_finding", "indexing_scannedkey")
    for plan in plans:
        assert not any(f"Seq Scan on {table}" in plan for table in big), plan
