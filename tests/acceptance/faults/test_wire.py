"""A store that misbehaves costs a run time or an honest failure: never data, never an uncounted request."""

from __future__ import annotations

import json
import os

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
LARGE = 70 * MIB

# Answers that a client tries again: each must cost exactly the attempts that went over the wire.
TRIED_AGAIN = {
    "slow down": Fault(action="error", status=503, times=2),
    "internal error": Fault(action="error", status=500, times=1),
    "reset before it acted": Fault(action="reset_before", times=1),
    "reset after it acted": Fault(action="reset_after", times=1),
}


def again(fault: Fault, request_class: str, **changes: object) -> Fault:
    return Fault(**{**_as_dict(fault), "request_class": request_class, **changes})  # type: ignore[arg-type]


def _as_dict(fault: Fault) -> dict[str, object]:
    return {name: getattr(fault, name) for name in fault.__dataclass_fields__}


@pytest.mark.parametrize("fault", TRIED_AGAIN.values(), ids=TRIED_AGAIN)
@pytest.mark.parametrize("request_class", ["list", "put", "get"])
def test_what_passes_is_retried_and_counted(world: World, request_class: str, fault: Fault) -> None:
    world.create()
    world.write(FILES)
    world.put(OBJECTS)
    world.proxy.add(again(fault, request_class))
    run = world.sync()
    assert world.files() == world.objects() == {**FILES, **OBJECTS}
    assert (run["operations"]["upload"], run["operations"]["download"]) == (len(FILES), len(OBJECTS))
    assert run["failures"] == []
    assert sum(world.proxy.counts.faults.values()) == (2 if fault.status == 503 and fault.action == "error" else 1)
    world.converges()
    world.ledger_is_exact()


@pytest.mark.parametrize("fault", TRIED_AGAIN.values(), ids=TRIED_AGAIN)
def test_deletes_and_renames_pass_too(world: World, fault: Fault) -> None:
    world.create()
    world.write({**FILES, "big": os.urandom(MIB + 1)})
    world.sync()
    (world.root / "big").rename(world.root / "renamed")
    (world.root / "zz").unlink()
    world.proxy.add(again(fault, "copy"), again(fault, "delete"))
    run = world.sync()
    assert (run["operations"]["copy"], run["operations"]["delete_remote"]) == (1, 2)
    assert set(world.proxy.counts.faults) == {fault.action}
    world.converges()
    world.ledger_is_exact()


