"""Deliveries in every format, on disk and in a bucket: what they cost, and what is left when something dies."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import Bucket, Vault, Vh
from tests.support.deliveries import deliver, many, row
from tests.support.proxy import Fault

AS_OF = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3)
ODD = ["a b", "a+b", "%41", "%20+%2B", "ü 🎉", "c,d"]
PATIENCE_SECONDS = 60


def rows(vault: Vault, *keys: str) -> list[list[str]]:
    assert vault.bucket is not None
    return [row(key, bucket=vault.bucket.name) for key in keys]


def keys(vh: Vh, vault: Vault) -> list[str]:
    found = vh.run("vault", "ls", vault.name, code=0).json
    entries = found["entries"] if isinstance(found, dict) else found
    return sorted(entry["path"] for entry in entries)


def count(vault: Vault) -> int:
    found: int = vault.vault("info")["index"]["object_count"]
    return found


def staged(vh: Vh) -> int:
    """Tables that imports have left behind."""
    url = vh.run("status", code=0).json["postgresql"]["url"]
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'inventory\\_staged%'").fetchone()
    assert found is not None
    return int(found[0])


@pytest.mark.parametrize("form", ["CSV", "ORC", "Parquet"])
def test_every_format(roto: Stage, create: CreateVault, vh: Vh, tmp_path: Path, form: str) -> None:
    vault = create(roto)
    assert vault.bucket is not None
    files = [rows(vault, *ODD[:3]), rows(vault, *ODD[3:])]
    manifest = deliver(tmp_path, files, as_of=AS_OF, bucket=vault.bucket.name, form=form)
    said = vault.measured("vault", "sync", "inventory", vault.name, "--manifest", str(manifest))
    assert (said["objects_indexed"], said["added"], said["rows_skipped"]) == (6, 6, 0)
    # S3 form-encodes keys in CSV alone.
    assert keys(vh, vault) == sorted(ODD)
    folder = manifest.parent.parent
    again = vault.measured("vault", "sync", "import-inventory", vault.name, "--latest", str(folder))
    assert (again["objects_indexed"], again["added"], again["changed"], again["removed"]) == (6, 0, 0, 0)
    assert count(vault) == 6


class Remote:
    """A bucket that deliveries go to."""

    def __init__(self, stage: Stage, vault: Vault, folder: Path) -> None:
        self.bucket = Bucket(server=stage.server, name=f"inventories-{uuid4().hex[:8]}").create()
        self.vault, self.folder = vault, folder

    @property
    def config(self) -> str:
        assert self.vault.bucket is not None
        return f"s3://{self.bucket.name}/inventories/{self.vault.bucket.name}/all/"

    def deliver(
        self,
        files: list[list[list[str]]],
        *,
        as_of: datetime,
        form: str = "CSV",
        name: str = "part",
        complete: bool = True,
    ) -> str:
        assert self.vault.bucket is not None
        home = self.folder / uuid4().hex
        manifest = deliver(home, files, as_of=as_of, bucket=self.vault.bucket.name, form=form, name=name)
        for path in home.rglob("*"):
            if path.is_file() and (complete or path.name != "manifest.checksum"):
                self.bucket.put(path.relative_to(home).as_posix(), path.read_bytes())
        return f"s3://{self.bucket.name}/{manifest.relative_to(home).as_posix()}"

    def __call__(self, *options: str, code: int = 0) -> Any:
        return self.vault.measured("vault", "sync", "inventory", self.vault.name, *options, code=code)

    def error(self, *options: str, code: int = 2) -> Any:
        return self.vault.vh.run("vault", "sync", "inventory", self.vault.name, *options, code=code).error


@pytest.fixture
def remote(roto: Stage, create: CreateVault, tmp_path: Path) -> Remote:
    return Remote(roto, create(roto), tmp_path)


@pytest.mark.parametrize("form", ["CSV", "ORC", "Parquet"])
def test_a_delivery_in_a_bucket(remote: Remote, form: str) -> None:
    url = remote.deliver([rows(remote.vault, "a", "b"), rows(remote.vault, "c")], as_of=AS_OF, form=form)
    said = remote("--manifest", url)
    assert said["objects_indexed"] == 3
    assert (said["requests"]["get"], said["requests"]["list"], said["requests"]["head"]) == (4, 0, 0)
    assert count(remote.vault) == 3


def test_one_file_in_a_bucket(remote: Remote) -> None:
    remote.deliver([rows(remote.vault, "a", "b")], as_of=AS_OF, form="Parquet")
    said = remote("--file", remote.config + "data/part-0.parquet", "--as-of", AS_OF.isoformat())
    assert (said["objects_indexed"], said["requests"]["head"], said["requests"]["get"]) == (2, 1, 1)
    assert remote.error("--file", remote.config + "data/other.parquet")["code"] == "input_missing"


def test_the_newest_complete_delivery(remote: Remote) -> None:
    remote.deliver([rows(remote.vault, "a")], as_of=AS_OF - timedelta(days=1), name="first")
    remote.deliver([rows(remote.vault, "a", "b")], as_of=AS_OF)
    remote.deliver([rows(remote.vault, "a", "b", "c")], as_of=AS_OF + timedelta(days=1), name="last", complete=False)
    remote.bucket.put(f"inventories/{remote.vault.name}", b"")
    said = remote("--latest", remote.config)
    assert (said["objects_indexed"], said["requests"]["list"]) == (2, 1)
    assert datetime.fromisoformat(said["as_of"]) == AS_OF
    again = remote("--latest", remote.config)
    assert (again["objects_indexed"], again["added"], again["as_of"]) == (2, 0, said["as_of"])
    assert (said["known_from"], again["known_from"]) == (None, said["run"])
    # The manifest and its checksum tell that its files are known.
    assert (again["requests"]["list"], again["requests"]["get"], again["requests"]["put"]) == (1, 2, 0)
    error = remote.error("--latest", f"s3://{remote.bucket.name}/elsewhere/")
    assert (error["code"], "no complete delivery" in error["message"]) == ("input_missing", True)


def test_a_budget_that_does_not_cover_it(remote: Remote, roto: Stage) -> None:
    url = remote.deliver([rows(remote.vault, "a"), rows(remote.vault, "b")], as_of=AS_OF)
    remote.vault.vault("set", "--s3-budget-get", "3")
    roto.proxy.reset()
    error = remote.error("--manifest", url, code=3)
    assert error["code"] == "budget_get"
    assert error["remedy"].endswith("--s3-budget-get 4")
    # The bodies were not begun.
    assert remote.vault.seen()["get"] == 2
    small = remote.vault.seen()["downloaded_bytes"] + 1
    remote.vault.vault("set", "--s3-budget-get", "4", "--s3-budget-download-bytes", str(small))
    error = remote.error("--manifest", url, code=3)
    assert error["code"] == "budget_download_bytes"
    enough = error["remedy"].split()[-1]
    remote.vault.vault("set", "--s3-budget-download-bytes", enough)
    assert remote("--manifest", url)["objects_indexed"] == 2


def test_a_download_that_is_cut_off(remote: Remote, roto: Stage) -> None:
    url = remote.deliver([rows(remote.vault, *(f"k{number}" for number in range(500)))], as_of=AS_OF)
    roto.proxy.reset()
    roto.proxy.add(Fault(action="truncate", key="data/part-0", bytes=700))
    run = remote.vault.vh.run("vault", "sync", "inventory", remote.vault.name, "--manifest", url, code=0).json
    assert (run["objects_indexed"], run["requests"]["get"]) == (500, 4)
    assert run["requests"] == remote.vault.seen()


def test_damage_in_a_bucket(remote: Remote, roto: Stage, vh: Vh) -> None:
    url = remote.deliver([rows(remote.vault, "a"), rows(remote.vault, "b")], as_of=AS_OF)
    data = remote.config.partition(remote.bucket.name + "/")[2] + "data/part-1.csv.gz"
    body = remote.bucket.client.get_object(Bucket=remote.bucket.name, Key=data)["Body"].read()
    remote.bucket.put(data, body[:-1] + bytes([body[-1] ^ 1]))
    assert "part-1.csv.gz" in remote.error("--manifest", url)["message"]
    remote.bucket.put(data, body + b"x")
    assert f"longer than {len(body)} bytes" in remote.error("--manifest", url)["message"]
    remote.bucket.delete(data)
    assert "part-1.csv.gz: is not there" in remote.error("--manifest", url)["message"]
    assert (count(remote.vault), staged(vh)) == (0, 0)
    remote.bucket.put(data, body)
    assert remote("--manifest", url)["objects_indexed"] == 2
    assert not list((vh.home / "inventory").iterdir())


@pytest.mark.xdist_group("inventory-kill")
def test_what_is_killed_is_gone_on_with(roto: Stage, create: CreateVault, vh: Vh, tmp_path: Path) -> None:
    vault = create(roto)
    assert vault.bucket is not None
    manifest = many(tmp_path, rows=200_000, files=20, as_of=AS_OF, bucket=vault.bucket.name)
    order = ("vault", "sync", "inventory", vault.name, "--manifest", str(manifest))
    command = vh.begin(*order)
    helper = started_helper(command.pid)
    os.kill(helper, signal.SIGKILL)
    out, err = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 0, err
    assert '"objects_indexed": 200000' in out
    assert count(vault) == 200_000

    # The command itself and its helper, at once.
    other = create(roto)
    assert other.bucket is not None
    manifest = many(tmp_path / "other", rows=200_000, files=20, as_of=AS_OF, bucket=other.bucket.name)
    order = ("vault", "sync", "inventory", other.name, "--manifest", str(manifest))
    command = vh.begin(*order)
    os.kill(started_helper(command.pid), signal.SIGKILL)
    command.kill()
    command.communicate()
    assert count(other) in (0, 200_000)
    said = vh.run(*order, code=0).json
    assert said["objects_indexed"] == count(other) == 200_000
    assert staged(vh) == 0


def started_helper(parent: int) -> int:
    """The number of a process that a command has started to help it with its run."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
                words = path.with_name("cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if int(fields[1]) == parent and b"vaulthalla.worker" in words:
                return int(path.parent.name)
    raise AssertionError("No helper was started.")
