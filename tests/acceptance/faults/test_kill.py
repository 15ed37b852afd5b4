"""Processes and servers die in the middle of a sync: the next one ends what was begun, and the books hold."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.faults.world import World, finish, helpers_of, kill, wait_for
from tests.support.proxy import Fault

MIB = 2**20
# Enough for several chunks, so that helper processes start.
FILES = {f"{number % 7}/{number:03}": b"%d " % number * (number % 50 + 1) for number in range(260)}
PART, RANGE = 16 * MIB, 64 * MIB
Killing = Callable[[World, Any], None]


def slow(world: World, *, seconds: float = 0.15) -> None:
    """Long enough to die in, short enough to wait for."""
    world.proxy.add(Fault(action="delay", request_class="put", seconds=seconds, times=100_000))


def in_the_middle(world: World) -> None:
    wait_for(lambda: world.proxy.counts.requests["put"] >= 40)


def settles(world: World) -> None:
    """What every one of these must come to."""
    world.proxy.heal()
    world.converges()
    world.ledger_holds()
    assert world.uploads() == []


def test_the_command_is_killed_and_its_helpers_end_by_themselves(world: World) -> None:
    world.create()
    world.write(FILES)
    slow(world)
    command = world.begin_sync()
    in_the_middle(world)
    kill(command)
    world.lapse(command.pid)
    world.proxy.heal()
    wait_for(lambda: not helpers_of(world))
    settles(world)


def test_a_helper_is_killed_and_the_command_goes_on(world: World) -> None:
    world.create()
    world.write(FILES)
    slow(world, seconds=0.5)
    command = world.begin_sync()
    [helper] = wait_for(lambda: helpers_of(world))
    wait_for(lambda: world.working(helper))
    os.kill(helper, signal.SIGKILL)
    world.lapse(helper)
    world.proxy.heal()
    answer = finish(command)
    assert answer.code == 0, answer
    assert world.files() == world.objects()
    settles(world)


@pytest.mark.parametrize("victim", ["postgresql", "valkey"])
def test_a_server_is_killed_and_the_run_goes_on(world: World, victim: str) -> None:
    world.create()
    world.write(FILES)
    slow(world)
    command = world.begin_sync()
    in_the_middle(world)
    os.kill(world.status()[victim]["pid"], signal.SIGKILL)
    answer = finish(command)
    assert answer.code == 0, answer
    assert world.files() == world.objects()
    settles(world)


def test_the_broker_is_emptied(world: World) -> None:
    world.create()
    world.write(FILES)
    slow(world)
    command = world.begin_sync()
    in_the_middle(world)
    world.flush_broker()
    assert finish(command).code == 0
    settles(world)
    world.ledger_is_exact()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_asked_to_end_leaves_in_good_order(world: World, number: signal.Signals) -> None:
    world.create()
    world.write(FILES)
    slow(world)
    command = world.begin_sync()
    in_the_middle(world)
    command.send_signal(number)
    assert finish(command).code == 130
    # Nobody waits for a lease: whatever was under way was given back.
    assert world.running() == 0
    settles(world)
    world.ledger_is_exact()


def test_two_commands_at_once_do_the_work_once(world: World) -> None:
    world.create()
    world.write(FILES)
    slow(world, seconds=0.05)
    commands = [world.begin_sync(), world.begin_sync()]
    answers = [finish(command) for command in commands]
    assert [answer.code for answer in answers] == [0, 0], answers
    assert world.proxy.counts.requests["put"] == len(FILES) + 2
    settles(world)
    world.ledger_is_exact()


def test_a_process_that_slept_through_its_lease_does_no_harm(world: World) -> None:
    world.create()
    world.write({name: FILES[name] for name in list(FILES)[:30]})
    slow(world, seconds=1)
    sleeper = world.begin_sync()
    wait_for(lambda: world.proxy.counts.requests["put"] >= 10)
    sleeper.send_signal(signal.SIGSTOP)
    world.lapse(sleeper.pid)
    world.proxy.heal()
    world.sync()
    assert world.files() == world.objects()
    (world.root / "0/000").write_bytes(b"written while it slept")
    sleeper.send_signal(signal.SIGCONT)
    answer = finish(sleeper)
    assert answer.code == 0, answer
    settles(world)
    assert world.files()["0/000"] == b"written while it slept"


def test_a_chunk_that_kills_whoever_takes_it_ends_failed(world: World) -> None:
    world.create()
    world.write({"poison": b"x"})
    world.proxy.add(Fault(action="delay", request_class="put", seconds=600, times=100))
    for attempt in range(1, 6):
        command = world.begin_sync()
        wait_for(lambda before=attempt: world.proxy.counts.requests["put"] >= before)
        kill(command)
        world.lapse(command.pid)
    world.proxy.heal()
    world.sync()
    runs = world.expect(0, "vault", "sync", "history", world.name)["runs"]
    assert [run["status"] for run in runs] == ["success", "failed"]
    assert runs[1]["error"]["code"] == "chunk_failed"
    settles(world)


def test_a_large_upload_goes_on_with_the_parts_it_has(world: World) -> None:
    parts, kept = 14, 5
    body = os.urandom(parts * PART - 7)
    world.create()
    world.write({"large": body})
    # CreateMultipartUpload and some parts pass, then nothing does any more.
    world.proxy.add(Fault(action="delay", request_class="put", skip=1 + kept, seconds=600, times=100))
    command = world.begin_sync()
    wait_for(lambda: world.parts("large") == kept)
    kill(command)
    world.lapse(command.pid)
    world.proxy.heal()
    before = world.proxy.counts.operations
    world.sync()
    sent = world.proxy.counts.operations - before
    assert sent["UploadPart"] == parts - kept
    assert (sent["CreateMultipartUpload"], sent["CompleteMultipartUpload"]) == (0, 1)
    assert world.objects() == {"large": body}
    settles(world)


def test_a_large_download_goes_on_with_the_ranges_it_has(world: World) -> None:
    ranges, kept = 5, 3
    body = os.urandom(ranges * RANGE - 7)
    world.create("--strategy", "cache")
    world.write({"large": body})
    world.sync()
    (world.root / "large").unlink()
    world.sync()
    world.proxy.add(Fault(action="delay", request_class="get", skip=kept, seconds=600, times=100))
    command = world.begin("vault", "fetch", world.name, "large")
    wait_for(lambda: world.parts("large") == kept)
    assert "large" not in world.files()
    kill(command)
    world.lapse(command.pid)
    world.proxy.heal()
    before = world.proxy.counts.requests
    world.expect(0, "vault", "fetch", world.name, "large")
    assert (world.proxy.counts.requests - before)["get"] == ranges - kept
    assert world.files() == {"large": body}
    settles(world)
