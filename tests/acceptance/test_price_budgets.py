"""Limits in money through the command line: stall, remedy, rerun, override, ledger, report."""

from __future__ import annotations

import json
import shlex
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.acceptance.driver import PATIENCE_SECONDS, Vh
from tests.acceptance.test_guards import heed
from tests.acceptance.test_pricing import of
from tests.support.proxy import Fault

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


def policies(vh: Vh) -> Any:
    return vh.run("pricing", "budget", "list", code=0).json["policies"]


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
    told = vh.run("vault", "sync", "dry-run", limited.name, code=0, json=False).out
    assert "Price budget:  " in told
    assert stalled["stall"]["remedy"] in told
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


@pytest.mark.parametrize(
    "options",
    [
        ("--max-run", "0"),
        ("--max-daily", "0", "--max-monthly", "0.00000001", "--max-run", "0.00001"),
        ("--currency", "EUR", "--max-daily", "5"),
        ("--require-verified-catalog",),
    ],
)
def test_a_shell_takes_the_remedy_as_it_is_printed(of: Any, vh: Vh, options: tuple[str, ...]) -> None:
    vault = of("aws", name=f'it\'s "odd" $HOME {options[0]}')
    vault.sync()
    vault.write("a", b"a")
    vh.run("pricing", "budget", "set-vault", vault.name, "--mode", "enforce", *options, code=0)
    heed(vault, vault.sync(code=3)["stall"]["remedy"])
    assert vault.sync()["operations"]["upload"] == 1
    vh.run("vault", "delete", vault.name, "--yes", code=0)


def test_where_nobody_knows_a_price_the_policy_may_ask_for_less(of: Any, vh: Vh) -> None:
    vault = of("storj")
    vault.write("a", b"a")
    vh.run("pricing", "budget", "set-vault", vault.name, "--mode", "enforce", "--max-daily", "5", code=0)
    heed(vault, vault.sync(code=3)["stall"]["remedy"])
    assert vault.sync()["operations"]["upload"] == 1


def test_the_remedy_pays_for_the_look_of_the_next_run_too(limited: Any, vh: Vh) -> None:
    """A run that could look before it stalled has spent that; the next one looks once more."""
    windows = vh.run("pricing", "budget", "status", code=0).json["status"]
    used = next(one["daily"]["used"] for one in windows if one["of"] == limited.name)
    vh.run(
        "pricing", "budget", "set-vault", limited.name, "--max-daily", f"{Decimal(used) + Decimal('0.00002')}", code=0
    )
    stalled = limited.sync(code=3)
    assert stalled["requests"]["get"] == 1
    vh.run(*shlex.split(stalled["stall"]["remedy"])[1:], code=0)
    assert limited.sync()["operations"]["upload"] == 3


def test_an_override_lets_one_run_pass(limited: Any, vh: Vh) -> None:
    listed = vh.run("pricing", "budget", "list", code=0).json["policies"]
    number = next(p["id"] for p in listed if p["vault"] == limited.name)
    asked = vh.run(
        "pricing", "override", "request", limited.name, "--policy", number, "--reason", "first", "--by", "ann", code=0
    ).json
    assert vh.refused("pricing", "override", "approve", asked["id"], "--by", "ann")["code"] == "override_self_approval"
    limited.sync(code=3)
    vh.run("pricing", "override", "approve", asked["id"], "--by", "bob", code=0)
    run = limited.sync()
    limited.write("d", b"d")
    limited.sync(code=3)
    used = next(o for o in vh.run("pricing", "override", "list", code=0).json["overrides"] if o["id"] == asked["id"])
    assert (used["status"], used["run"], used["decided_by"]) == ("used", run["run"], "bob")


def test_a_superuser_approves_their_own_request_on_the_command_line_too(limited: Any, vh: Vh) -> None:
    number = next(p["id"] for p in policies(vh) if p["vault"] == limited.name)
    ask = ("pricing", "override", "request", limited.name, "--policy", number, "--reason", "r", "--by", "root of all")
    asked = vh.run(*ask, code=0).json["id"]
    address = vh.run("status", code=0).json["postgresql"]["url"]
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO auth_user (username, password, first_name, last_name, email, is_staff, is_superuser,"
            " is_active, date_joined) VALUES ('root of all', '!', '', '', '', true, true, true, now())"
        )
    assert vh.run("pricing", "override", "approve", asked, "--by", "root of all", code=0).json["status"] == "approved"


