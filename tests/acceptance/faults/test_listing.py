"""A listing that breaks off, stalls or goes round: never taken for the whole, and gone on with where it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.acceptance.faults.world import World
from tests.support.proxy import Fault

KEYS, PAGE = 45, 10
PAGES = 5
# Stores that promise an order, and are asked to go on after a key; and others, asked with a token.
PROVIDERS = {"in order": "minio", "by token": "other"}
# In the third page: the exit code, and what is said. What a client tries again costs its four attempts.
BREAKING = {
    "cut short": (Fault(action="truncate", bytes=300, skip=2, times=10_000), 3, "store_unavailable", 4),
    "slow down": (Fault(action="error", status=503, skip=2, times=10_000), 3, "store_unavailable", 4),
    "the first page again": (Fault(action="replay", skip=2), 1, "unexpected_response", 1),
}


@pytest.fixture(params=PROVIDERS.values(), ids=PROVIDERS)
def listed(request: pytest.FixtureRequest, world: World) -> World:
    """A vault whose bucket is listed in pages of ten."""
    world.key = f"{request.param}-{world.bucket}"
    world.expect(0, "api-key", "create", world.key, "--provider", request.param, "--endpoint", world.proxy.endpoint)
    world.create()
    world.put({f"{number:03}": b"x" for number in range(KEYS)})
    in_small_pages(world)
    return world


def in_small_pages(world: World, *faults: Fault) -> None:
    world.proxy.heal()
    narrow = Fault(action="narrow", request_class="list", keys=PAGE, times=10_000)
    world.proxy.add(*(replace(fault, request_class="list") for fault in faults), narrow)


def pages(world: World) -> int:
    return world.proxy.counts.requests["list"]


def known(world: World) -> dict[str, object]:
    index = world.expect(0, "vault", "sync", "info", world.name)["index"]
    return {name: index[name] for name in ("complete", "freshness", "snapshot_as_of", "object_count", "doubtful")}


@pytest.mark.parametrize("how", BREAKING)
def test_a_first_sync_does_nothing_by_half_a_listing(listed: World, how: str) -> None:
    fault, code, said, attempts = BREAKING[how]
    listed.write({"local": b"here"})
    in_small_pages(listed, fault)
    answer = listed.vh("vault", "sync", listed.name)
    assert answer.code == code, answer
    told = answer.json["stall"] or answer.json["error"]
    assert (told["code"], bool(told["remedy"])) == (said, True)
    assert (known(listed)["complete"], known(listed)["freshness"]) == (False, "missing")
    assert (set(listed.files()), len(listed.objects())) == ({"local"}, KEYS)
    assert pages(listed) == 2 + attempts
    in_small_pages(listed)
    assert listed.sync()["operations"]["download"] == KEYS
    # In order, the two pages that were kept are not paid again.
    assert pages(listed) == 2 + attempts + (PAGES - 2 if "minio" in listed.key else PAGES)
    listed.converges()
    listed.ledger_is_exact()


@pytest.mark.parametrize("how", BREAKING)
def test_a_reconcile_leaves_the_index_as_old_as_it_was(listed: World, how: str) -> None:
    fault, code, said, attempts = BREAKING[how]
    reconcile = ("vault", "sync", "reconcile", listed.name, "--allow-list-scan")
    listed.expect(0, *reconcile)
    before = known(listed)
    assert (before["complete"], before["object_count"]) == (True, KEYS)
    in_small_pages(listed, fault)
    answer = listed.vh(*reconcile)
    assert answer.code == code, answer
    assert said in answer.stderr
    assert known(listed) == before
    # One more, since no attempt was expected to be in vain.
    assert pages(listed) in (PAGES + 2 + attempts, PAGES + 2 + attempts + 1)
    in_small_pages(listed)
    assert listed.expect(0, *reconcile)["removed"] == 0
    assert known(listed)["object_count"] == KEYS
    listed.ledger_is_exact()
