"""A plan that was seen is the plan that runs: its operations, its requests, and what it says of everything else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import psycopg
import pytest

from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import Vault, Vh

POLICIES = [("cache", "ask"), ("sync", "keep_both"), ("mirror", "keep_newest")]


def change_everything(vault: Vault) -> None:
    """A change of every kind on both sides of a vault that was in step."""
    assert vault.bucket is not None
    for path in ("here", "there", "both", "twin", "gone here", "gone there"):
        vault.write(path, b"base of " + path.encode())
    vault.write("moved", b"m" * 2**20)
    vault.sync()
    vault.out_of_doubt()
    for path in ("here", "both"):
        vault.write(path, b"changed here")
    for path in ("there", "both"):
        vault.bucket.put(path, b"changed over there")
    vault.write("twin", b"the same change")
    vault.bucket.put("twin", b"the same change")
    vault.bucket.put("new there", b"new there")
    (vault.root / "gone here").unlink()
    vault.bucket.delete("gone there")
    (vault.root / "moved").rename(vault.root / "moved away")
    vault.vault("reconcile")


@pytest.mark.parametrize(
    ("limit", "files", "stalls"),
    [(1, 1, False), (2, 1, False), (2, 3, True), (3, 1, False), (3, 2, True)],
)
def test_a_dry_run_knows_whether_a_tiny_budget_stalls(
    roto: Stage, create: CreateVault, limit: int, files: int, stalls: bool
) -> None:
    vault = create(roto, "--strategy", "sync")
    vault.sync()
    for number in range(files):
        vault.write(f"file {number}", b"x")
    vault.vault("set", "--s3-budget-put", str(limit))
    seen = vault.vault("dry-run")
    enough = f"vh vault sync set {vault.name} --s3-budget-put {files + 2}"
    over = [{"field": "put", "planned": files + 2, "limit": limit, "remedy": enough}] if files + 2 > limit else []
    assert seen["budget"] == {"fits": not over, "stalls": stalls, "exceeded": over}
    ended = vault.vh.run("vault", "sync", vault.name)
    run = ended.json
    assert (ended.code, run["status"]) == ((3, "stalled") if stalls else (0, "success"))
    if stalls:
        assert run["stall"]["remedy"] == enough
    elif over:
        assert run["manifest"] == {"published": False, "reason": "budget_put", "remedy": enough}
        assert [("budget_put" in text, enough in text) for text in run["warnings"]] == [(True,) * 2]
    else:
        assert (run["manifest"]["published"], run["warnings"], ended.err) == (True, [], "")


@pytest.mark.parametrize(("strategy", "policy"), POLICIES)
def test_a_plan_does_and_tells_what_the_dry_run_told(
    roto: Stage, create: CreateVault, strategy: str, policy: str
) -> None:
    vault = create(roto, "--strategy", strategy, "--on-sync-conflict", policy)
    change_everything(vault)
    seen = vault.vault("dry-run")
    run = vault.sync("--plan", seen["plan"])
    assert run["requests"] == seen["requests"]
    assert run["bytes"] == {"up": seen["traffic"]["upload_bytes"], "down": seen["traffic"]["download_bytes"]}
    # Only a second look can turn out otherwise than planned.
    looked = {"conflict"} if policy == "keep_newest" else set()
    assert without(looked, run["operations"]) == without(looked, seen["operations"])
    assert run["skipped"] == seen["skipped"]
    again = vault.sync()
    assert again["requests"]["get"] == sum(again["requests"].values()) == 1


def test_a_plan_leaves_the_conflicts_it_told_of_to_be_decided(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync")
    change_everything(vault)
    seen = vault.vault("dry-run")
    assert vault.conflicts() == {}
    vault.sync("--plan", seen["plan"])
    assert set(vault.conflicts()) == {"both"}


def test_what_came_after_a_plan_waits(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync")
    assert vault.bucket is not None
    for path in ("planned", "edited", "raced"):
        vault.write(path, b"as planned")
    seen = vault.vault("dry-run", "--refresh-index")
    vault.write("edited", b"edited since")
    vault.write("new", b"new since")
    vault.bucket.put("raced", b"put there since")
    vault.vault("reconcile")
    run = vault.sync("--plan", seen["plan"])
    assert (run["status"], run["operations"]["upload"]) == ("success", 1)
    assert run["skipped"] == {"changed_since_planned": 2}
    assert vault.bucket.objects() == {"planned": b"as planned", "raced": b"put there since"}
    assert vault.sync()["operations"]["upload"] == 2


def test_the_deletes_of_a_plan_are_allowed_by_its_id(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync", "--max-delete", "0")
    assert vault.bucket is not None
    vault.write("stays", b"body")
    vault.write("goes", b"body")
    vault.sync()
    (vault.root / "goes").unlink()
    seen = vault.vault("dry-run")["plan"]
    remedy = vault.sync("--plan", seen, code=3)["stall"]["remedy"]
    assert f"{vault.name} --plan {seen} --allow-deletes" in remedy
    vault.sync("--plan", seen, "--allow-deletes")
    assert set(vault.bucket.objects()) == {"stays"}


# What a plan is made from, and what it may not touch; its own run and operations it writes.
STATE = (
    *("vaults_vault", "vaults_syncpolicy", "vaults_apikey", "sync_base", "sync_conflict", "sync_transfer"),
    *("indexing_remoteobject", "indexing_indexstate", "indexing_eventfeed"),
    *("budgets_pricepolicy", "budgets_priceoverride", "budgets_ledgerentry", "budgets_dayspend", "budgets_pricelist"),
)


@pytest.fixture
def state(vh: Vh) -> Callable[[], dict[str, str]]:
    """state(): a digest of every row of each table, its version included: a row written again as it was is told."""
    address = vh.run("status", code=0).json["postgresql"]["url"]

    def look() -> dict[str, str]:
        with psycopg.connect(address, autocommit=True) as connection:
            return {
                table: hashlib.sha256(
                    "\n".join(
                        row for (row,) in connection.execute(f"SELECT xmin || ' ' || t FROM {table} t ORDER BY 1")
                    ).encode()
                ).hexdigest()
                for table in STATE
            }

    return look


@pytest.mark.parametrize("strategy", ["cache", "sync", "mirror"])
def test_a_dry_run_sends_nothing_and_changes_nothing(
    roto: Stage, create: CreateVault, state: Callable[[], dict[str, str]], strategy: str
) -> None:
    vault = create(roto, "--strategy", strategy)
    change_everything(vault)
    vault.vh.run("pricing", "budget", "set-vault", vault.name, "--mode", "enforce", "--max-daily", "0", code=0)
    before, seen = state(), roto.proxy.counts.requests.total()
    for options in ((), ("--list",), ("--strategy", "sync"), ("--on-sync-conflict", "keep_local")):
        vault.vh.run("vault", "sync", "dry-run", vault.name, *options, code=0)
    assert roto.proxy.counts.requests.total() == seen
    assert state() == before
    vault.vh.run("pricing", "budget", "disable-vault", vault.name, code=0)
    assert state() != before


def test_nor_does_it_for_a_file_that_the_last_scan_could_not_vouch_for(
    roto: Stage, create: CreateVault, vh: Vh, state: Callable[[], dict[str, str]]
) -> None:
    """Written within the tick of the last scan, a file may have changed since without a trace.

    Whoever scans next notes, with what the scan knows of the file, that it is to be read once more; a sync reads it.
    """
    vault = create(roto, "--strategy", "sync")
    vault.write("file", b"body")
    vault.sync()
    vault.out_of_doubt()
    address = vh.run("status", code=0).json["postgresql"]["url"]
    mine = "vault_id = (SELECT id FROM vaults_vault WHERE name = %s)"

    def told(statement: str) -> list[object]:
        with psycopg.connect(address, autocommit=True) as connection:
            return [value for (value,) in connection.execute(statement, (vault.name,))]

    def to_read() -> list[object]:
        return told(f"SELECT path FROM sync_localfile WHERE read_again AND {mine}")

    # What a scan leaves that came within the tick, however long this one took to begin.
    assert told(f"UPDATE sync_localfile SET racy = true WHERE {mine} RETURNING path") == ["file"]
    assert told(f"UPDATE sync_localdir SET digest = NULL WHERE {mine} RETURNING dir") == [""]
    before = state()
    planned = vault.vault("dry-run")
    again = vault.vault("dry-run")
    assert state() == before
    assert to_read() == ["file"]
    assert again["requests"] == planned["requests"] == vault.sync()["requests"]
    assert to_read() == []


def without(names: set[str], counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name not in names}
