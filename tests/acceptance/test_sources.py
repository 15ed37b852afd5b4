"""A bucket that nobody lists: an inventory makes the index complete, events keep it so, and syncs plan from it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest

from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import Bucket, Vault, Vh
from tests.support.deliveries import deliver

NOTHING = dict.fromkeys(("list", "head", "get", "put", "copy", "delete", "downloaded_bytes"), 0)
BODIES = {"a b.txt": b"first", "folder/ü+%.bin": b"second", "c": b""}


@pytest.fixture
def bucket(roto: Stage) -> Bucket:
    """Objects that were there before any vault."""
    bucket = Bucket(server=roto.server, name=f"sources-{datetime.now(UTC):%H%M%S%f}").create()
    for key, body in BODIES.items():
        bucket.put(f"p/{key}", body)
    bucket.put("elsewhere", b"not ours")
    return bucket


def inventory_rows(bucket: Bucket) -> list[list[str]]:
    """What S3 Inventory would say now."""
    found = bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]
    return [
        [
            bucket.name,
            quote_plus(entry["Key"]),
            str(entry["Size"]),
            entry["LastModified"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            entry["ETag"].strip('"'),
            "STANDARD",
        ]
        for entry in found
    ]


def as_csv(path: Path, rows: Iterable[Iterable[str]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def record(bucket: Bucket, name: str, key: str, sequencer: str, **facts: Any) -> Mapping[str, Any]:
    found = {"key": quote_plus(key), "sequencer": sequencer, **facts}
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"eventName": name, "eventTime": now, "s3": {"bucket": {"name": bucket.name}, "object": found}}


def published(vault: Vault) -> dict[str, int]:
    """What the index learnt goes into the manifest: two objects."""
    return NOTHING | {"put": 2, "head": 0 if vault.proven["put"] else 1}


def test_a_sync_plans_from_an_inventory(
    roto: Stage, create: CreateVault, bucket: Bucket, vh: Vh, tmp_path: Path
) -> None:
    vault = create(roto, "--strategy", "cache", "--prefix", "p/", bucket=bucket)
    error = vh.refused("vault", "sync", "inventory", vault.name, "--file", as_csv(tmp_path / "i.csv", []) or "")
    assert error["code"] == "input_damaged"
    schema = "bucket,key,size,last_modified_date,etag,storage_class"
    file = as_csv(tmp_path / "i.csv", inventory_rows(bucket))
    said = vault.measured("vault", "sync", "inventory", vault.name, "--file", file, "--schema", schema)
    assert (said["objects_indexed"], said["skipped"]) == (3, {"other_prefix": 1})
    assert said["requests"] == published(vault)
    index = vault.vault("info")["index"]
    assert (index["source"], index["complete"], index["freshness"], index["object_count"]) == (
        "inventory", True, "fresh", 3,
    )  # fmt: skip
    synced = vault.sync()
    assert synced["operations"]["index_only"] == 3
    assert synced["requests"] == NOTHING | {"get": 1}
    assert vault.files() == {}


def test_events_carry_a_sync_from_one_inventory_to_the_next(
    roto: Stage, create: CreateVault, bucket: Bucket, vh: Vh, tmp_path: Path
) -> None:
    vault = create(roto, "--strategy", "sync", "--prefix", "p/", bucket=bucket)
    manifest = deliver(tmp_path / "d", [inventory_rows(bucket)], as_of=datetime.now(UTC), bucket=bucket.name)
    assert vault.vault("inventory", "--manifest", str(manifest))["added"] == 3
    first = vault.sync()
    assert (first["operations"]["download"], first["requests"]["list"]) == (3, 0)
    assert vault.files() == BODIES

    vault.out_of_doubt()
    bucket.put("p/new", b"from elsewhere")
    bucket.delete("p/c")
    created = {"size": 14, "eTag": bucket.head("p/new")["ETag"]}
    feed = {
        "Records": [
            record(bucket, "ObjectRemoved:Delete", "p/c", "02"),
            record(bucket, "ObjectCreated:Put", "p/new", "01", **created),
            record(bucket, "ObjectCreated:Put", "elsewhere", "01", **created),
        ]
    }
    lines = "\n".join([json.dumps({"Type": "Notification", "Message": json.dumps(feed)})] * 2)
    vault.proxy.reset() if vault.proxy else None
    said = vh.run("vault", "sync", "events", vault.name, "--file", "-", stdin=lines, code=0).json
    counts = {name: said[name] for name in ("records", "upserted", "deleted", "stale", "duplicate", "skipped")}
    assert counts == {
        "records": 6, "upserted": 1, "deleted": 1, "stale": 0, "duplicate": 2, "skipped": {"other_prefix": 2},
    }  # fmt: skip
    assert said["requests"] == published(vault) == vault.seen()

    second = vault.sync()
    assert (second["operations"]["download"], second["operations"]["delete_local"]) == (1, 1)
    assert (second["requests"]["list"], second["requests"]["get"]) == (0, 2)
    assert vault.files() == {**{key: body for key, body in BODIES.items() if key != "c"}, "new": b"from elsewhere"}


def test_an_event_from_the_future_is_found_out_once(
    roto: Stage, create: CreateVault, bucket: Bucket, vh: Vh, tmp_path: Path
) -> None:
    vault = create(roto, "--strategy", "sync", "--prefix", "p/", bucket=bucket)
    manifest = deliver(tmp_path / "d", [inventory_rows(bucket)], as_of=datetime.now(UTC), bucket=bucket.name)
    vault.vault("inventory", "--manifest", str(manifest))
    vault.sync()
    tomorrow = {"eventTime": (datetime.now(UTC) + timedelta(days=1)).isoformat()}
    gone = {**record(bucket, "ObjectCreated:Put", "p/never", "01", size=14, eTag="e" * 32), **tomorrow}
    changed = {**record(bucket, "ObjectCreated:Put", "p/c", "01", size=14, eTag="f" * 32), **tomorrow}
    feed = "\n".join(json.dumps(one) for one in (gone, changed))
    assert vh.run("vault", "sync", "events", vault.name, "--file", "-", stdin=feed, code=0).json["upserted"] == 2
    first = vault.sync()
    assert (first["status"], first["requests"]["head"]) == ("success", 2 + published(vault)["head"])
    assert vault.sync()["requests"] == NOTHING | {"get": 1}
    assert vault.files() == BODIES
    # The next event is no older than the one that was wrong.
    bucket.put("p/never", b"here it is")
    created = record(bucket, "ObjectCreated:Put", "p/never", "02", size=10, eTag=bucket.head("p/never")["ETag"])
    vault.out_of_doubt()
    vh.run("vault", "sync", "events", vault.name, "--file", "-", stdin=json.dumps(created), code=0)
    vault.sync()
    assert vault.files() == {**BODIES, "never": b"here it is"}


def test_what_is_no_source_changes_nothing(create: CreateVault, roto: Stage, vh: Vh, tmp_path: Path) -> None:
    vault = create(roto)
    broken = tmp_path / "broken.json"
    broken.write_text('{"Records": [')
    error = vh.refused("vault", "sync", "events", vault.name, "--file", str(broken))
    assert (error["code"], "line 1" in error["message"]) == ("input_damaged", True)
    assert (
        "no S3 event records found"
        in vh.refused("vault", "sync", "events", vault.name, "--file", "-", stdin="{}")["message"]
    )
    local: Vault = create(None)
    for source in ("events", "inventory"):
        assert vh.refused("vault", "sync", source, local.name, "--file", str(broken))["code"] == "s3_only"
