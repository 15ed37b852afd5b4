"""An import as chunks: nothing is done twice, nothing is seen too early, and nothing is left behind."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models.functions import Now

from indexing import inputs, merge
from indexing.inventory import delivery, sql
from indexing.inventory.importing import Source, drop_stale, merge_staged, start_import
from indexing.inventory.loading import MOST_CHUNKS, load_chunks
from indexing.models import IndexState, RemoteObject
from tests.integration.indexing.staged import pieces_of
from tests.support.deliveries import csv_bytes, deliver, row
from vaulthalla import cli
from vaulthalla.errors import Refused, VaulthallaError
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import claim, drive, execute, request_cancel, sweep
from vaulthalla.work.models import Chunk, Queue, Run, RunStatus
from vaulthalla.work.runs import failure_of

pytestmark = pytest.mark.django_db(transaction=True)

AS_OF = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """What belongs to runs of other tests is no table of the models, so nobody else removes it."""
    yield
    for _, name in sql.staged():
        sql.drop(name)


def started(vault: Vault, folder: Path, *names: str, form: str = "CSV") -> Run:
    """An import of one file an object, of which nothing was done yet."""
    manifest = deliver(folder, [[row(name)] for name in names], as_of=AS_OF, form=form)
    return start_import(vault, Source(manifest=str(manifest)))


def work(run: Run) -> str:
    """One chunk; its kind."""
    lease = claim(Queue.values, run_id=run.pk)
    assert lease is not None
    execute(lease)
    return lease.kind


def test_nothing_is_seen_before_the_end(vault: Vault, tmp_path: Path) -> None:
    run = started(vault, tmp_path, "a", "b")
    assert [work(run), work(run)] == ["inventory.load"] * 2
    assert not RemoteObject.objects.exists()
    assert len(sql.staged()) == 2
    assert work(run) == "inventory.merge"
    assert RemoteObject.objects.count() == 2
    assert drive(run.pk).status == RunStatus.SUCCESS
    assert sql.staged() == []


@pytest.mark.parametrize("form", ["CSV", "Parquet"])
def test_what_was_loaded_is_not_loaded_again(vault: Vault, tmp_path: Path, form: str) -> None:
    run = started(vault, tmp_path, "a", "b", form=form)
    work(run)
    done = Chunk.objects.get(run=run, status="done")
    Path(done.payload["parts"][0]["file"]["path"]).unlink()
    # The command that is given again goes on with the run: its delivery was whole when it began.
    assert drive(run.pk).status == RunStatus.SUCCESS
    assert RemoteObject.objects.count() == 2


def test_a_chunk_that_lost_its_lease_leaves_no_row(vault: Vault, tmp_path: Path) -> None:
    run = started(vault, tmp_path, "a")
    lease = claim(Queue.values, run_id=run.pk)
    assert lease is not None
    dead = sql.stage(run.pk, lease.token)
    sql.load(dead, pieces_of(row("zombie")))
    Chunk.objects.filter(pk=lease.chunk_id).update(status="pending", lease_token=None, lease_until=None)
    assert drive(run.pk).status == RunStatus.SUCCESS
    assert [found.key for found in RemoteObject.objects.all()] == ["a"]
    assert sql.staged() == []


def test_the_same_import_is_joined(vault: Vault, tmp_path: Path) -> None:
    run = started(vault, tmp_path, "a", "b")
    work(run)
    manifest = run.options["source"]["manifest"]
    assert start_import(vault, Source(manifest=manifest)).pk == run.pk


def test_detached(vault: Vault, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = deliver(tmp_path, [[row("a")], [row("b")]], as_of=AS_OF)
    order = ["vault", "sync", "inventory", vault.name, "--manifest", str(manifest), "--json"]
    assert cli.run([*order, "--detach"]) == 0
    left = json.loads(capsys.readouterr().out)
    assert (left["vault"], left["status"]) == (vault.name, "planning")
    assert not RemoteObject.objects.exists()
    assert cli.run(order) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["run"], said["objects_indexed"]) == (left["run"], 2)


def test_a_cancelled_import_leaves_nothing(vault: Vault, tmp_path: Path) -> None:
    run = started(vault, tmp_path, "a", "b")
    work(run)
    request_cancel(run.pk)
    assert drive(run.pk).status == RunStatus.CANCELLED
    assert not RemoteObject.objects.exists()
    assert sql.staged() == []


def test_a_refused_import_leaves_nothing(vault: Vault, tmp_path: Path) -> None:
    run = started(vault, tmp_path, "a", "b")
    work(run)
    pending = Chunk.objects.get(run=run, status="pending")
    Path(pending.payload["parts"][0]["file"]["path"]).write_bytes(b"")
    ended = drive(run.pk)
    assert (ended.status, ended.error_code) == (RunStatus.FAILED, "input_damaged")
    assert sql.staged() == []
    assert not IndexState.objects.filter(complete=True).exists()


def test_a_merge_that_nobody_heard_of_is_not_made_again(vault: Vault, tmp_path: Path) -> None:
    run = started(vault, tmp_path, "a", "b")
    work(run)
    work(run)
    lease = claim([Queue.INDEX], run_id=run.pk)
    assert lease is not None
    merge_staged(lease)
    # Killed before the chunk had ended.
    Chunk.objects.filter(pk=lease.chunk_id).update(lease_until=Now() - timedelta(seconds=1))
    sweep()
    ended = drive(run.pk)
    assert (ended.status, ended.result["added"], ended.result["objects_indexed"]) == (RunStatus.SUCCESS, 2, 2)


def loaded(run: Run) -> bool:
    """Whether a run, once it is over, has read files."""
    ended = drive(run.pk)
    assert ended.status == RunStatus.SUCCESS, ended.error_message
    return ended.chunks.filter(kind="inventory.load").exists()


@pytest.mark.parametrize("form", ["CSV", "Parquet", "ORC"])
def test_the_same_delivery_is_not_loaded_twice(vault: Vault, tmp_path: Path, form: str) -> None:
    first = drive(started(vault, tmp_path, "a", "b", form=form).pk)
    source = Source(**first.options["source"])
    for _ in range(2):
        again = start_import(vault, source)
        assert not loaded(again)
        again.refresh_from_db()
        told = {name: again.result[name] for name in ("objects_indexed", "added", "changed", "removed", "as_of")}
        assert list(told.values()) == [2, 0, 0, 0, "2026-11-20T00:00:00Z"]
        assert again.result["known_from"] == first.pk
    # Whoever insists has it read.
    assert loaded(start_import(vault, source, replace=True))


def test_a_known_delivery_that_was_damaged_is_refused(vault: Vault, tmp_path: Path) -> None:
    source = Source(**drive(started(vault, tmp_path, "a").pk).options["source"])
    [data] = tmp_path.rglob("*.csv.gz")
    whole = data.read_bytes()
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    error = failure_of(drive(start_import(vault, source).pk))
    assert (error.code, "its MD5 is" in error.message) == ("input_damaged", True)


SCHEMA = "bucket,key,size,last_modified_date,etag,storage_class"
KNOWN: dict[str, Callable[[Path, dict[str, str]], object]] = {
    "other bytes": lambda file, options: file.write_bytes(csv_bytes([row("b")])),
    "another time": lambda file, options: options.update(as_of="2026-11-20T00:00:01Z"),
    "another prefix": lambda file, options: options.update(part="a"),
    "another schema": lambda file, options: options.update(schema=SCHEMA.replace("storage_class", "x")),
}


def of_file(vault: Vault, file: Path, names: Sequence[str] = (), **options: str) -> Run:
    """An import of one file, of certain keys where any are named."""
    if names:
        file.write_bytes(csv_bytes([row(name) for name in names]))
    part = options.pop("part", "")
    given = {"schema": SCHEMA, "as_of": AS_OF.isoformat(), **options}
    return start_import(vault, Source(file=str(file), **given), part=part)


@pytest.mark.parametrize("differs", KNOWN)
def test_what_is_not_the_same_delivery_is_loaded(vault: Vault, tmp_path: Path, differs: str) -> None:
    file, options = tmp_path / "f.csv", dict[str, str]()
    assert loaded(of_file(vault, file, ["a"]))
    assert not loaded(of_file(vault, file))
    KNOWN[differs](file, options)
    assert loaded(of_file(vault, file, **options))


def test_an_index_that_forgot_or_went_on_is_told_again(vault: Vault, tmp_path: Path) -> None:
    source = Source(**drive(started(vault, tmp_path, "a").pk).options["source"])
    IndexState.objects.update(snapshot_as_of=AS_OF + timedelta(days=1))
    assert loaded(start_import(vault, source))
    merge.reset(vault.pk)
    assert loaded(start_import(vault, source))


def test_an_import_counts_once_it_is_merged(vault: Vault, tmp_path: Path) -> None:
    """Whatever becomes of its run: the one before it is not the last one any more."""
    loaded(of_file(vault, tmp_path / "a.csv", ["a", "both"]))
    merge.reset(vault.pk)
    other = of_file(vault, tmp_path / "b.csv", ["b", "both"])
    while work(other) != "inventory.merge":
        pass
    request_cancel(other.pk)
    assert drive(other.pk).status == RunStatus.CANCELLED
    assert loaded(of_file(vault, tmp_path / "a.csv"))
    assert {found.key for found in RemoteObject.objects.filter(tombstone=False)} == {"a", "b", "both"}


def test_an_import_in_the_way_counts(vault: Vault, tmp_path: Path) -> None:
    """What is known is found out when no other import can come between."""
    loaded(of_file(vault, tmp_path / "a.csv", ["a", "both"]))
    of_file(vault, tmp_path / "b.csv", ["b", "both"])
    assert loaded(of_file(vault, tmp_path / "a.csv"))


def test_rows_that_a_crash_of_the_database_took(vault: Vault, tmp_path: Path) -> None:
    run = started(vault, tmp_path, "a", "b")
    work(run)
    work(run)
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {sql.staged()[0][1]}")
    error = failure_of(drive(run.pk))
    assert (error.code, error.remedy) == ("staging_lost", "Run the same command again.")
    assert not RemoteObject.objects.exists()


def test_tables_of_runs_that_are_gone_are_swept(vault: Vault, tmp_path: Path) -> None:
    run = started(vault, tmp_path, "a")
    kept, stale = sql.stage(run.pk, uuid4()), sql.stage(run.pk + 1000, uuid4())
    drop_stale()
    assert [name for _, name in sql.staged()] == [kept] != [stale]
    drive(run.pk)
    assert sql.staged() == []


def test_a_decompression_bomb(vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "BOMB_BYTES", 2**20)
    file = tmp_path / "bomb.csv.gz"
    header = b"bucket,key,size,etag\n"
    file.write_bytes(gzip.compress(header + b"bucket,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,1,e\n" * 1_000_000))
    error = failure_of(drive(start_import(vault, Source(file=str(file))).pk))
    assert error.code == "input_damaged"
    assert "unpacks more than 300-fold" in error.message
    assert sql.staged() == []


def test_many_files_share_chunks(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_bytes(csv_bytes([row("a")]))
    one = delivery.of_file(file, schema="bucket,key,size,last_modified_date,etag,storage_class")
    many = delivery.Delivery(files=[*one.files] * 1001, as_of=AS_OF, columns=one.columns)
    chunks = load_chunks(many, common={})
    assert len(chunks) <= MOST_CHUNKS
    assert sum(len(chunk.payload["parts"]) for chunk in chunks) == 1001


def test_names_of_tables_are_looked_at() -> None:
    with pytest.raises(ValueError, match="no staging table"):
        sql.drop("indexing_remoteobject")


def test_a_key_is_needed_for_a_bucket(vault: Vault) -> None:
    with pytest.raises(VaulthallaError, match="There is no API key 'nobody'"):
        start_import(vault, Source(manifest="s3://b/k"), api_key="nobody")
    with pytest.raises(Refused, match="names no object"):
        start_import(vault, Source(manifest="s3://b"))
    assert not Run.objects.exists()
