"""A store that misbehaves costs a run time or an honest failure: never data, never an uncounted request."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.acceptance.faults.world import World
from tests.support.proxy import Fault

MIB = 2**20
FILES = {
    "notes.txt": b"first line\n",
    "empty": b"",
    "2026/a picture.jpg": b"jpg" * 9_000,
    "2026/ünïcode ☃.txt": b"snow",
    "deep/er/and/deeper": b"x" * 70_000,
    "zz": b"the last one",
}
OBJECTS = {f"remote/{name}": body[::-1] for name, body in FILES.items()}
EVERYTHING = {**FILES, **OBJECTS}
LARGE = 70 * MIB

# What a client tries again: each costs exactly the attempts that went over the wire.
PASSING = {
    "slow down": Fault(action="error", status=503, times=2),
    "internal error": Fault(action="error", status=500),
    "reset before it acted": Fault(action="reset_before"),
    "reset after it acted": Fault(action="reset_after"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_is_retried_and_counted(world: World, fault: Fault) -> None:
    world.create()
    world.write({**FILES, "big": os.urandom(MIB + 1)})
    world.put(OBJECTS)
    world.proxy.add(*(replace(fault, request_class=name) for name in ("list", "put", "get")))
    run = world.sync()
    assert (run["operations"]["upload"], run["operations"]["download"]) == (len(FILES) + 1, len(OBJECTS))
    assert sum(world.proxy.counts.faults.values()) == 3 * fault.times
    assert world.files() == world.objects()
    (world.root / "big").rename(world.root / "renamed")
    (world.root / "zz").unlink()
    world.proxy.add(*(replace(fault, request_class=name) for name in ("copy", "delete")))
    run = world.sync()
    assert (run["failures"], run["operations"]["delete_remote"]) == ([], 2)
    assert sum(world.proxy.counts.faults.values()) == 5 * fault.times
    world.converges()
    world.ledger_is_exact()


@pytest.mark.parametrize(
    ("status", "code"), [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict"), (409, "OperationAborted")]
)
def test_a_lost_race_is_an_observation(world: World, status: int, code: str) -> None:
    world.create()
    world.write({**FILES, "big": os.urandom(MIB + 1)})
    world.sync()
    world.write({"notes.txt": b"second line\n"})
    (world.root / "big").rename(world.root / "renamed")
    (world.root / "zz").unlink()
    lost = Fault(action="error", status=status, code=code)
    world.proxy.add(*(replace(lost, request_class=name) for name in ("put", "copy", "delete")))
    assert world.sync()["failures"] == []
    assert world.proxy.counts.faults == {"error": 3}
    world.converges()
    world.ledger_is_exact()


@pytest.mark.parametrize(
    "fault", [Fault(action="error", status=412), Fault(action="reset_after")], ids=lambda f: f.action
)
def test_a_second_look_comes_before_anything_is_sent_again(world: World, fault: Fault) -> None:
    world.create()
    world.write({"file": b"body"})
    world.proxy.add(replace(fault, request_class="put", key="/file$"))
    run = world.sync()
    assert run["operations"]["upload"] + run["operations"]["converge"] == 1
    # The one that was refused or whose answer was lost, another, and two that publish the manifest.
    assert (run["requests"]["put"], run["requests"]["head"]) == (4, 1)
    world.ledger_is_exact()


def test_what_does_not_pass_is_reported_and_left_to_the_next_run(world: World) -> None:
    world.create()
    world.write(FILES)
    world.put(OBJECTS)
    world.proxy.add(Fault(action="error", key="deep", status=500, times=50))
    run = world.sync(1)
    failing = ["deep/er/and/deeper", "remote/deep/er/and/deeper"]
    assert [failure["path"] for failure in run["failures"]] == failing
    assert all("InternalError" in failure["reason"] for failure in run["failures"])
    assert (run["error"]["code"], run["operations"]["failed"]) == ("operations_failed", 2)
    assert run["error"]["remedy"]
    assert world.files() == {name: body for name, body in EVERYTHING.items() if name != failing[1]}
    assert world.objects() == {name: body for name, body in EVERYTHING.items() if name != failing[0]}
    world.nothing_half_written()
    world.proxy.heal()
    world.converges()
    world.ledger_is_exact()


def test_a_key_that_the_store_contradicts_itself_about_is_named_and_costs_little(world: World) -> None:
    world.create()
    world.write({"good": b"fine", "never": b"refused each time"})
    world.proxy.add(Fault(action="error", request_class="put", key="/never$", status=404, times=100))
    run = world.sync(1)
    assert [failure["path"] for failure in run["failures"]] == ["never"]
    assert run["failures"][0]["reason"].startswith("store_contradicts_itself: ")
    assert "provider" in run["error"]["remedy"]
    assert world.objects() == {"good": b"fine"}
    assert run["requests"]["head"] == 2
    world.ledger_is_exact()
    world.proxy.heal()
    world.converges()


def test_a_bucket_that_is_gone_is_what_the_run_says(world: World) -> None:
    world.create()
    world.write({"first": b"1"})
    world.sync()
    world.write({"second": b"2"})
    world.proxy.add(Fault(action="error", status=404, code="NoSuchBucket", request_class="put", times=10_000))
    run = world.sync(1)
    assert run["error"]["code"] == "bucket_missing"
    assert run["error"]["remedy"].startswith(f"vh vault info {world.name}")
    world.proxy.heal()
    world.converges()


def test_a_store_that_is_away_stalls_the_run(world: World) -> None:
    world.create()
    world.write(FILES)
    world.sync()
    world.write({f"new {number}": b"x" for number in range(12)})
    world.proxy.add(Fault(action="error", status=503, times=10_000))
    run = world.sync(3)
    assert run["stall"]["code"] == "store_unavailable"
    assert "vh vault sync" in run["stall"]["remedy"]
    world.proxy.heal()
    world.converges()
    world.ledger_is_exact()


def test_requests_that_hang_end_and_are_sent_again(world: World) -> None:
    world.environment["VAULTHALLA_READ_SECONDS"] = "1"
    world.create()
    world.write(FILES)
    world.put(OBJECTS)
    hang = Fault(action="hang", seconds=3)
    world.proxy.add(*(replace(hang, request_class=name) for name in ("list", "put", "get")))
    world.sync()
    assert world.proxy.counts.faults == {"hang": 3}
    assert world.files() == world.objects() == EVERYTHING
    world.converges()
    world.ledger_is_exact()


def test_answers_that_take_their_time_are_waited_for(world: World) -> None:
    world.create()
    world.write(FILES)
    world.proxy.add(Fault(action="delay", request_class="put", seconds=2, times=2))
    world.sync()
    assert world.proxy.counts.requests["put"] == len(FILES) + 2
    world.converges()
    world.ledger_is_exact()


def test_a_body_that_ends_early_once_is_fetched_again(world: World) -> None:
    world.create()
    world.put(OBJECTS)
    world.proxy.add(Fault(action="truncate", request_class="get", key="picture", bytes=100))
    world.sync()
    assert world.files() == OBJECTS
    assert world.proxy.counts.requests["get"] == 1 + len(OBJECTS) + 1
    world.converges()
    world.ledger_is_exact()


def test_a_body_that_always_ends_early_is_never_a_file(world: World) -> None:
    world.create()
    world.put(OBJECTS)
    cut = {"picture": 0, "deeper": 1, "notes": 5}
    world.proxy.add(
        *(Fault(action="truncate", request_class="get", key=name, bytes=kept, times=100) for name, kept in cut.items())
    )
    run = world.sync(1)
    failing = ["remote/2026/a picture.jpg", "remote/deep/er/and/deeper", "remote/notes.txt"]
    assert [failure["path"] for failure in run["failures"]] == failing
    assert world.files() == {name: body for name, body in OBJECTS.items() if name not in failing}
    # Three tries each, and no more than that.
    assert run["requests"]["get"] == 1 + 3 + 3 * len(failing)
    world.nothing_half_written()
    world.proxy.heal()
    world.converges()
    world.ledger_is_exact()


@pytest.mark.parametrize("ours", [True, False], ids=["by our SHA-256", "by its MD5"])
def test_a_body_with_a_flipped_bit_is_never_a_file(world: World, ours: bool) -> None:
    world.create("--strategy", "cache")
    if ours:
        world.write(OBJECTS)
        world.sync()
        for path in OBJECTS:
            (world.root / path).unlink()
    else:
        world.put(OBJECTS)
    world.sync()
    path = "remote/2026/a picture.jpg"
    world.proxy.add(
        Fault(action="corrupt", request_class="get", key="picture", times=100),
        Fault(action="corrupt", request_class="get", key="notes", times=1),
    )
    run = world.expect(1, "vault", "fetch", world.name, "remote")
    assert [failure["path"] for failure in run["failures"]] == [path]
    assert run["failures"][0]["reason"].startswith("body_corrupt")
    assert world.files() == {name: body for name, body in OBJECTS.items() if name != path}
    world.nothing_half_written()
    world.proxy.heal()
    world.expect(0, "vault", "fetch", world.name, "remote")
    world.converges()
    world.ledger_is_exact()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(action="truncate", request_class="list", bytes=300),
        Fault(action="error", request_class="list", status=200, code="InternalError"),
    ],
    ids=["truncated", "an error in a 200"],
)
def test_half_a_listing_is_no_listing(world: World, fault: Fault) -> None:
    world.create()
    world.put({f"{number:03}": b"x" for number in range(40)})
    world.proxy.add(replace(fault))
    world.sync()
    assert len(world.files()) == 40
    # One that stays broken changes nothing, on either side.
    world.proxy.add(replace(fault, times=1_000))
    answer = world.vh("vault", "sync", "reconcile", world.name)
    assert answer.code in (1, 3), answer
    assert world.sync()["operations"]["delete_local"] == 0
    assert len(world.files()) == 40
    world.proxy.heal()
    world.expect(0, "vault", "sync", "reconcile", world.name)
    world.converges()
    world.ledger_is_exact()


# CreateMultipartUpload, five UploadPart, CompleteMultipartUpload.
LARGE_PUTS = {"begin and parts": (0, 1, 3), "complete": (6,)}


@pytest.mark.parametrize("skips", LARGE_PUTS.values(), ids=LARGE_PUTS)
@pytest.mark.parametrize("action", ["reset_before", "reset_after"])
def test_large_bodies_pass(world: World, action: str, skips: tuple[int, ...]) -> None:
    body = os.urandom(LARGE)
    world.create()
    world.write({"large": body})
    world.proxy.add(*(Fault(action=action, request_class="put", skip=skip) for skip in skips))
    run = world.sync()
    assert run["operations"]["upload"] == 1
    assert world.objects() == {"large": body}
    assert world.proxy.counts.faults == {action: len(skips)}
    world.converges()
    world.ledger_is_exact()


@pytest.mark.parametrize("action", ["reset_before", "truncate", "corrupt"])
def test_large_bodies_come_down_whole(world: World, action: str) -> None:
    body = os.urandom(LARGE)
    world.create("--strategy", "cache")
    world.write({"large": body})
    world.sync()
    (world.root / "large").unlink()
    world.sync()
    world.proxy.add(Fault(action=action, request_class="get", bytes=5 * MIB))
    answer = world.vh("vault", "fetch", world.name, "large")
    assert answer.code == (1 if action == "corrupt" else 0), answer
    assert world.files() == ({} if action == "corrupt" else {"large": body})
    world.nothing_half_written()
    world.expect(0, "vault", "fetch", world.name, "large")
    assert world.files() == {"large": body}
    world.converges()
    world.ledger_is_exact()
