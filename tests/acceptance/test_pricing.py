"""Prices through the command line: of a plan, of the run that executes it, and of a vault that nothing changes in."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import Vault, Vh
from tests.support.proxy import Fault

LIST: dict[str, Any] = {
    "format": "vaulthalla-prices",
    "format_version": 1,
    "provider": "wasabi",
    "region": "us-east-1",
    "currency": "EUR",
    "version": "2026-11",
    "valid_from": "2026-11-01T00:00:00Z",
    "source": "a contract",
    "rates": [
        {"storage_class": "*", "operation": name, "unit": "1000_requests", "price": "0.5"}
        for name in ("list", "head", "get", "put", "copy", "delete")
    ],
}
EGRESS = {"storage_class": "*", "operation": "egress", "unit": "gb", "price": "1"}


@pytest.fixture
def of(vh: Vh, roto: Stage, create: CreateVault, monkeypatch: pytest.MonkeyPatch) -> Any:
    """of(provider): a sync vault on roto, or another stage, whose key says that it is that provider's."""

    def make(provider: str, *, name: str = "", stage: Stage = roto) -> Vault:
        key = f"priced-{provider}-{stage.server.name}"
        names = {one["name"] for one in vh.run("api-key", "list", code=0).json["api_keys"]}
        if key not in names:
            vh.run("api-key", "create", key, "--provider", provider, "--endpoint", stage.proxy.endpoint, code=0)
        monkeypatch.setattr(stage, "key", key)
        return create(stage, "--strategy", "sync", name=name)

    return make


def counted(vault: Vault) -> int:
    return sum(vault.seen().values())


def test_a_plan_and_its_run_cost_the_same(of: Any) -> None:
    vault = of("aws")
    vault.sync()
    for name in "abc":
        vault.write(name, name.encode())
    before = counted(vault)
    planned = vault.vault("dry-run")
    assert counted(vault) == before
    assert (planned["requests"]["put"], planned["requests"]["get"]) == (3 + 2, 1)
    price = planned["price"]
    assert (price["amount"], price["currency"], price["unknowns"]) == ("0.0000254", "USD", [])
    # One page and the manifest's root once a day, as the index may be a day old; a look at it every five minutes.
    daily, looks = 30 * Decimal("0.00001"), 8640 * Decimal("0.0000004")
    assert Decimal(price["recurring_per_month"]) == daily + looks
    assert set(price["catalog"]) == {"version", "age_seconds", "stale"}
    run = vault.sync()
    assert run["requests"] == {**planned["requests"], "list": 0}
    assert run["cost"] == {"amount": "0.0000254", "currency": "USD"}
    assert run["estimate"] == {"requests": run["requests"], "bytes": {"up": 3, "down": 0}, "cost": run["cost"]}
    kept = vault.vault("history")["runs"][:2]
    assert [one["estimate"]["cost"] for one in kept] == [run["cost"], {"amount": "0.0000254", "currency": "USD"}]
    assert kept[0]["cost"] == run["cost"]
    # A dry-run spends nothing, and what it plans is kept beside that.
    assert (kept[1]["kind"], kept[1]["estimate"]["requests"]) == ("dry_run", planned["requests"])
    assert not any(kept[1]["requests"].values())
    assert vault.vault("dry-run")["price"]["amount"] == "0.0000004"


def test_a_plan_that_is_run_by_its_id_comes_to_what_was_seen(of: Any, vh: Vh) -> None:
    vault = of("aws")
    vault.sync()
    for name in "abc":
        vault.write(name, name.encode())
    planned = vault.vault("dry-run")
    vh.run("pricing", "budget", "set-vault", vault.name, "--mode", "enforce", "--max-run", "0.0000254", code=0)
    run = vault.sync("--plan", planned["plan"])
    assert run["estimate"]["requests"] == run["requests"] == planned["requests"]
    assert run["estimate"]["cost"] == run["cost"]
    shown = vh.run("vault", "sync", "history", vault.name, code=0, json=False).out
    assert "PLANNED COST" in shown.splitlines()[0]
    assert "1 get, 5 put 1 get, 5 put 0.0000254 USD 0.0000254 USD" in " ".join(shown.splitlines()[1].split())


