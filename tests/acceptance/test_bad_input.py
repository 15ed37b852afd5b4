"""What cannot be done is refused as a whole: exit 2, one error with code, message and remedy, nothing changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import Vault, Vh
from tests.support.proxy import Fault
from tests.support.servers import free_port

# Arguments behind `vh vault sync`, VAULT for the vault's name; the code, and what the message must name.
REFUSED = (
    (("run", "nobody"), "not_found", "nobody"),
    (("info", "nobody"), "not_found", "nobody"),
    (("set", "VAULT"), "invalid_value", "no sync settings"),
    (("set", "VAULT", "--interval", "soon"), "invalid_value", "--interval"),
    (("set", "VAULT", "--s3-budget-download-bytes", "10X"), "invalid_value", "--s3-budget-download-bytes"),
    (("set", "VAULT", "--s3-budget-put", "-1"), "invalid_value", "--s3-budget-put"),
    (("set", "VAULT", "--on-sync-conflict", "overwrite"), "invalid_value", "--on-sync-conflict"),
    (("set", "VAULT", "--max-delete", "101%"), "invalid_value", "--max-delete"),
    (("set", "VAULT", "--interval", "1h", "--strategy", "hoard"), "invalid_value", "--strategy"),
    (("set", "VAULT", "--no-such-option"), "usage", "--no-such-option"),
    (("resolve", "VAULT", "1"), "invalid_value", "--keep-local"),
    (("resolve", "VAULT", "999999", "--keep-local"), "not_found", "999999"),
    (("resolve", "VAULT", "--all", "--keep-local", "--keep-remote"), "invalid_value", "exactly"),
    (("history", "VAULT", "--limit", "0"), "usage", "--limit"),
    (("cancel", "VAULT", "--run", "999999"), "not_found", "999999"),
)


def snapshot(vault: Vault) -> Any:
    """All that a refused command could have changed."""
    runs = vault.vault("history")["runs"]
    info = vault.vault("info")
    del info["index"]["why"]  # tells the age in words
    return info, runs, vault.vh.run("vault", "list", code=0).json["vaults"], vault.files()


def test_refusals_change_nothing(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "sync")
    vault.write("file", b"body")
    vault.sync()
    before = snapshot(vault)
    for arguments, code, named in REFUSED:
        words = [vault.name if word == "VAULT" else word for word in arguments]
        error = vault.vh.refused("vault", "sync", *words)
        assert (error["code"], named in error["message"] + error["remedy"]) == (code, True), (words, error)
        assert error["remedy"], words
    assert snapshot(vault) == before


BAD_AMOUNTS = ("-1", "1e3", "NaN", "Infinity", "0.000000001", "+1", " 1", "1,5", "1_000", "", "9" * 40)
# Arguments behind `vh pricing budget`, and what the message must name. VAULT has a policy, LOCAL is a second directory.
NO_LIMITS = (
    *((("set-vault", "VAULT", f"--max-daily={amount}"), "--max-daily") for amount in BAD_AMOUNTS),
    (("set-provider", "aws-s3", "--max-monthly=-1"), "--max-monthly"),
    (("set-global", "--mode", "enforce", "--max-run", "1", "--max-daily", "1e3"), "--max-daily"),
    (("set-global", "--mode", "block"), "--mode"),
    (("set-global", "--currency", "U$D"), "--currency"),
    (("set-global", "--max-catalog-age", "0"), "--max-catalog-age"),
    (("set-global", "--max-catalog-age", ""), "--max-catalog-age"),
    (("set-provider", "nobody", "--max-run", "1"), "PROVIDER"),
    (("set-vault", "LOCAL", "--max-run", "1"), "VAULT"),
    (("set-vault", "nobody", "--max-run", "1"), "nobody"),
    (("set-global",), "--max-monthly"),
    (("set-provider", "aws-s3"), "--mode"),
    (("set-vault", "VAULT"), "--allow-stale-catalog"),
    (("disable-global",), "no such price policy"),
    (("disable-vault", "LOCAL"), "VAULT"),
)


def test_limits_in_money_that_cannot_be(vh: Vh, roto: Stage, create: CreateVault) -> None:
    vault, local = create(roto), create(None)
    vh.run("pricing", "budget", "set-vault", vault.name, "--mode", "warn", "--max-daily", "1", code=0)
    before = vh.run("pricing", "budget", "list", code=0).json
    for arguments, named in NO_LIMITS:
        words = [{"VAULT": vault.name, "LOCAL": local.name}.get(word, word) for word in arguments]
        error = vh.refused("pricing", "budget", *words)
        assert named in error["message"], (words, error)
        assert error["remedy"], words
    assert vh.run("pricing", "budget", "list", code=0).json == before


PRICES: dict[str, Any] = {
    "format": "vaulthalla-prices",
    "format_version": 1,
    "provider": "wasabi",
    "region": "*",
    "currency": "USD",
    "version": "refused",
    "valid_from": "2026-11-01T00:00:00Z",
    "source": "a test",
    "rates": [{"storage_class": "*", "operation": "put", "unit": "1000_requests", "price": "0.01"}],
}
NO_PRICES = (
    *(({"rates": [{**PRICES["rates"][0], "price": amount}]}, "rates[0].price") for amount in (*BAD_AMOUNTS, 0.01)),
    *(({"rates": [{**PRICES["rates"][0], field: "kb"}]}, f"rates[0].{field}") for field in ("operation", "unit")),
    ({"rates": [{**PRICES["rates"][0], "unit": "gb"}]}, "rates[0].unit"),
    ({"rates": []}, "rates"),
    ({"rates": [{}]}, "rates[0]"),
    ({"rates": PRICES["rates"] * 2}, "rates"),
    ({"provider": "nobody"}, "provider"),
    ({"currency": "U$D"}, "currency"),
    ({"version": ""}, "version"),
    ({"valid_from": "yesterday"}, "valid_from"),
    ({"valid_from": "2026-11-01T00:00:00"}, "valid_from"),
    ({"format_version": 2}, "format_version"),
    ({"discount": "1"}, "discount"),
)


def test_price_lists_that_cannot_be(vh: Vh, tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    versions = [one["version"] for one in vh.run("pricing", "catalog", "show", code=0).json["lists"]]
    for changes, named in NO_PRICES:
        file.write_text(json.dumps({**PRICES, **changes}))
        error = vh.refused("pricing", "catalog", "import", str(file))
        assert named in error["message"], (changes, error)
        assert error["remedy"], changes
    assert [one["version"] for one in vh.run("pricing", "catalog", "show", code=0).json["lists"]] == versions


def test_bucket_options_do_not_fit_directories(vh: Vh, create: CreateVault) -> None:
    vault = create(None)
    before = snapshot(vault)
    for option in (("--s3-budget-put", "5"), ("--strategy", "mirror"), ("--on-sync-conflict", "keep_newest")):
        error = vh.refused("vault", "sync", "set", vault.name, *option)
        assert error["code"] in ("not_for_local_vaults", "invalid_value")
        assert option[0] in error["message"]
    assert vh.refused("vault", "fetch", vault.name, "file")["code"] == "not_for_local_vaults"
    assert snapshot(vault) == before


@pytest.mark.parametrize("why", ["missing", "a file", "inside a root", "inside the home"])
def test_roots_that_cannot_be(vh: Vh, roto: Stage, create: CreateVault, tmp_path: Path, why: str) -> None:
    other = create(None)
    places = {
        "missing": tmp_path / "missing",
        "a file": tmp_path / "file",
        "inside a root": other.root / "below",
        "inside the home": vh.home / "below",
    }
    root = places[why]
    if why == "a file":
        root.write_bytes(b"")
    elif why != "missing":
        root.mkdir()
    before = vh.run("vault", "list", code=0).json
    where = ("--root", str(root), "--api-key", roto.key, "--bucket", "any-bucket")
    error = vh.refused("vault", "create", f"v-{why.replace(' ', '-')}", "--s3", *where)
    assert error["code"] in ("root_unusable", "root_overlap")
    assert str(root) in error["message"]
    assert error["remedy"]
    assert vh.run("vault", "list", code=0).json == before
    assert not (root / ".vaulthalla").exists()
    if root.is_dir():
        root.rmdir()


def test_stores_that_cannot_be_reached(vh: Vh, roto: Stage, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    keys = vh.run("api-key", "list", code=0).json
    error = vh.refused("api-key", "create", "nowhere", "--provider", "other", "--endpoint", nowhere)
    assert nowhere.removeprefix("http://") in error["message"]
    assert error["remedy"]
    assert vh.run("api-key", "list", code=0).json == keys
    vaults = vh.run("vault", "list", code=0).json
    root = tmp_path / "root"
    root.mkdir()
    where = ("--root", str(root), "--api-key", roto.key, "--bucket", "no-such-bucket")
    error = vh.refused("vault", "create", "bucketless", "--s3", *where)
    assert "no-such-bucket" in error["message"]
    assert error["remedy"]
    assert vh.run("vault", "list", code=0).json == vaults
    assert not (root / ".vaulthalla").exists()


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_wrong_credentials(vh: Vh, roto: Stage, code: str) -> None:
    """The local servers take any credentials, so the proxy answers as providers do."""
    keys = vh.run("api-key", "list", code=0).json
    roto.proxy.reset()
    roto.proxy.add(Fault(action="error", status=403, code=code))
    where = ("--provider", "other", "--endpoint", roto.proxy.endpoint, "--access", "nobody", "--secret-stdin")
    error = vh.refused("api-key", "create", "wrong", *where, stdin="wrong-secret\n")
    assert error["code"] == "access_denied"
    assert "access key, secret" in error["remedy"]
    assert "wrong-secret" not in str(error)
    assert roto.proxy.counts.requests.total() == 1
    assert vh.run("api-key", "list", code=0).json == keys


def test_a_path_that_names_no_object(roto: Stage, create: CreateVault) -> None:
    vault = create(roto, "--strategy", "cache")
    assert vault.bucket is not None
    vault.bucket.put("dir/one [1].txt", b"body")
    vault.sync()
    for command in ("fetch", "evict"):
        for path in ("dri", "dir/one", "*.jpg", "dir/one [2].txt", "../dir"):
            error = vault.vh.refused("vault", command, vault.name, "dir/", path)
            assert error["code"] == "not_found"
            assert repr(path) in error["message"]
    for path in ("dir", "dir/", "dir/one [1].txt", "d*.txt"):
        vault.vh.run("vault", "fetch", vault.name, path, code=0)
    assert vault.files() == {"dir/one [1].txt": b"body"}


def test_every_refusal_says_what_would_be_accepted(vh: Vh, roto: Stage, create: CreateVault, tmp_path: Path) -> None:
    local = create(None)
    spare = tmp_path / "spare"
    spare.mkdir()
    where = ("--s3", "--root", str(spare), "--api-key", roto.key, "--bucket", "any")
    for arguments in (
        ("vault", "create", "neither", "--root", str(spare)),
        ("vault", "create", "", *where),
        ("vault", "create", "a/b", *where),
        ("vault", "delete", local.name, "--delete-upstream", "--yes"),
        ("vault", "evict", local.name, "file"),
        ("vault", "fetch", local.name, "file"),
    ):
        assert vh.refused(*arguments)["remedy"], arguments
