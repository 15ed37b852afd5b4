"""Prices through the command line: of a plan, of the run that executes it, and of a vault that nothing changes in."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import Vault, Vh

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
    """of(provider): a sync vault on roto whose key says that it is that provider's."""

    def make(provider: str) -> Vault:
        key = f"priced-{provider}"
        names = {one["name"] for one in vh.run("api-key", "list", code=0).json["api_keys"]}
        if key not in names:
            vh.run("api-key", "create", key, "--provider", provider, "--endpoint", roto.proxy.endpoint, code=0)
        monkeypatch.setattr(roto, "key", key)
        return create(roto, "--strategy", "sync")

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
    # One page once a day, as the index may be a day old.
    assert price["recurring_per_month"] == "0.00015"
    assert set(price["catalog"]) == {"version", "age_seconds", "stale"}
    run = vault.sync()
    assert run["requests"] == {**planned["requests"], "list": 0}
    assert run["cost"] == {"amount": "0.0000254", "currency": "USD"}
    assert vault.vault("history")["runs"][0]["cost"] == run["cost"]
    assert vault.vault("dry-run")["price"]["amount"] == "0.0000004"


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