@pytest.mark.parametrize(
    ("status", "code"), [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict"), (409, "OperationAborted")]
)
@pytest.mark.parametrize("request_class", ["put", "copy", "delete"])
def test_a_lost_race_is_an_observation(world: World, request_class: str, status: int, code: str) -> None:
    world.create()
    world.write({**FILES, "big": os.urandom(MIB + 1)})
    world.sync()
    world.write({"notes.txt": b"second line\n"})
    (world.root / "big").rename(world.root / "renamed")
    (world.root / "zz").unlink()
    world.proxy.add(Fault(action="error", request_class=request_class, status=status, code=code))
    world.sync()
    world.converges()
    world.ledger_is_exact()


@pytest.mark.parametrize("request_class", ["put", "get"])
def test_what_does_not_pass_is_reported_and_left_to_the_next_run(world: World, request_class: str) -> None:
    world.create()
    world.write(FILES)
    world.put(OBJECTS)
    world.proxy.add(Fault(action="error", request_class=request_class, key="deep", status=500, times=50))
    run = world.sync(1)
    path = "deep/er/and/deeper" if request_class == "put" else "remote/deep/er/and/deeper"
    assert [failure["path"] for failure in run["failures"]] == [path]
    assert "InternalError" in run["failures"][0]["reason"]
    assert run["error"]["code"] == "operations_failed"
    assert run["error"]["remedy"]
    assert run["operations"]["failed"] == 1
    world.nothing_half_written()
    everything = {**FILES, **OBJECTS}
    assert {**world.files(), **world.objects()} == everything
    side = world.objects() if request_class == "put" else world.files()
    assert side == {name: body for name, body in everything.items() if name != path}
    world.proxy.heal()
    world.converges()
    world.ledger_is_exact()


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


@pytest.mark.parametrize("request_class", ["list", "put", "get"])
def test_a_request_that_hangs_ends_and_is_sent_again(world: World, request_class: str) -> None:
    world.environment["VAULTHALLA_READ_SECONDS"] = "1"
    world.create()
    world.write(FILES)
    world.put(OBJECTS)
    world.proxy.add(Fault(action="hang", request_class=request_class, seconds=3))
    world.sync()
    assert world.files() == world.objects() == {**FILES, **OBJECTS}
    world.converges()
    world.ledger_is_exact()


def test_an_answer_that_takes_its_time_is_waited_for(world: World) -> None:
    world.create()
    world.write(FILES)
    world.proxy.add(Fault(action="delay", request_class="put", seconds=2, times=2))
    world.sync()
    assert world.proxy.counts.requests["put"] == len(FILES)
    world.converges()
    world.ledger_is_exact()


@pytest.mark.parametrize("kept", [0, 1, 4_000])
def test_a_body_that_ends_early_is_never_a_file(world: World, kept: int) -> None:
    world.create()
    world.put(OBJECTS)
    world.proxy.add(Fault(action="truncate", request_class="get", key="picture", bytes=kept, times=100))
    run = world.sync(1)
    assert [failure["path"] for failure in run["failures"]] == ["remote/2026/a picture.jpg"]
    assert "remote/2026/a picture.jpg" not in world.files()
    world.nothing_half_written()
    world.proxy.heal()
    world.converges()
    world.ledger_is_exact()


def test_a_body_that_ends_early_once_is_fetched_again(world: World) -> None:
    world.create()
    world.put(OBJECTS)
    world.proxy.add(Fault(action="truncate", request_class="get", key="picture", bytes=100))
    world.sync()
    assert world.files() == OBJECTS
    assert world.proxy.counts.requests["get"] == len(OBJECTS) + 1
    world.converges()
    world.ledger_is_exact()


@pytest.mark.parametrize("ours", [True, False], ids=["by our SHA-256", "by its MD5"])
@pytest.mark.parametrize("times", [1, 100])
def test_a_body_with_a_flipped_bit_is_never_a_file(world: World, ours: bool, times: int) -> None:
    world.create()
    if ours:
        world.write(OBJECTS)
        world.sync()
        # The files are lost, and so is what this home knew of them.
        for path in OBJECTS:
            (world.root / path).unlink()
        world.expect(0, "vault", "delete", world.name, "--yes")
        world.expect(0, *_vault_again(world))
    else:
        world.put(OBJECTS)
    before = world.seen()
    world.proxy.add(Fault(action="corrupt", request_class="get", key="picture", times=times))
    run = world.sync(0 if times == 1 else 1)
    path = "remote/2026/a picture.jpg"
    if times == 1:
        assert world.files() == OBJECTS
    else:
        assert [failure["path"] for failure in run["failures"]] == [path]
        assert run["failures"][0]["reason"].startswith("body_corrupt")
        assert world.files() == {name: body for name, body in OBJECTS.items() if name != path}
    world.nothing_half_written()
    world.proxy.heal()
    world.converges()
    counted, lost = world.counted()
    assert +lost == +lost.__class__()
    if ours:
        assert counted["get"] <= (world.seen() - before)["get"]
    else:
        world.ledger_is_exact()


def _vault_again(world: World) -> list[str]:
    where = ["--root", str(world.root), "--api-key", f"key-{world.bucket}", "--bucket", world.bucket]
    return ["vault", "create", world.name, "--s3", *where, "--strategy", "sync", "--adopt", "--no-verify"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(action="truncate", request_class="list", bytes=300, times=1),
        Fault(action="error", request_class="list", status=200, code="InternalError", times=1),
    ],
    ids=["truncated", "an error in a 200"],
)
def test_half_a_listing_is_no_listing(world: World, fault: Fault) -> None:
    world.create()
    world.put({f"{number:03}": b"x" for number in range(40)})
    world.proxy.add(fault)
    world.sync()
    assert len(world.files()) == 40
    world.converges()
    world.ledger_is_exact()


def test_a_listing_that_stays_broken_deletes_nothing(world: World) -> None:
    world.create()
    world.write(FILES)
    world.sync()
    world.proxy.add(Fault(action="truncate", request_class="list", bytes=300, times=1_000))
    answer = world.vh("vault", "sync", "reconcile", world.name)
    assert answer.code in (1, 3), answer
    assert world.sync()["operations"] == world.sync()["operations"]
    assert world.files() == FILES
    world.proxy.heal()
    world.expect(0, "vault", "sync", "reconcile", world.name)
    world.converges()
    world.ledger_is_exact()


PARTS = {
    "CreateMultipartUpload": 0,
    "UploadPart": 1,
    "another UploadPart": 3,
    "CompleteMultipartUpload": 6,
}


@pytest.mark.parametrize("skip", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("action", ["reset_before", "reset_after", "error"])
def test_large_bodies_pass(world: World, action: str, skip: int) -> None:
    body = os.urandom(LARGE)
    world.create()
    world.write({"large": body})
    world.proxy.add(Fault(action=action, request_class="put", skip=skip))
    run = world.sync()
    assert run["operations"]["upload"] == 1, json.dumps(run["operations"])
    assert world.objects() == {"large": body}
    world.converges()
    world.ledger_is_exact()


@pytest.mark.parametrize("action", ["reset_before", "truncate", "corrupt"])
def test_large_bodies_come_down_whole(world: World, action: str) -> None:
    body = os.urandom(LARGE)
    world.create()
    world.write({"large": body})
    world.sync()
    (world.root / "large").unlink()
    world.expect(0, "vault", "sync", "set", world.name, "--strategy", "cache")
    world.sync()
    world.expect(0, "vault", "sync", "set", world.name, "--strategy", "sync")
    world.proxy.add(Fault(action=action, request_class="get", bytes=5 * MIB))
    answer = world.vh("vault", "sync", world.name)
    assert answer.code in (0, 1), answer
    assert world.files() in ({}, {"large": body})
    world.nothing_half_written()
    world.converges()
    assert world.files() == {"large": body}
    world.ledger_is_exact()
