"""Every cell of the decision table through the command line: files, objects, trash, conflicts, counters, requests."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cells import (
    BOTH_CHANGED,
    CELLS,
    GONE,
    Expected,
    Outcome,
    change_here,
    change_there,
    lay_base,
)
from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import Vault, tree

STANDING = ("index_only", "foreign", "conflict")
POLICIES = ("ask", "keep_local", "keep_remote", "keep_newest", "keep_both")
COMBINATIONS = [
    (strategy, policy)
    for strategy in ("cache", "sync", "mirror")
    for policy in POLICIES
    if (strategy, policy) != ("mirror", "keep_both")
]
CONFLICT_COPY = re.compile(r"^(?P<path>.*) \(conflict [^()/ ]+ \d{8}T\d{6}Z\)$")


@pytest.mark.parametrize(("strategy", "policy"), COMBINATIONS)
def test_every_cell(roto: Stage, create: CreateVault, strategy: str, policy: str) -> None:
    every_cell(create(roto, *options(strategy, policy)), strategy, policy)


@pytest.mark.parametrize(
    ("strategy", "policy"), [("cache", "keep_remote"), ("sync", "keep_both"), ("mirror", "keep_newest")]
)
def test_every_cell_on_another_server(moto: Stage, create: CreateVault, strategy: str, policy: str) -> None:
    every_cell(create(moto, *options(strategy, policy)), strategy, policy)


def options(strategy: str, policy: str) -> tuple[str, ...]:
    # With an age of zero every run lists the bucket, so that it learns what others did there.
    return ("--strategy", strategy, "--on-sync-conflict", policy, "--max-remote-index-age", "0")


def every_cell(vault: Vault, strategy: str, policy: str) -> None:
    assert vault.bucket is not None
    expected = Expected.of(strategy, policy)
    lay_base(vault)
    base = vault.sync()
    assert base["operations"]["upload"] == len(vault.bucket.objects()) == sum(cell.base for cell in CELLS)
    vault.out_of_doubt()
    change_here(vault)
    change_there(vault.bucket)
    run = vault.sync()
    assert_sides(expected, vault.files(), vault.bucket.objects())
    assert_run(expected, run)
    assert without_zeros(run["requests"]) == requests(expected, vault, policy)
    if policy != "keep_newest":  # which side is newer is known only once the object was asked
        assert run["estimate"]["requests"] == run["requests"]
    assert vault.trash(run) == expected.trash
    assert set(vault.conflicts()) == expected.conflicts()
    vault.out_of_doubt()
    again = vault.sync()
    assert without_zeros(again["requests"]) in vault.relisted()
    assert_nothing_done(again, expected)
    assert_sides(expected, vault.files(), vault.bucket.objects())


@pytest.mark.parametrize("policy", ["overwrite", "keep_both", "ask"])
def test_every_cell_between_two_directories(create: CreateVault, policy: str) -> None:
    vault = create(None, "--on-sync-conflict", policy)
    assert vault.replica is not None
    expected = Expected.of("sync", policy)
    lay_base(vault)
    base = vault.sync()
    assert base["operations"]["upload"] == sum(cell.base for cell in CELLS)
    change_here(vault)
    change_in(vault.replica)
    run = vault.sync()
    assert_sides(expected, vault.files(), vault.files(vault.replica))
    assert_run(expected, run)
    assert without_zeros(run["requests"]) == {}
    assert vault.trash(run) == expected.trash
    assert lost_there(expected) <= set(trash_of(vault.replica, run).values())
    assert set(vault.conflicts()) == expected.conflicts()
    assert_nothing_done(vault.sync(), expected)
    assert_sides(expected, vault.files(), vault.files(vault.replica))


def change_in(replica: Path) -> None:
    for cell in CELLS:
        target = replica / cell.path
        match cell.remote:
            case (body, mtime):
                target.write_bytes(body)
                # A directory always knows a time; the one that a bucket would not is the same as here.
                at = mtime if mtime is not None else cell.local[1] if isinstance(cell.local, tuple) else 0
                os.utime(target, (at, at))
            case "gone":
                target.unlink()


def lost_there(expected: Expected) -> set[bytes]:
    """Bodies that were overwritten or deleted in the second directory."""
    over = {path for path, said in expected.cells.items() if said in (Outcome.UPLOAD, Outcome.DELETE_REMOTE)}
    return {there for cell in CELLS if cell.path in over and (there := cell.there()) is not None}


def trash_of(root: Path, run: dict[str, Any]) -> dict[str, bytes]:
    return tree(root / ".vaulthalla" / "trash" / run["run"])


def assert_sides(expected: Expected, files: dict[str, bytes], objects: dict[str, bytes]) -> None:
    """Both sides, and the conflict copies on both."""
    copies = {path: body for path, body in files.items() if CONFLICT_COPY.match(path)}
    assert sorted(copies.values()) == sorted(expected.beside)
    assert {path: body for path, body in files.items() if path not in copies} == expected.files
    assert {path: body for path, body in objects.items() if path not in copies} == expected.objects
    assert {path: body for path, body in objects.items() if path in copies} == copies


def assert_run(expected: Expected, run: dict[str, Any]) -> None:
    assert run["status"] == "success"
    assert without_zeros(run["operations"]) == dict(expected.operations)
    assert run["bytes"] == {"up": expected.bytes["up"], "down": expected.bytes["down"]}
    assert run["failures"] == []
    left = [path for path, said in expected.cells.items() if said is Outcome.LEAVE]
    assert sum(run["skipped"].values()) == len(left)


def assert_nothing_done(run: dict[str, Any], expected: Expected) -> None:
    """What stands is still told; nothing else happened."""
    standing = {name: count for name, count in expected.operations.items() if name in STANDING}
    assert without_zeros(run["operations"]) == standing
    assert run["bytes"] == {"up": 0, "down": 0}


def requests(expected: Expected, vault: Vault, policy: str) -> dict[str, int]:
    """By class, what the outcomes cost, and a HEAD for each time that has to be asked for."""
    done = expected.operations
    heads = 0 if vault.proven["put"] else done["upload"]
    heads += 0 if vault.proven["delete"] else done["delete_remote"]
    if policy == "keep_newest":
        heads += sum(asked(cell.path, expected.cells[cell.path]) for cell in CELLS)
    looks, publishes = 1, 2
    heads += 0 if vault.proven["put"] else 1
    counts = {"list": 1, "head": heads, "put": done["upload"] + publishes, "get": done["download"] + looks}
    counts |= {"delete": done["delete_remote"], "downloaded_bytes": expected.bytes["down"]}
    return without_zeros(counts)


def asked(path: str, said: Outcome) -> bool:
    """Whether the time of an object decides: it is in its metadata, which a listing does not show."""
    settled = path in ("changed there, newer", "changed there, older") and said is Outcome.DOWNLOAD
    mirrored = path in ("changed there, newer", "changed there, older") and not settled
    return path in BOTH_CHANGED or mirrored


def without_zeros(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def test_the_cells_are_all_there_are() -> None:
    """Each side absent, same or changed, with and without a base: nothing of the table is left out."""
    kinds = {(cell.base, kind(cell.local), kind(cell.remote)) for cell in CELLS}
    sides = ("same", "changed", "gone")
    with_base = {(True, here, there) for here in sides for there in sides}
    without = {(False, "changed", "same"), (False, "same", "changed"), (False, "changed", "changed")}
    assert kinds >= with_base | without


def kind(change: object) -> str:
    return "same" if change is None else GONE if change == GONE else "changed"
