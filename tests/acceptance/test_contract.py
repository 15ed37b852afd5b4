"""What scripts rely on: every key of every answer, and the commands around a sync."""

from __future__ import annotations

import re
from typing import Any

from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import Result, Vault, Vh

LIST_EACH_TIME = ("--max-remote-index-age", "0")
OPERATIONS = {
    *("upload", "download", "index_only", "delete_remote", "delete_local", "copy", "converge", "conflict"),
    *("foreign", "archive_skipped", "path_skipped", "failed"),
}
CLASSES = {"list", "head", "get", "put", "copy", "delete", "downloaded_bytes"}
LIMITS = {"list", "head", "get", "put", "copy", "delete", "download_bytes"}
RUN = {
    *("run", "kind", "vault", "status", "trigger", "stall", "error", "operations", "skipped", "bytes", "requests"),
    *("lost", "cost", "estimate", "warnings", "started_at", "finished_at"),
}
POLICY = {
    *("interval_seconds", "enabled", "strategy", "conflict_policy", "max_remote_index_age_seconds"),
    *("on_stale_index", "max_delete", "delete_foreign", "events_queue"),
}
INDEX = {
    *("source", "complete", "indexed_at", "snapshot_as_of", "events_through", "freshness", "why", "object_count"),
    *("total_bytes", "doubtful", "manifest_etag", "manifest_generated_at", "manifest_object_count"),
    *("feeds", "warnings"),
    "storage_classes",
    "tombstones",
    "counted_at",
    "last_reconcile",
    "scan",
}
INFO = {"vault", "kind", "policy", "budget", "index", "conditional", "last_sync_at", "last_success_at"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def assert_run(run: dict[str, Any]) -> None:
    assert set(run) >= RUN
    assert run["run"].isdigit()
    assert set(run["operations"]) == OPERATIONS
    assert set(run["bytes"]) == {"up", "down"}
    assert set(run["requests"]) == set(run["lost"]) == CLASSES
    assert TIME.fullmatch(run["started_at"])
    assert TIME.fullmatch(run["finished_at"])


def done(run: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in run["operations"].items() if count}


def test_every_key_is_there(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", "--s3-budget-list", "7")
    vault.write("file", b"body")
    before = vault.vault("info")
    assert set(before) == INFO
    assert (before["index"]["freshness"], before["last_sync_at"]) == ("missing", None)
    run = vault.sync()
    assert_run(run)
    assert (run["kind"], run["vault"], run["status"], run["trigger"]) == ("sync", vault.name, "success", "manual")
    assert (run["stall"], run["error"], run["cost"]) == (None, None, None)
    info = vault.vault("info")
    assert set(info["policy"]) == POLICY
    assert set(info["budget"]) == {"preset", *LIMITS}
    assert (info["budget"]["preset"], info["budget"]["list"], info["budget"]["head"]) == ("custom", 7, 1000)
    assert set(info["index"]) == INDEX
    assert set(info["conditional"]) == {"put", "copy", "delete"}
    index = info["index"]
    assert (index["freshness"], index["complete"], index["object_count"], index["total_bytes"]) == ("fresh", True, 1, 4)
    assert all(TIME.fullmatch(info[name]) for name in ("last_sync_at", "last_success_at"))
    reconciled = vault.vault("reconcile", "--allow-list-scan")
    names = {"vault", "estimate_list_requests", "objects_indexed", "added", "changed", "removed", "requests"}
    assert set(reconciled) >= names
    assert (reconciled["objects_indexed"], reconciled["requests"]["list"]) == (1, 1)
    history = vault.vault("history", "--limit", "5")
    assert [one["kind"] for one in history["runs"]] == ["reconcile", "sync"]
    for one in history["runs"]:
        assert_run(one)
    assert history["runs"][1] == run


def test_fetch_ls_and_evict(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "cache")
    assert vault.bucket is not None
    for key in ("2024/a", "2024/b", "2025/a", "loose"):
        vault.bucket.put(key, key.encode())
    assert done(vault.sync()) == {"index_only": 4}
    assert states(vault) == dict.fromkeys(vault.bucket.objects(), "remote")
    run = vault.measured("vault", "fetch", vault.name, "2024", "*/a")
    assert_run(run)
    assert (run["kind"], done(run)) == ("fetch", {"download": 3})
    assert run["requests"]["get"] == 3
    assert states(vault) == {"2024/a": "both", "2024/b": "both", "2025/a": "both", "loose": "remote"}
    # Changed here since: not the bucket's any more, so it stays.
    vault.write("2024/a", b"changed")
    evicted = vault.vh.run("vault", "evict", vault.name, "2024/", code=0).json
    assert evicted == {"vault": vault.name, "evicted": 1, "bytes": 6, "kept": 1}
    assert set(vault.files()) == {"2024/a", "2025/a"}
    assert done(vault.sync()) == {"upload": 1, "index_only": 2}
    assert vault.vh.refused("vault", "evict", vault.name)["code"] == "invalid_value"


def states(vault: Vault) -> dict[str, str]:
    listed = vault.vh.run("vault", "ls", vault.name, code=0).json
    assert listed["vault"] == vault.name
    entries = listed["entries"]
    assert all(set(entry) == {"path", "size", "state", "storage_class", "last_modified"} for entry in entries)
    assert [entry["path"] for entry in entries] == sorted(entry["path"] for entry in entries)
    return {entry["path"]: entry["state"] for entry in entries}


def test_conflicts_wait_and_are_resolved_for_what_was_shown(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", "--on-sync-conflict", "ask", *LIST_EACH_TIME)
    assert vault.bucket is not None
    paths = ("local wins", "remote wins", "both", "changed since", "settles itself")
    for path in paths:
        vault.write(path, b"mine: " + path.encode())
        vault.bucket.put(path, b"theirs: " + path.encode())
    assert done(vault.sync()) == {"conflict": 5}
    open_ = vault.conflicts()
    assert set(open_) == set(paths)
    for conflict in open_.values():
        assert set(conflict) >= {"id", "path", "local", "remote", "detected_at"}
        assert conflict["id"].isdigit()
        assert set(conflict["local"]) == {"present", "size", "mtime", "sha256"}
        assert set(conflict["remote"]) == {"present", "size", "mtime", "sha256", "etag", "storage_class"}
        assert TIME.fullmatch(conflict["local"]["mtime"])
        assert (conflict["local"]["size"], conflict["remote"]["size"]) == (
            len(b"mine: " + conflict["path"].encode()),
            len(b"theirs: " + conflict["path"].encode()),
        )
    run = resolve(vault, open_["local wins"]["id"], "--keep-local")
    assert (run["kind"], done(run)) == ("resolve", {"upload": 1})
    assert done(resolve(vault, open_["remote wins"]["id"], "--keep-remote")) == {"download": 1}
    assert done(resolve(vault, open_["both"]["id"], "--keep-both")) == {"upload": 1, "download": 1}
    # A decision holds for the versions it was made for, and for no later one.
    vault.write("changed since", b"mine: once more")
    assert vault.vault("resolve", open_["changed since"]["id"], "--keep-remote") is not None
    assert vault.files()["changed since"] == b"mine: once more"
    vault.write("settles itself", b"theirs: settles itself")
    run = vault.sync()
    assert (run["operations"]["conflict"], run["operations"]["converge"]) == (1, 1)
    assert set(vault.conflicts()) == {"changed since"}
    assert done(resolve(vault, "--all", "--keep-local")) == {"upload": 1}
    assert vault.conflicts() == {}
    files, objects = vault.files(), vault.bucket.objects()
    assert files == objects
    assert files["local wins"] == b"mine: local wins"
    assert files["remote wins"] == files["both"].replace(b"both", b"remote wins") == b"theirs: remote wins"
    assert sorted(body for path, body in files.items() if path.startswith("both (conflict")) == [b"mine: both"]


def resolve(vault: Vault, *arguments: str) -> Any:
    return vault.measured("vault", "sync", "resolve", vault.name, *arguments)


def test_a_queued_run_is_cancelled(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync")
    vault.write("file", b"body")
    # Nobody works here, so it waits.
    waits = vault.vh.run("vault", "sync", vault.name, "--detach", code=0).json
    assert waits["status"] in ("queued", "planning")
    cancelled = vault.vault("cancel")
    assert cancelled["vault"] == vault.name
    assert [(run["run"], run["status"]) for run in cancelled["runs"]] == [(waits["run"], "cancelled")]
    assert vault.vault("cancel")["runs"] == []
    assert done(vault.sync()) == {"upload": 1}


def test_a_vault_may_be_called_like_a_command(vh: Vh, create: CreateVault) -> None:
    for name in ("info", "set"):
        vault = create(None, name=name)
        vault.write("file", name.encode())
        run = vh.run("vault", "sync", "run", name, code=0).json
        assert (run["vault"], done(run)) == (name, {"upload": 1})
        assert vh.run("vault", "sync", "info", name, code=0).json["vault"] == name
        assert vault.replica is not None
        assert vault.files(vault.replica) == {"file": name.encode()}


def test_people_read_lines(roto: Stage, create: CreateVault) -> None:
    """Without --json: results on stdout as lines, nothing that moves a cursor, the same exit codes."""
    vault = create(roto, "--strategy", "sync", "--s3-budget-put", "1")
    vault.write("file", b"body")
    vault.write("line\nfeed \x1b[31m", b"body")
    stalled = vault.vh.run("vault", "sync", vault.name, json=False, code=3)
    assert f"vh vault sync set {vault.name} --s3-budget-put 4" in stalled.out + stalled.err
    listed = vault.vh.run("vault", "ls", vault.name, json=False, code=0)
    assert "\x1b" not in listed.out + stalled.out + stalled.err
    assert len(listed.out.splitlines()) == 2
    unknown: Result = vault.vh.run("vault", "sync", "nobody", json=False, code=2)
    assert unknown.out == ""
    assert unknown.err.startswith("Error: ")