def test_of_runs_at_once_one_uses_an_override(limited: Any, vh: Vh) -> None:
    """A sync and a listing do not exclude each other; one of them passes, the other stalls."""
    number = next(p["id"] for p in policies(vh) if p["vault"] == limited.name)
    ask = ("pricing", "override", "request", limited.name, "--policy", number, "--reason", "r", "--by", "ann")
    asked = vh.run(*ask, code=0).json["id"]
    vh.run("pricing", "override", "approve", asked, "--by", "bob", code=0)
    # Slow enough that both are under way when the first of them asks for money.
    limited.proxy.add(Fault(action="delay", seconds=0.2, times=100))
    begun = [vh.begin("vault", "sync", limited.name), vh.begin("vault", "sync", "reconcile", limited.name)]
    ended = [(json.loads(one.communicate(timeout=PATIENCE_SECONDS)[0]), one.returncode) for one in begun]
    limited.proxy.heal()
    assert sorted(code for _, code in ended) == [0, 3]
    passed = next(answer["run"] for answer, code in ended if code == 0)
    used = next(o for o in vh.run("pricing", "override", "list", code=0).json["overrides"] if o["id"] == asked)
    assert (used["status"], used["run"]) == ("used", passed)


def test_an_override_lets_a_listing_pass(limited: Any, vh: Vh) -> None:
    listed = vh.run("pricing", "budget", "list", code=0).json["policies"]
    number = next(p["id"] for p in listed if p["vault"] == limited.name)
    error = vh.run("vault", "sync", "reconcile", limited.name, code=3).error
    assert error["code"] == "price_budget"
    ask = ("pricing", "override", "request", limited.name, "--policy", number, "--reason", "first", "--by", "ann")
    asked = vh.run(*ask, code=0).json
    vh.run("vault", "sync", "reconcile", limited.name, code=3)
    vh.run("pricing", "override", "approve", asked["id"], "--by", "bob", code=0)
    assert limited.measured("vault", "sync", "reconcile", limited.name)["requests"]["list"] == 1
    vh.run("vault", "sync", "reconcile", limited.name, code=3)


def test_ids_that_cannot_be_are_unknown(vh: Vh, limited: Any) -> None:
    for number in ("9" * 30, "0x1", "²"):
        assert vh.refused("pricing", "override", "approve", number)["code"] == "not_found"
        assert vh.refused("vault", "sync", limited.name, "--plan", number)["code"] == "not_found"
        assert vh.refused("vault", "sync", "cancel", limited.name, "--run", number)["code"] == "not_found"
    asked = ("pricing", "override", "request", limited.name, "--reason", "r", "--policy")
    assert vh.refused(*asked, "9" * 30)["code"] == "invalid_value"


@pytest.mark.parametrize("name", ["", " ", "n" * 151])
def test_nobody_is_no_one_who_decides(limited: Any, vh: Vh, name: str) -> None:
    listed = vh.run("pricing", "budget", "list", code=0).json["policies"]
    number = next(p["id"] for p in listed if p["vault"] == limited.name)
    ask = ("pricing", "override", "request", limited.name, "--policy", number, "--reason", "r")
    before = vh.run("pricing", "override", "list", code=0).json
    assert "--by" in vh.refused(*ask, "--by", name)["message"]
    assert vh.run("pricing", "override", "list", code=0).json == before
    asked = vh.run(*ask, code=0).json["id"]
    for decision in ("approve", "deny", "cancel"):
        assert vh.refused("pricing", "override", decision, asked, "--by", name)["code"] == "invalid_value"
    assert vh.refused("notifications", "ack", "--all", "--by", name)["code"] == "invalid_value"
    vh.run("pricing", "override", "cancel", asked, code=0)


def test_a_warning_is_said_by_the_run_that_passes_a_limit(limited: Any, vh: Vh) -> None:
    vh.run("pricing", "budget", "set-vault", limited.name, "--mode", "warn", code=0)
    said = vh.run("vault", "sync", limited.name, code=0, json=False)
    assert "Warning: would exceed daily limit 0.000001 USD of vault policy" in said.err
    run = limited.vault("history")["runs"][0]
    assert (run["operations"]["upload"], len(run["warnings"])) == (3, 1)
    vh.run("pricing", "budget", "set-vault", limited.name, "--mode", "report", code=0)
    limited.write("d", b"d")
    assert limited.sync()["warnings"] == []
