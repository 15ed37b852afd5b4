"""What stops a sync before it does harm: too many deletes, a root that is not there, a budget that is spent."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import VH, Bucket, Vault
from tests.support.proxy import Fault
from vaulthalla.stores.direct import ATTEMPTS

MIB = 2**20
LIST_EACH_TIME = ("--max-remote-index-age", "0")


def some(number: int) -> dict[str, bytes]:
    return {f"file {n:02}": f"body {n}".encode() for n in range(number)}


def synced(vault: Vault, files: dict[str, bytes]) -> dict[str, bytes]:
    for path, body in files.items():
        vault.write(path, body)
    assert vault.sync()["operations"]["upload"] == len(files)
    return files


def stalled(run: dict[str, Any], code: str, remedy: str) -> None:
    assert run["status"] == "stalled"
    assert run["stall"]["code"] == code
    assert run["stall"]["reason"]
    assert remedy in run["stall"]["remedy"]


def done(run: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in run["operations"].items() if count}


# --- deletes


def test_most_of_one_side_is_not_deleted_without_leave(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", *LIST_EACH_TIME)
    assert vault.bucket is not None
    files = synced(vault, some(20))
    for path in list(files)[:11]:
        (vault.root / path).unlink()
    stalled(vault.sync(code=3), "delete_guard", f"vh vault sync {vault.name} --allow-deletes")
    assert vault.bucket.objects() == files
    heed(vault, vault.sync(code=3)["stall"]["remedy"])
    assert len(vault.bucket.objects()) == 9
    assert vault.bucket.objects() == vault.files()
    # The other side is guarded alike, by the share that the policy names.
    vault.vh.run("vault", "sync", "set", vault.name, "--max-delete", "3", code=0)
    vault.out_of_doubt()
    for path in list(files)[11:15]:
        vault.bucket.delete(path)
    stalled(vault.sync(code=3), "delete_guard", f"vh vault sync {vault.name} --allow-deletes")
    assert len(vault.files()) == 9
    vault.vh.run("vault", "sync", "set", vault.name, "--max-delete", "4", code=0)
    run = vault.sync()
    assert done(run) == {"delete_local": 4}
    assert vault.trash(run) == {path: files[path] for path in list(files)[11:15]}


def test_a_change_of_strategy_never_turns_lost_bodies_into_deletes(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "cache")
    assert vault.bucket is not None
    files = synced(vault, some(4))
    evicted = vault.vh.run("vault", "evict", vault.name, "file 00", code=0).json
    assert evicted == {"vault": vault.name, "evicted": 1, "bytes": 6, "kept": 0}
    # One that a cache lost without being asked, and no sync saw it.
    (vault.root / "file 01").unlink()
    vault.vh.run("vault", "sync", "set", vault.name, "--strategy", "sync", code=0)
    stalled(vault.sync(code=3), "delete_guard", "--allow-deletes")
    assert vault.bucket.objects() == files
    vault.vh.run("vault", "sync", "set", vault.name, "--strategy", "cache", code=0)
    assert vault.sync()["operations"]["index_only"] == 2
    vault.vh.run("vault", "sync", "set", vault.name, "--strategy", "sync", code=0)
    assert done(vault.sync()) == {"download": 2}
    assert vault.files() == vault.bucket.objects() == files


def test_a_change_of_strategy_leaves_no_verdict_of_the_old_one(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "cache")
    assert vault.bucket is not None
    for key in ("name", "name/below", "one", "two"):
        vault.bucket.put(key, key.encode())
    assert done(vault.sync()) == {"index_only": 4}
    vault.vault("set", "--strategy", "sync", "--s3-budget-get", "2")
    assert vault.vault("dry-run")["operations"]["index_only"] == 0
    # The look at the manifest leaves one GET.
    assert done(vault.sync(code=3)) == {"download": 1, "path_skipped": 1}
    vault.vault("set", "--s3-budget-get", "10")
    assert done(vault.sync()) == {"download": 2, "path_skipped": 1}
    assert set(vault.files()) == {"name/below", "one", "two"}


def test_a_vault_pointed_at_another_bucket_deletes_nothing(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync")
    assert vault.bucket is not None
    files = synced(vault, some(3))
    other = Bucket(server=roto.server, name=f"{vault.bucket.name}-2").create()
    other.put("file 00", files["file 00"])
    other.put("of its own", b"new")
    vault.vh.run("vault", "update", vault.name, "--bucket", other.name, code=0)
    run = vault.sync()
    assert done(run) == {"upload": 2, "download": 1, "converge": 1}
    assert vault.files() == other.objects() == {**files, "of its own": b"new"}
    assert vault.bucket.objects() == files


# --- the root


def test_without_its_root_a_vault_does_nothing(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", *LIST_EACH_TIME)
    assert vault.bucket is not None
    files = synced(vault, some(3))
    away = vault.root.with_name("away")
    vault.root.rename(away)
    for is_there in (False, True):
        if is_there:
            vault.root.mkdir()
        run = vault.sync(code=3)
        stalled(run, "root_missing", f"vh vault update {vault.name} --root {vault.root} --adopt")
        # Whoever pastes it without a look has lost nothing.
        assert run["stall"]["remedy"].startswith(f"vh vault sync {vault.name}  # after")
        assert not any(run["requests"].values())
    assert vault.bucket.objects() == files
    # The marker alone is not enough: what held files is empty now.
    shutil.copytree(away / ".vaulthalla", vault.root / ".vaulthalla")
    run = vault.sync(code=3)
    stalled(run, "root_missing", f"vh vault sync {vault.name} --allow-deletes")
    assert vault.bucket.objects() == files
    shutil.rmtree(vault.root)
    away.rename(vault.root)
    assert done(vault.sync()) == {}


def test_a_cache_may_be_emptied(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "cache")
    assert vault.bucket is not None
    files = synced(vault, some(12))
    for path in files:
        (vault.root / path).unlink()
    assert done(vault.sync()) == {"index_only": 12}
    assert vault.bucket.objects() == files


# --- request budgets


@pytest.mark.parametrize("request_class", ["put", "get", "delete"])
def test_a_limit_of_n_allows_exactly_n(roto: Stage, create: CreateVault, request_class: str) -> None:
    vault = create(roto, "--strategy", "sync", f"--s3-budget-{request_class}", "3", *LIST_EACH_TIME)
    assert vault.bucket is not None
    prepare(vault, request_class)
    action = {"put": "upload", "get": "download", "delete": "delete_remote"}[request_class]
    run = vault.sync(code=3)
    stalled(run, f"budget_{request_class}", f"vh vault sync set {vault.name} --s3-budget-{request_class} ")
    assert vault.seen()[request_class] == run["requests"][request_class] == 3
    # Of PUTs two are kept for the manifest, and a look at it takes a GET.
    first = {"put": 1, "get": 2, "delete": 3}[request_class]
    assert done(run) == {action: first}
    # Each run has the budget again, and goes on where the last one stopped.
    left = 5 - first
    while left > first:
        assert done(vault.sync(code=3)) == {action: first}
        left -= first
    run = vault.sync()
    assert done(run) == {action: left}
    assert vault.files() == vault.bucket.objects()
    assert done(vault.sync()) == {}


@pytest.mark.parametrize(("request_class", "limit"), [("put", 5), ("put", 0), ("get", 0), ("get", 2), ("delete", 2)])
def test_the_remedy_of_a_spent_budget_suffices(
    roto: Stage, create: CreateVault, request_class: str, limit: int
) -> None:
    vault = create(roto, "--strategy", "sync")
    prepare(vault, request_class)
    vault.vault("set", f"--s3-budget-{request_class}", str(limit))
    run = vault.sync(code=3)
    assert run["stall"]["code"] == f"budget_{request_class}"
    heed(vault, run["stall"]["remedy"])
    vault.sync(code=0)
    assert vault.bucket is not None
    assert vault.files() == vault.bucket.objects()


def test_the_remedy_of_a_missing_index_is_a_command(roto: Stage, create: CreateVault) -> None:
    for limit in ("0", "unlimited", "1"):
        vault = create(roto, "--strategy", "sync", "--s3-budget-list", limit)
        vault.write("file", b"body")
        error = vault.vh.refused("vault", "sync", "dry-run", vault.name)
        assert error["code"] == "index_missing"
        heed(vault, error["remedy"])
        assert done(vault.sync()) == {"upload": 1}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reconcile", ("--s3-budget-list", "0")),
        ("history", ("--on-stale-index", "stall")),
        ('it\'s "listed" $HOME', ("--s3-budget-list", "0")),
        ('it\'s "stale" $HOME', ("--on-stale-index", "stall")),
    ],
)
def test_the_remedy_of_a_stale_index_suffices(
    roto: Stage, create: CreateVault, options: tuple[str, ...], name: str
) -> None:
    vault = create(roto, "--strategy", "sync", name=name)
    sync = ("vault", "sync", "run", vault.name)
    vault.measured(*sync)
    vault.write("file", b"body")
    vault.vault("set", *LIST_EACH_TIME, *options)
    stall = vault.measured(*sync, code=3)["stall"]
    assert stall["code"] == "index_stale"
    heed(vault, stall["remedy"])
    assert done(vault.measured(*sync)) == {"upload": 1}
    vault.vh.run("vault", "delete", vault.name, "--yes", code=0)


@pytest.mark.parametrize("limit", ["100", "0"])
def test_a_stale_index_makes_no_plan_unless_it_may_be_refreshed(roto: Stage, create: CreateVault, limit: str) -> None:
    vault = create(roto, "--strategy", "sync")
    vault.sync()
    vault.write("file", b"body")
    vault.vault("set", *LIST_EACH_TIME, "--s3-budget-list", limit)
    before = vault.seen()
    error = vault.vh.refused("vault", "sync", "dry-run", vault.name)
    assert error["code"] == "index_stale"
    assert vault.seen() == before
    if limit == "0":
        heed(vault, error["remedy"])
        error = vault.vh.refused("vault", "sync", "dry-run", vault.name)
    heed(vault, error["remedy"])
    assert done(vault.sync()) == {"upload": 1}


def test_a_vault_that_is_named_like_a_command_is_told_how_to_go_on(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", "--max-delete", "0", name="audit")
    sync = ("vault", "sync", "run", vault.name)
    for path in ("stays", "goes"):
        vault.write(path, b"body")
    vault.measured(*sync)
    (vault.root / "goes").unlink()
    heed(vault, vault.measured(*sync, code=3)["stall"]["remedy"])
    assert vault.bucket is not None
    assert set(vault.bucket.objects()) == {"stays"}
    vault.vh.run("vault", "delete", vault.name, "--yes", code=0)


def heed(vault: Vault, remedy: str) -> None:
    """Does literally what the remedy says."""
    environment = vault.vh.variables()
    path = f"{Path(VH).parent}:{environment['PATH']}"
    subprocess.run(["sh", "-ec", remedy], env={**environment, "PATH": path}, check=True, capture_output=True)


def prepare(vault: Vault, request_class: str) -> None:
    assert vault.bucket is not None
    if request_class == "get":
        for path, body in some(5).items():
            vault.bucket.put(path, body)
        return
    for path, body in some(5).items():
        vault.write(path, body)
    if request_class == "delete":
        vault.write("stays", b"so that the root is not empty")
        vault.sync()
        for path in some(5):
            (vault.root / path).unlink()


def test_over_the_byte_limit_no_body_is_begun(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", "--s3-budget-download-bytes", "20")
    assert vault.bucket is not None
    vault.write("goes up", b"whatever")
    for number in range(3):
        vault.bucket.put(f"comes down {number}", b"x" * 7)
    run = vault.sync(code=3)
    stalled(run, "budget_download_bytes", f"vh vault sync set {vault.name} --s3-budget-download-bytes 21")
    assert (vault.seen()["get"], vault.seen()["downloaded_bytes"]) == (1, 0)
    assert done(run) == {"upload": 1}
    vault.vh.run(*run["stall"]["remedy"].split()[1:], code=0)
    assert done(vault.sync()) == {"download": 3}
    assert vault.files() == vault.bucket.objects()


@pytest.mark.parametrize("limits", ["--s3-budget-download-bytes 5", ""])
def test_one_remedy_names_every_field_that_the_plan_exceeds(roto: Stage, create: CreateVault, limits: str) -> None:
    vault = create(roto, "--strategy", "sync")
    for number in range(3):
        vault.write(f"goes {number}", b"x")
    vault.sync()
    for number in range(4):
        vault.write(f"up {number}", b"x")
        vault.bucket.put(f"down {number}", b"x" * 10)
        (vault.root / f"goes {number}").unlink(missing_ok=True)
    vault.vault("reconcile", "--allow-list-scan")
    tight = ["--s3-budget-get", "3", "--s3-budget-put", "3", "--s3-budget-delete", "1", *limits.split()]
    vault.vh.run("vault", "sync", "set", vault.name, *tight, code=0)
    run = vault.sync(code=3)
    needs = "--s3-budget-get 5 --s3-budget-put 6 --s3-budget-delete 3"
    bytes_too = " --s3-budget-download-bytes 40" if limits else ""
    assert run["stall"]["remedy"] == f"vh vault sync set {vault.name} {needs}{bytes_too}"
    vault.vh.run(*run["stall"]["remedy"].split()[1:], code=0)
    assert vault.sync()["status"] == "success"
    assert vault.files() == vault.bucket.objects()


def test_what_runs_needed_is_proposed_and_suffices(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", "--s3-budget-put", "3")
    assert vault.vault("suggest")["command"] is None
    for path, body in some(120).items():
        vault.write(path, body)
    stalled(vault.sync(code=3), "budget_put", "--s3-budget-put")
    before = vault.vault("info")["budget"], vault.vault("history")
    found = vault.vault("suggest")
    put = next(one for one in found["fields"] if one["field"] == "put")
    # What the plan needs, not what was sent: 120 files, the manifest, and its first publication before them.
    assert (found["runs"], put["current"], put["changes"]) == (1, 3, True)
    assert 120 < put["needed"] <= put["proposed"] / 2
    assert found["command"] == f"vh vault sync set {vault.name} --s3-budget-put {put['proposed']}"
    assert (vault.vault("info")["budget"], vault.vault("history")) == before
    vault.vh.run(*shlex.split(found["command"])[1:], code=0)
    assert vault.sync()["status"] == "success"
    assert vault.vault("suggest", "--runs", "1")["runs"] == 1
    for _ in range(2):
        vault.sync()
    assert vault.vault("suggest")["idle"] == 2
    for wrong in ("0", "1001", "x"):
        vault.vh.refused("vault", "sync", "suggest", vault.name, "--runs", wrong)
    local = create(None)
    assert local.vh.refused("vault", "sync", "suggest", local.name)["code"] == "not_for_local_vaults"


def test_a_listing_needs_a_finite_budget_that_covers_it(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", "--s3-budget-list", "unlimited")
    vault.write("file", b"body")
    for _ in range(2):
        run = vault.sync(code=3)
        stalled(run, "index_missing", f"vh vault sync reconcile {vault.name} --allow-list-scan")
        assert {name: n for name, n in run["requests"].items() if n} == {"get": 1}
    error = vault.vh.refused("vault", "sync", "reconcile", vault.name)
    assert "--allow-list-scan" in error["remedy"]
    vault.vault("reconcile", "--allow-list-scan")
    assert done(vault.sync()) == {"upload": 1}
    # Unlimited is not a leave to list an old index anew, either.
    vault.vh.run("vault", "sync", "set", vault.name, *LIST_EACH_TIME, code=0)
    run = vault.sync(code=3)
    stalled(run, "index_stale", f"vh vault sync reconcile {vault.name} --allow-list-scan")
    assert {name: n for name, n in run["requests"].items() if n} == {"get": 1}


# --- what is not sent twice, or not at all


def test_a_renamed_file_is_copied_on_the_server(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", "--s3-budget-copy", "1")
    assert vault.bucket is not None
    large, larger, small = os.urandom(MIB), os.urandom(MIB + 1), b"small"
    synced(vault, {"large": large, "larger": larger, "small": small, "stays": b"x"})
    metadata = vault.bucket.head("large")["Metadata"]
    (vault.root / "moved").mkdir()
    for name in ("large", "small"):
        (vault.root / name).rename(vault.root / "moved" / name)
    run = vault.sync()
    assert done(run) == {"copy": 1, "upload": 1, "delete_remote": 2}
    assert run["bytes"]["up"] == len(small)
    assert vault.bucket.head("moved/large")["Metadata"] == metadata
    assert vault.files() == vault.bucket.objects()
    # Without a budget for copies it is an upload.
    vault.vh.run("vault", "sync", "set", vault.name, "--s3-budget-copy", "0", code=0)
    (vault.root / "larger").rename(vault.root / "moved" / "larger")
    assert done(vault.sync()) == {"upload": 1, "delete_remote": 1}
    assert vault.files() == vault.bucket.objects()


@pytest.mark.parametrize("policy", ["keep_local", "keep_both"])
def test_what_was_edited_here_outlives_a_delete_there(roto: Stage, create: CreateVault, policy: str) -> None:
    """The look that finds no object is older than the upload that follows it."""
    vault = create(roto, "--strategy", "sync", "--on-sync-conflict", policy)
    assert vault.bucket is not None
    synced(vault, {"f": b"one", "stays": b"x"})
    vault.bucket.delete("f")
    vault.write("f", b"two, edited here")
    assert done(vault.sync()) == {"upload": 1}
    assert done(vault.sync()) == {}
    assert vault.files() == vault.bucket.objects() == {"f": b"two, edited here", "stays": b"x"}


def test_a_new_file_outlives_a_refusal(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync")
    synced(vault, {"stays": b"x"})
    vault.write("new", b"never seen")
    roto.proxy.add(Fault(action="error", status=412, request_class="put", key="/new"))
    assert done(vault.sync()) == {"upload": 1}
    assert done(vault.sync()) == {}
    assert vault.files()["new"] == b"never seen"


def test_metadata_that_another_writer_kept_is_no_damage(moto: Stage, create: CreateVault) -> None:
    vault = create(moto, "--strategy", "sync", *LIST_EACH_TIME)
    assert vault.bucket is not None
    synced(vault, {"f": b"one"})
    kept = vault.bucket.head("f")["Metadata"]
    vault.bucket.client.put_object(Bucket=vault.bucket.name, Key="f", Body=b"two", Metadata=kept)
    assert done(vault.sync()) == {"download": 1}
    assert vault.files() == {"f": b"two"}
    assert done(vault.sync()) == {}


@pytest.mark.parametrize("strategy", ["sync", "mirror"])
def test_a_file_and_a_directory_take_each_others_place(roto: Stage, create: CreateVault, strategy: str) -> None:
    vault = create(roto, "--strategy", strategy)
    assert vault.bucket is not None
    synced(vault, {"stays": b"x", "file": b"f", "emptied": b"e", "folder/in": b"i"})
    (vault.root / "file").unlink()
    vault.write("file/below", b"b")
    (vault.root / "emptied").unlink()
    (vault.root / "emptied").mkdir()
    shutil.rmtree(vault.root / "folder")
    vault.write("folder", b"a file now")
    assert done(vault.sync("--allow-deletes")) == {"upload": 2, "delete_remote": 3}
    assert vault.bucket.objects() == vault.files() == {"stays": b"x", "file/below": b"b", "folder": b"a file now"}
    assert done(vault.sync()) == {}


def test_a_time_that_nothing_can_hold_keeps_nobody_waiting(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync")
    assert vault.bucket is not None
    vault.write("far", b"from the year 2514")
    os.utime(vault.root / "far", (2**34, 2**34))
    vault.write("near", b"n")
    run = vault.sync()
    assert (done(run), run["skipped"]) == ({"upload": 1, "path_skipped": 1}, {"time_out_of_range": 1})
    assert vault.bucket.objects() == {"near": b"n"}


def test_archived_objects_wait_for_their_restore(moto: Stage, create: CreateVault) -> None:
    vault = create(moto, "--strategy", "sync", *LIST_EACH_TIME)
    assert vault.bucket is not None
    vault.bucket.put("cold", b"in the archive", StorageClass="GLACIER")
    vault.bucket.put("deep", b"deeper", StorageClass="DEEP_ARCHIVE")
    vault.bucket.put("warm", b"at hand", StorageClass="STANDARD_IA")
    for expected in ({"download": 1, "archive_skipped": 2}, {"archive_skipped": 2}):
        planned, run = vault.vault("dry-run", "--refresh-index"), vault.sync()
        assert done(planned) == done(run) == expected
        assert planned["skipped"] == run["skipped"] == {"needs_restore": 2}
    vault.bucket.client.restore_object(Bucket=vault.bucket.name, Key="cold", RestoreRequest={"Days": 1})
    if 'ongoing-request="true"' in vault.bucket.head("cold").get("Restore", ""):
        pytest.skip("this server does not finish a restore")
    run = vault.sync()
    assert done(run) == {"download": 1, "archive_skipped": 1}
    assert vault.files() == {"cold": b"in the archive", "warm": b"at hand"}
    run = vault.measured("vault", "fetch", vault.name, "deep")
    assert done(run) == {"archive_skipped": 1}
    assert run["requests"]["get"] == 0


def test_what_a_store_that_is_away_stopped_is_asked_for_again(roto: Stage, create: CreateVault) -> None:
    """Each command by its own remedy: a sync would not fetch. To find out costs few requests."""
    vault = create(roto, "--strategy", "cache", name="audit")
    keys = ("it's", "$HOME", "c d")
    for key in keys:
        vault.bucket.put(key, b"body")
    vault.vh.run("vault", "sync", "run", "audit", code=0)
    away = Fault(action="error", status=503, request_class="head", times=10**6)
    for command, fault, most in (
        (("sync", "audit", "audit", "--sample", "3"), away, len(keys) * (1 + ATTEMPTS)),
        (("sync", "reconcile", "audit"), replace(away, request_class="list"), 1 + ATTEMPTS),
        # An operation is paid one attempt more each time.
        (("fetch", "audit", *keys), replace(away, request_class="get"), len(keys) * sum(range(1 + ATTEMPTS))),
    ):
        roto.proxy.reset()
        roto.proxy.add(fault)
        stopped = vault.vh.run("vault", *command, code=3)
        assert roto.proxy.counts.requests.total() <= most
        roto.proxy.heal()
        heed(vault, (stopped.json.get("stall") or stopped.error)["remedy"])
    assert set(vault.files()) == set(keys)
