"""Limits in money through the command line: stall, remedy, rerun, override, ledger, report."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from tests.acceptance.driver import Vh
from tests.acceptance.test_pricing import of

__all__ = ["of"]


@pytest.fixture
def limited(of: Any, vh: Vh) -> Any:
    """A vault on AWS with three new files, that may spend nothing."""
    vault = of("aws")
    vault.sync()
    for name in "abc":
        vault.write(name, name.encode())
    vh.run("pricing", "budget", "set-vault", vault.name, "--mode", "enforce", "--max-daily", "0.000001", code=0)
    return vault


def test_stall_remedy_rerun_ledger_report(limited: Any, vh: Vh) -> None:
    planned = limited.vault("dry-run")
    assert planned["price_budget"]["result"] == "fail"
    before = sum(limited.seen().values())
    stalled = limited.sync(code=3)
    assert stalled["stall"]["code"] == "price_budget"
    assert limited.seen().get("put", 0) == 0 or sum(limited.seen().values()) <= before + 1
    command = shlex.split(stalled["stall"]["remedy"])
    assert command[:4] == ["vh", "pricing", "budget", "set-vault"]
    assert planned["price_budget"]["remedy"] == stalled["stall"]["remedy"]
    vh.run(*command[1:], code=0)
    assert limited.vault("dry-run")["price_budget"]["result"] == "pass"
    run = limited.sync()
    assert run["operations"]["upload"] == 3
    entries = [e for e in vh.run("pricing", "budget", "ledger", code=0).json["entries"] if e["run"] == run["run"]]
    assert {e["kind"] for e in entries} == {"reserve", "settle"}
    # Three files, and the manifest that tells of them.
    settled = next(e for e in entries if e["kind"] == "settle" and e["class"] == "put")
    assert (settled["class"], settled["quantity"], settled["amount"]) == ("put", 3 + 2, "-0.000025")
    found = vh.run("pricing", "report", code=0).json
    assert limited.name in {one["vault"] for one in found["by_vault"]}


def test_an_override_lets_one_run_pass(limited: Any, vh: Vh) -> None:
    listed = vh.run("pricing", "budget", "list", code=0).json["policies"]
    number = next(p["id"] for p in listed if p["vault"] == limited.name)
    asked = vh.run(
        "pricing", "override", "request", limited.name, "--policy", number, "--reason", "first", "--by", "ann", code=0
    ).json
    vh.run("pricing", "override", "approve", asked["id"], "--by", "ann", code=2)
    limited.sync(code=3)
    vh.run("pricing", "override", "approve", asked["id"], "--by", "bob", code=0)
    run = limited.sync()
    limited.write("d", b"d")
    limited.sync(code=3)
    used = next(o for o in vh.run("pricing", "override", "list", code=0).json["overrides"] if o["id"] == asked["id"])
    assert (used["status"], used["run"], used["decided_by"]) == ("used", run["run"], "bob")
