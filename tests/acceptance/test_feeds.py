"""Real servers tell of every change through a queue, and senders post to the web process."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.acceptance.conftest import CreateVault, Stage
from tests.acceptance.driver import Vault, Vh
from tests.acceptance.processes import Processes
from tests.support.queues import Queue
from tests.support.servers import free_port

NOTHING = dict.fromkeys(("list", "head", "get", "put", "copy", "delete", "downloaded_bytes"), 0)


@pytest.fixture(params=["moto", "roto"])
def stage(request: pytest.FixtureRequest, stages: Callable[[str], Stage]) -> Stage:
    return stages(request.param)


def wired(stage: Stage, vault: Vault) -> Queue:
    """A queue that hears of every change in the vault's bucket."""
    assert vault.bucket is not None
    queue = Queue(stage.server)
    queue.hear_of(vault.bucket.name, vault.bucket.client)
    return queue


def test_a_queue_keeps_the_index_true(stage: Stage, create: CreateVault, vh: Vh) -> None:
    vault = create(stage, "--strategy", "cache")
    assert vault.bucket is not None
    queue = wired(stage, vault)
    for number in range(23):
        vault.bucket.put(f"a b+{number}", b"body")
    vault.bucket.client.delete_object(Bucket=vault.bucket.name, Key="a b+7")
    queue.send("no JSON {")
    said = vault.measured("vault", "sync", "events", vault.name, "--queue", queue.url)
    assert (said["upserted"], said["deleted"] + said["doubtful"]) == (23, 1), said
    assert (said["set_aside"], said["drained"], said["requests"], queue.left()) == (1, True, NOTHING, 0)
    index = vault.vault("info")["index"]
    assert any("--no-lifecycle-rules" in warning for warning in index["warnings"])
    (feed,) = index["feeds"]
    assert (feed["kind"], feed["queue"], feed["set_aside"], feed["error"]) == ("queue", queue.url, 1, None)
    (kept,) = vault.vault("events", "--set-aside", "--clear")["set_aside"]
    assert (kept["reason"], kept["excerpt"]) == ("not_json", "no JSON {")
    assert vault.vault("events", "--set-aside")["set_aside"] == []
    again = vault.vault("events", "--queue", queue.url)
    assert (again["messages"], again["records"]) == (0, 0)


def test_follow_tells_each_batch_and_ends_when_asked(moto: Stage, create: CreateVault, vh: Vh) -> None:
    vault = create(moto, "--strategy", "cache")
    assert vault.bucket is not None
    queue = wired(moto, vault)
    process = vh.begin("vault", "sync", "events", vault.name, "--queue", queue.url, "--follow")
    try:
        vault.bucket.put("followed", b"body")
        assert process.stdout is not None
        told = 0
        while not told:
            told = json.loads(process.stdout.readline())["upserted"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (told, process.returncode, err, queue.left()) == (1, 130, "", 0)
    assert [run["status"] for run in vault.vault("history")["runs"] if run["kind"] == "events"] == ["success"]


def test_what_is_no_queue_changes_nothing(moto: Stage, create: CreateVault, vh: Vh) -> None:
    vault = create(moto, "--strategy", "cache")
    queue = wired(moto, vault)
    events = ("vault", "sync", "events", vault.name)
    assert vh.refused(*events, "--queue", queue.url + "x")["code"] == "queue_missing"
    assert vh.refused(*events, "--queue", "nowhere")["code"] == "invalid_value"
    assert vh.refused(*events)["code"] == "invalid_value"
    assert vh.refused("vault", "sync", "set", vault.name, "--events-queue", "nowhere")["code"] == "invalid_value"
    set_ = vault.vault("set", "--events-queue", queue.url)
    assert (set_["policy"]["events_queue"], set_["changed"]) == (queue.url, ["events_queue"])
    assert vault.vault("set", "--events-queue", "none")["policy"]["events_queue"] is None
    assert vault.vault("info")["index"]["feeds"] == []


def post(url: str, body: str, **headers: str) -> tuple[int, Any]:
    """Waits for the web process to come up; whatever it says is an answer."""
    end = time.monotonic() + 60
    while True:
        request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            if time.monotonic() > end:
                raise


def test_senders_post_to_the_web_process(moto: Stage, create: CreateVault, vh: Vh) -> None:
    vault = create(moto, "--strategy", "cache")
    assert vault.bucket is not None
    hook = vault.vault("webhook", "--on")
    address = f"127.0.0.1:{free_port()}"
    url = f"http://{address}{hook['path']}"
    now = datetime.now(UTC).isoformat()
    found = {"key": "posted", "eTag": "e", "size": 1, "sequencer": "01"}
    s3 = {"bucket": {"name": vault.bucket.name}, "object": found}
    body = json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "eventTime": now, "s3": s3}]})
    with Processes(environment={**vh.variables(), "VAULTHALLA_BIND": address}) as web:
        web.ensure("web")
        assert post(url, body)[0] == 401
        status, said = post(url, body, Authorization=f"Bearer {hook['secret']}")
        assert (status, said["upserted"]) == (200, 1)
        assert post(url, body, Authorization=f"Bearer {hook['secret']}")[1]["duplicate"] == 1
        assert post(f"{url}/{hook['secret']}", "{")[0] == 400
    index = vault.vault("info")["index"]
    assert (index["object_count"], index["feeds"][0]["kind"], index["feeds"][0]["set_aside"]) == (1, "webhook", 1)
    assert vault.vault("webhook")["secret"] is None
