"""What a run sends beyond its estimate is what was sent again: exactly the attempts that failed."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.acceptance.faults.world import World
from tests.support.proxy import Fault

MIB = 2**20
# Few enough that whatever is struck by all of them is still tried once more.
FAILING = (Fault(action="error", status=503), Fault(action="error", status=500))
# Their conditions are not proven at this store: an operation that is taken up again looks again.
LOOKS_AGAIN = ("copy", "delete")
# Nor is that of an upload's completion: which may be what is taken up again, when a request before it failed.
STRUCK = {"put": "/(new|changes)$"}


def beyond(sent: dict[str, int], expected: dict[str, int]) -> dict[str, int]:
    """By class, how much more was sent than was expected."""
    return {name: sent[name] - expected[name] for name in sent if sent[name] != expected[name]}


@pytest.fixture
def changed(world: World) -> World:
    """A vault that needs every class but LIST: uploads, one of them in parts, downloads, a rename and a delete."""
    world.create()
    world.write({"moves": os.urandom(MIB + 1), "goes": b"goes", "changes": b"before"})
    world.put({"down": b"comes down"})
    world.sync()
    (world.root / "moves").rename(world.root / "moved")
    (world.root / "goes").unlink()
    world.write({"large": os.urandom(70 * MIB), "changes": b"afterwards", "new": b"new"})
    world.put({"down": b"another body", "down too": b"new there"})
    world.expect(0, "vault", "sync", "reconcile", world.name)
    return world


@pytest.mark.parametrize("request_class", ["", "head", "get", "put", "copy", "delete"])
def test_a_run_is_its_dry_run_and_the_retries(changed: World, request_class: str) -> None:
    seen = changed.expect(0, "vault", "sync", "dry-run", changed.name)
    assert all(count for name, count in seen["requests"].items() if name != "list"), seen["requests"]
    aim = {"request_class": request_class, "key": STRUCK.get(request_class, "")}
    faults = [replace(fault, **aim) for fault in FAILING] if request_class else []
    changed.proxy.add(*faults)
    run = changed.expect(0, "vault", "sync", changed.name, "--plan", seen["plan"])
    more = beyond(run["requests"], seen["requests"])
    looks = more.pop("head", 0) if request_class in LOOKS_AGAIN else 0
    assert more == ({request_class: len(FAILING)} if request_class else {})
    assert changed.proxy.counts.faults.total() == len(faults) >= looks
    assert changed.files() == changed.objects()
    changed.ledger_is_exact()


@pytest.mark.parametrize("key", [r"manifest\.json$", r"\.vaulthalla/(?!manifest\.json)"], ids=["root", "others"])
@pytest.mark.parametrize("request_class", ["get", "put"])
def test_the_manifest_is_read_and_published_though_it_takes_another_attempt(
    world: World, request_class: str, key: str
) -> None:
    world.create()
    world.write({"a": b"a"})
    world.sync()
    # What another host published: there are objects to fetch as well.
    world.ask("UPDATE indexing_indexstate SET manifest_etag = '', manifest_root = NULL RETURNING vault_id")
    world.write({"b": b"b"})
    fault = Fault(action="error", status=503, request_class=request_class, key=key, times=2)
    world.proxy.add(fault)
    run = world.sync()
    assert world.proxy.counts.faults == {"error": 2}
    assert "manifest_unread" not in run
    assert run["manifest"]["published"] is True
    world.converges()
    world.ledger_is_exact()


def test_a_listing_is_its_estimate_and_the_retries(world: World) -> None:
    world.create("--s3-budget-list", "10")
    world.put({f"{number}": b"x" for number in range(3)})
    world.sync()
    world.proxy.add(Fault(action="error", status=503, request_class="list", times=2))
    world.expect(0, "vault", "sync", "reconcile", world.name)
    run = world.expect(0, "vault", "sync", "history", world.name)["runs"][0]
    assert (run["kind"], run["requests"]["list"] - run["estimate"]["requests"]["list"]) == ("reconcile", 2)
    world.ledger_is_exact()