def test_a_stall_tells_what_the_plan_would_have_needed(of: Any) -> None:
    vault = of("aws")
    vault.sync()
    for name in "abc":
        vault.write(name, name.encode())
    vault.sync()
    vault.vault("set", "--max-delete", "0")
    (vault.root / "a").unlink()
    vault.write("d", b"four")
    run = vault.sync(code=3)
    assert (run["stall"]["code"], run["estimate"]["bytes"]) == ("delete_guard", {"up": 4, "down": 0})
    looks = int(not vault.proven["delete"])
    needed = {"get": 1, "put": 1 + 2, "head": looks, "delete": 1}
    assert run["estimate"]["requests"] == {**dict.fromkeys(run["requests"], 0), **needed}


def test_bodies_cost_requests_and_egress(of: Any) -> None:
    vault = of("aws")
    vault.bucket.put("body", b"x" * 1_000_000)
    cost = vault.sync()["cost"]
    # A LIST, two GETs, two PUTs (one and both for the manifest), and 1 000 000 / 2**30 of 0.09.
    assert Decimal(cost["amount"]) == Decimal("0.0000158") + Decimal("0.00008382")


def test_nobody_bills_minio(of: Any) -> None:
    vault = of("minio")
    vault.write("a", b"a")
    assert vault.sync()["cost"] == {"amount": "0.00", "currency": "USD"}
    assert vault.vault("dry-run")["price"]["catalog"]["stale"] is False


def test_unlisted_is_unknown(of: Any) -> None:
    vault = of("storj")
    vault.write("a", b"a")
    assert vault.sync()["cost"] is None
    price = vault.vault("dry-run")["price"]
    assert (price["amount"], price["recurring_per_month"], price["catalog"]) == (None, None, None)
    assert price["unknowns"] == ["storj/us-east-1: no price list"]
    assert vault.vault("dry-run", "--no-pricing")["price"] is None


def test_a_local_vault_has_no_price(create: CreateVault) -> None:
    vault = create(None)
    assert vault.vault("dry-run")["price"] is None
    assert vault.sync()["cost"] is None


def test_a_list_of_ones_own(vh: Vh, of: Any, tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(LIST))
    checked = vh.run("pricing", "catalog", "verify", str(file), code=0).json
    assert checked["lists"][0]["missing"] == ["egress of STANDARD", "retrieval of STANDARD"]
    assert vh.run("pricing", "catalog", "show", "--provider", "wasabi", code=0).json == {"lists": []}
    assert vh.run("pricing", "catalog", "import", str(file), code=0).json["stored"] is True
    assert vh.run("pricing", "catalog", "import", str(file), code=0).json["stored"] is False
    vault = of("wasabi")
    vault.sync()
    vault.write("a", b"a")
    price = vault.vault("dry-run")["price"]
    needed = vault.vault("dry-run")["requests"]
    requests = sum(count for name, count in needed.items() if name != "downloaded_bytes")
    assert (Decimal(price["amount"]), price["currency"]) == (Decimal("0.0005") * requests, "EUR")
    # The same version with other prices is refused, and nothing has changed.
    file.write_text(json.dumps({**LIST, "rates": [*LIST["rates"], EGRESS]}))
    assert vh.refused("pricing", "catalog", "import", str(file))["code"] == "price_list_conflict"
    shown = vh.run("pricing", "catalog", "show", "--provider", "wasabi", code=0).json["lists"]
    assert [len(one["rates"]) for one in shown] == [6]


def test_what_cannot_be_read(vh: Vh, tmp_path: Path) -> None:
    assert vh.refused("pricing", "catalog", "import", str(tmp_path / "none"))["code"] == "file_unreadable"
    assert vh.refused("pricing", "catalog", "import", str(tmp_path))["code"] == "file_unreadable"
    (tmp_path / "junk").write_bytes(b"\x00\xff")
    assert vh.refused("pricing", "catalog", "import", str(tmp_path / "junk"))["code"] == "price_list_malformed"
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({**LIST, "provider": "digitalocean", "rates": [{**EGRESS, "price": "-1"}]}))
    assert "rates[0].price" in vh.refused("pricing", "catalog", "import", str(file))["message"]
    assert vh.refused("pricing", "catalog", "show", "--provider", "nobody")["code"] == "invalid_value"
    assert "digitalocean" not in {one["provider"] for one in vh.run("pricing", "catalog", "show").json["lists"]}


def test_a_minimum_duration_that_is_cut_short_is_part_of_the_price(of: Any, moto: Stage, vh: Vh) -> None:
    vault = of("aws", stage=moto)
    vault.bucket.put("warm", b"w" * 1000, StorageClass="STANDARD_IA")
    vault.bucket.put("other", b"o" * 1000, StorageClass="GLACIER_IR")
    vault.bucket.put("standard", b"s" * 1000)
    vault.sync()
    for name in ("warm", "standard"):
        (vault.root / name).unlink()
    vault.write("other", b"changed")
    planned = vault.vault("dry-run")
    # 128 KB for a month of STANDARD_IA, and for three of GLACIER_IR.
    assert Decimal(planned["price"]["early_deletion"]) == Decimal("0.00000299")
    shown = vh.run("vault", "sync", "dry-run", vault.name, code=0, json=False).out
    assert "cut short:  0.00000299 USD" in shown
    looks = planned["requests"]["head"] * Decimal("0.0000004")
    requests = Decimal("0.0000004") + planned["requests"]["put"] * Decimal("0.000005") + looks
    assert Decimal(planned["price"]["amount"]) == requests + Decimal("0.00000299")
    vh.run("pricing", "budget", "set-vault", vault.name, "--mode", "enforce", "--max-run", str(requests), code=0)
    run = vault.sync("--allow-deletes", code=3)
    assert run["stall"]["code"] == "price_budget"
    remedy = run["stall"]["remedy"].removeprefix("vh ").split()
    vh.run(*remedy, code=0)
    run = vault.sync("--allow-deletes")
    assert run["cost"] == {"amount": planned["price"]["amount"], "currency": "USD"}
    entries = vh.run("pricing", "budget", "ledger", code=0).json["entries"]
    mine = [one for one in entries if one["run"] == run["run"]]
    assert sum(Decimal(one["amount"]) for one in mine) == 0
    assert sum(Decimal(one["amount"]) for one in mine if one["class"] == "delete" and one["kind"] == "settle") < 0
    # Spread over the requests of a class, rounded up: enough, and hardly more.
    booked = -sum(Decimal(one["amount"]) for one in mine if one["kind"] == "settle")
    assert 0 <= booked - Decimal(run["cost"]["amount"]) < Decimal("0.0000001")


def test_the_manifest_lies_in_standard_whatever_the_vault_writes(of: Any, moto: Stage, vh: Vh) -> None:
    vault = of("aws", stage=moto)
    vh.run("vault", "update", vault.name, "--storage-class", "STANDARD_IA", code=0)
    vault.write("a", b"a")
    assert vault.sync()["manifest"]["published"]
    keys = vault.bucket.keys()
    classes = {key: vault.bucket.head(key).get("StorageClass", "STANDARD") for key in keys}
    assert classes.pop("a") == "STANDARD_IA"
    assert len(classes) == 2
    assert set(classes.values()) == {"STANDARD"}


def test_a_copy_costs_what_its_class_does(of: Any, moto: Stage, vh: Vh) -> None:
    vault = of("aws", stage=moto)
    vh.run("vault", "update", vault.name, "--storage-class", "STANDARD_IA", code=0)
    vault.write("a", b"a" * 2**21)
    vault.sync()
    (vault.root / "a").rename(vault.root / "b")
    planned, run = vault.vault("dry-run"), vault.sync()
    assert (planned["requests"]["copy"], run["requests"]["copy"]) == (1, 1)
    assert run["cost"]["amount"] == planned["price"]["amount"]


def test_a_5xx_counts_and_costs_nothing(of: Any, roto: Stage, vh: Vh) -> None:
    vault = of("aws")
    vault.sync()
    vh.run("pricing", "budget", "set-vault", vault.name, "--mode", "enforce", "--max-run", "1", code=0)
    vault.write("a", b"a")
    planned = vault.vault("dry-run")
    roto.proxy.reset()
    roto.proxy.add(Fault(action="error", status=503, request_class="put", key=r"/a$", times=2))
    run = vh.run("vault", "sync", vault.name, code=0).json
    assert run["requests"] == vault.seen()
    assert run["requests"]["put"] == planned["requests"]["put"] + 2
    assert run["cost"]["amount"] == planned["price"]["amount"]
    entries = vh.run("pricing", "budget", "ledger", code=0).json["entries"]
    mine = [one for one in entries if one["run"] == run["run"]]
    assert (
        sum(one["quantity"] for one in mine if (one["class"], one["kind"]) == ("put", "settle"))
        == run["requests"]["put"]
    )
    assert -sum(Decimal(one["amount"]) for one in mine if one["kind"] == "settle") == Decimal(run["cost"]["amount"])
    assert sum(Decimal(one["amount"]) for one in mine) == 0
