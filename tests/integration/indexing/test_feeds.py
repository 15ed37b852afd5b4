"""Queue and webhook: committed before deleted, in any order, twice, across feeds, and never held up by one message."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client, RequestFactory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexing import merge
from indexing.events import hooks, polling, queue, sqs, take, webhook
from indexing.models import EventFeed, FeedKind, IndexState, RemoteObject, SetAside
from tests.unit.indexing.test_sns import TOPIC, certificate, signed
from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import create_run, drive
from vaulthalla.work.models import Run, RunKind, RunStatus

START = datetime(2026, 11, 20, 10, tzinfo=UTC)
URL = "http://127.0.0.1:4566/000000000000/events"


def event(name: str, key: str, second: int, *, bucket: str = "bucket", etag: str = "x") -> str:
    at = (START + timedelta(seconds=second)).isoformat()
    facts = {} if "Created" not in name else {"eTag": etag, "size": 5}
    s3 = {"bucket": {"name": bucket}, "object": {"key": key, "sequencer": f"{second:04X}", **facts}}
    return json.dumps({"Records": [{"eventName": name, "eventTime": at, "s3": s3}]})


CREATED, REMOVED, EXPIRED = "ObjectCreated:Put", "ObjectRemoved:Delete", "s3:LifecycleExpiration:Delete"


class FakeQueue:
    """At-least-once: what was received and not deleted comes again with `redeliver`."""

    waiting: list[take.Message] = []
    held: dict[str, take.Message] = {}
    others = 0
    at = START + timedelta(minutes=10)
    broken_at = ""

    def __init__(self, url: str, key: Any) -> None:
        self.url = url

    def state(self) -> sqs.QueueState:
        kept = timedelta(days=4)
        return sqs.QueueState(
            at=self.at, retention=kept, visibility=timedelta(seconds=30), waiting=len(self.waiting),
            in_flight=len(self.held) + self.others,
        )  # fmt: skip

    def receive(self, *, wait: int = 1) -> list[take.Message]:
        if self.broken_at == "receive":
            raise sqs._unavailable(self.url, "reset")
        found = [self.waiting.pop(0) for _ in self.waiting[:10]]
        self.held.update({one.receipt: one for one in found})
        return found

    def delete(self, messages: list[take.Message], pool: ThreadPoolExecutor) -> int:
        # What is deleted must have been committed: another connection than the poll's sees it.
        try:
            assert Run.objects.filter(result__messages__gte=1).exists()
        finally:
            connection.close()
        if self.broken_at == "delete":
            raise sqs._unavailable(self.url, "reset")
        for one in messages:
            del self.held[one.receipt]
        return 0

    @classmethod
    def send(cls, *bodies: str | bytes) -> None:
        for body in bodies:
            raw = body.encode() if isinstance(body, str) else body
            name = str(len(cls.waiting) + len(cls.held))
            cls.waiting.append(take.Message(body=raw, id=name, receipt=name))

    @classmethod
    def redeliver(cls) -> None:
        cls.waiting.extend(cls.held.values())
        cls.held.clear()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeQueue]]:
    monkeypatch.setattr(polling, "Queue", FakeQueue)
    monkeypatch.setattr(queue, "Queue", FakeQueue)
    for name, value in {"waiting": [], "held": {}, "others": 0, "broken_at": ""}.items():
        monkeypatch.setattr(FakeQueue, name, value)
    return FakeQueue


def poll(vault: Vault, **options: Any) -> Run:
    assert vault.api_key is not None
    chunks = [polling.poll_chunk(URL, vault.api_key, **options)]
    return drive(create_run(vault, RunKind.EVENTS, options={}, chunks=chunks).pk)


def known(vault: Vault, *, minutes: int) -> None:
    """A complete index of that time."""
    at = START + timedelta(minutes=minutes)
    IndexState.objects.update_or_create(vault=vault, defaults={"complete": True, "snapshot_as_of": at})


def live(vault: Vault) -> set[str]:
    return set(RemoteObject.objects.filter(vault=vault, tombstone=False).values_list("key", flat=True))


def feed_of(vault: Vault) -> EventFeed:
    return EventFeed.objects.get(vault=vault, kind=FeedKind.QUEUE, name=URL)


@pytest.fixture
def vault(transactional_db: None) -> Vault:
    from tests.integration.indexing.conftest import vault as made

    return made.__wrapped__(None)  # type: ignore[attr-defined,no-any-return]


def test_a_queue_is_emptied(vault: Vault, fake: type[FakeQueue]) -> None:
    known(vault, minutes=0)
    told = {"Event": "s3:TestEvent", "Time": START.isoformat(), "Bucket": "bucket"}
    fake.send(
        json.dumps(told),
        *(event(CREATED, f"k{n}", n + 1) for n in range(95)),
        event(REMOVED, "k1", 200),
        event(EXPIRED, "k2", 200),
    )
    fake.send(event(CREATED, "other", 1, bucket="elsewhere"), "{", '{"a": 1}', "\0\ud7ff", b"\xff\xfe")
    fake.send(*[event(CREATED, "again", 5)] * 2)
    run = poll(vault)
    assert (run.status, run.error_message) == (RunStatus.SUCCESS, "")
    assert {name: run.result[name] for name in run.result if name != "cost"} == {
        "messages": 105, "records": 101, "upserted": 96, "deleted": 2, "stale": 0, "duplicate": 1, "doubtful": 0,
        "set_aside": 4, "skipped": {"other_bucket": 1, "test_event": 1}, "drained": True, "moved": True,
    }  # fmt: skip
    assert (fake.waiting, fake.held) == ([], {})
    assert live(vault) == {f"k{n}" for n in range(95)} - {"k1", "k2"} | {"again"}
    assert {row.reason for row in SetAside.objects.filter(vault=vault)} == {"not_json", "no_s3_event"}
    # From the beginning of the poll, less what an event may take to arrive.
    assert IndexState.objects.get(vault=vault).events_through == START + timedelta(minutes=5)
    again = poll(vault)
    assert (again.result["messages"], again.result["drained"]) == (0, True)


def test_a_death_between_commit_and_delete_changes_nothing(vault: Vault, fake: type[FakeQueue]) -> None:
    fake.send(event(CREATED, "a", 1), event(REMOVED, "a", 2), event(CREATED, "b", 3), "poison")
    fake.broken_at = "delete"
    assert poll(vault).status == RunStatus.FAILED
    assert "does not answer" in feed_of(vault).error
    assert (live(vault), len(fake.held)) == ({"b"}, 4)
    before = list(RemoteObject.objects.filter(vault=vault).order_by("key").values())
    fake.broken_at = ""
    fake.redeliver()
    again = poll(vault)
    assert {name: again.result[name] for name in ("upserted", "deleted", "stale", "duplicate")} == {
        "upserted": 0, "deleted": 0, "stale": 1, "duplicate": 2,
    }  # fmt: skip
    assert list(RemoteObject.objects.filter(vault=vault).order_by("key").values()) == before
    assert SetAside.objects.filter(vault=vault).count() == 1
    assert (feed_of(vault).error, fake.held) == ("", {})


@pytest.mark.parametrize(
    ("minutes", "sent", "others", "reached"),
    [
        (3, EXPIRED, 0, 5),  # since before the snapshot, with lifecycle events
        (3, REMOVED, 0, None),  # none of them
        (3, EXPIRED, 2, None),  # somebody else holds messages
        (1, EXPIRED, 0, None),  # the first event is later than the snapshot
    ],
)
def test_age(vault: Vault, fake: type[FakeQueue], *, minutes: int, sent: str, others: int, reached: int | None) -> None:
    known(vault, minutes=minutes)
    fake.others = others
    fake.send(event(sent, "a", 150), event(CREATED, "b", 160))
    poll(vault)
    through = IndexState.objects.get(vault=vault).events_through
    assert through == (None if reached is None else START + timedelta(minutes=reached))
    poll(vault, through=(START + timedelta(minutes=4)).isoformat())
    through = IndexState.objects.get(vault=vault).events_through
    contiguous = sent == EXPIRED and not others
    assert through == START + timedelta(minutes=5 if contiguous else 4)


def test_a_test_event_tells_since_when_notifications_are_on(vault: Vault, fake: type[FakeQueue]) -> None:
    known(vault, minutes=2)
    told = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": START.isoformat(), "Bucket": "bucket"}
    fake.send(json.dumps(told), event(EXPIRED, "a", 290))
    poll(vault)
    assert IndexState.objects.get(vault=vault).events_through == START + timedelta(minutes=5)


def test_values_that_no_index_holds_are_nobodys_obstacle(vault: Vault, fake: type[FakeQueue], secret: str) -> None:
    good = event(CREATED, "good", 1)
    bad = [
        event(CREATED, "a", 1).replace('"size": 5', f'"size": {10**30}'),
        event(CREATED, "b", 1).replace('"eTag": "x"', '"eTag": "\\u0000"'),
        event(CREATED, "c", 1).encode().replace(b'"x"', b'"\xff"'),
        event(CREATED, "d", 1).replace("2026-11", "99999-11"),
        json.dumps({"detail-type": "Object Created", "source": "aws.s3", "detail": "?"})
        .encode()
        .replace(b"?", b"\xff"),
    ]
    fake.send(*bad, good)
    run = poll(vault)
    assert (run.status, run.result["set_aside"], run.result["upserted"]) == (RunStatus.SUCCESS, len(bad), 1)
    assert (live(vault), fake.held, feed_of(vault).gap) == ({"good"}, {}, True)
    for body in bad:
        assert post(vault, body, Authorization=f"Bearer {secret}").status_code == 400


def test_an_unreadable_event_is_a_gap(vault: Vault, fake: type[FakeQueue]) -> None:
    known(vault, minutes=3)
    fake.send(event(EXPIRED, "a", 1), event(CREATED, "b", 2).replace("2026-11", "never"))
    poll(vault)
    assert (feed_of(vault).gap, IndexState.objects.get(vault=vault).events_through) == (True, None)
    # A newer snapshot closes it.
    known(vault, minutes=11)
    fake_at = START + timedelta(minutes=30)
    FakeQueue.at, before = fake_at, FakeQueue.at
    try:
        poll(vault)
    finally:
        FakeQueue.at = before
    assert IndexState.objects.get(vault=vault).events_through == fake_at - timedelta(minutes=5)


def test_what_beat_starts(vault: Vault, fake: type[FakeQueue]) -> None:
    assert queue.poll_due() == []
    type(vault.policy).objects.filter(vault=vault).update(events_queue=URL)
    fake.send(event(CREATED, "a", 1))
    started = queue.poll_due()
    assert len(started) == 1
    assert queue.poll_due() == []  # not due again
    assert drive(started[0]).status == RunStatus.SUCCESS
    assert live(vault) == {"a"}
    EventFeed.objects.update(next_poll_at=START)
    (empty,) = queue.poll_due()
    assert drive(empty).result["messages"] == 0
    # A poll that found nothing is forgotten; one that found something is history.
    Run.objects.update(finished_at=START)
    EventFeed.objects.update(next_poll_at=START)
    (last,) = queue.poll_due()
    assert set(Run.objects.values_list("pk", flat=True)) == {started[0], last}
    type(vault.policy).objects.filter(vault=vault).update(enabled=False)
    EventFeed.objects.update(next_poll_at=START)
    assert queue.poll_due() == []


# --- webhook ---


@pytest.fixture
def secret(vault: Vault) -> str:
    return str(hooks.change(vault, on=True, rotate=False, off=False, topic=None)["secret"])


def post(vault: Vault, body: str | bytes, *, path: str = "", kind: str = "application/json", **headers: str) -> Any:
    client = Client(enforce_csrf_checks=True)
    return client.post(f"/events/{vault.pk}{path}", data=body, content_type=kind, headers=headers)


def test_each_sender_proves_itself_its_own_way(vault: Vault, secret: str) -> None:
    basic = base64.b64encode(f"any:{secret}".encode()).decode()
    body = event(CREATED, "a", 1)
    for headers in (
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": f"Basic {basic}"},
        {"Authorization": secret},
        {"X-Vaulthalla-Token": secret},
    ):
        assert post(vault, body, **headers).status_code == 200
    assert post(vault, body, path=f"/{secret}", kind="text/plain; charset=UTF-8").json()["duplicate"] == 1
    assert live(vault) == {"a"}


def test_a_stranger_learns_nothing(vault: Vault, secret: str) -> None:
    body = event(CREATED, "a", 1)
    refused = [
        post(vault, body),
        post(vault, body, Authorization="Bearer wrong"),
        post(vault, body, Authorization="Basic %%%"),
        post(vault, body, path="/wrong"),
        post(vault, "x" * 5_000_000),
        Client().post(f"/events/{vault.pk + 1}", data=body, content_type="application/json"),
        Client().post(f"/events/{2**70}", data=body, content_type="application/json"),
    ]
    assert {answer.status_code for answer in refused} == {401}
    assert len({answer.content for answer in refused}) == 1
    assert live(vault) == set()
    assert not SetAside.objects.exists()


def test_rotated_and_off(vault: Vault, secret: str) -> None:
    new = hooks.change(vault, on=False, rotate=True, off=False, topic=None)["secret"]
    assert post(vault, event(CREATED, "a", 1), Authorization=f"Bearer {secret}").status_code == 401
    assert post(vault, event(CREATED, "a", 1), Authorization=f"Bearer {new}").status_code == 200
    assert hooks.change(vault, on=False, rotate=False, off=False, topic=None)["secret"] is None
    hooks.change(vault, on=False, rotate=False, off=True, topic=None)
    assert post(vault, event(CREATED, "a", 1), Authorization=f"Bearer {new}").status_code == 401


@pytest.mark.parametrize(
    ("body", "kind", "headers", "status"),
    [
        (b"x" * (4 * 2**20 + 1), "application/json", {}, 413),
        (b"{}", "application/xml", {}, 415),
        (b"{}", "application/json", {"Content-Encoding": "gzip"}, 415),
        (b"{", "application/json", {}, 400),
        (b"{}", "application/json", {}, 400),
        (b"", "application/json", {}, 411),
        (b" ", "application/json", {}, 400),
        (b"[" * 100_000, "application/json", {}, 400),
        (b"\xff\xfe\x00", "text/plain", {}, 400),
    ],
)
def test_bodies_that_are_none(
    vault: Vault, secret: str, *, body: bytes, kind: str, headers: dict[str, str], status: int
) -> None:
    answer = post(vault, body, kind=kind, Authorization=f"Bearer {secret}", **headers)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert SetAside.objects.filter(vault=vault).count() == (status == 400)
    assert live(vault) == set()


def test_only_post(vault: Vault, secret: str) -> None:
    answer = Client().get(f"/events/{vault.pk}/{secret}")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_sns(vault: Vault, secret: str) -> None:
    confirmed: list[str] = []
    url = "https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription"

    def send(body: bytes) -> int:
        request = RequestFactory().post("/", data=body, content_type="text/plain")
        answer = webhook.receive(
            request, vault.pk, secret, certificate=lambda _: certificate(until=datetime(2100, 1, 1, tzinfo=UTC)),
            confirm=confirmed.append,
        )  # fmt: skip
        return answer.status_code

    subscription = signed(Type="SubscriptionConfirmation", Token="t", SubscribeURL=url)
    assert (send(subscription), confirmed) == (403, [])  # no topic is expected
    hooks.change(vault, on=False, rotate=False, off=False, topic=TOPIC)
    assert (send(subscription), confirmed) == (200, [url])
    other = signed(Type="SubscriptionConfirmation", Token="t", SubscribeURL=url, TopicArn=TOPIC + "x")
    elsewhere = signed(Type="SubscriptionConfirmation", Token="t", SubscribeURL="https://169.254.169.254/")
    forged = subscription.replace(b'"Token": "t"', b'"Token": "u"')
    assert [send(body) for body in (other, elsewhere, forged)] == [403, 403, 403]
    assert confirmed == [url]
    assert send(signed(Message=event(CREATED, "a", 1))) == 200
    assert send(signed(Message=event(CREATED, "b", 1)).replace(b"Put", b"Pux")) == 403
    assert live(vault) == {"a"}
    assert send(signed(Type="UnsubscribeConfirmation", Token="t", SubscribeURL=url)) == 200
    assert confirmed == [url]


# --- order ---


steps = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from([CREATED, REMOVED, EXPIRED]), st.integers(1, 40)),
    min_size=1,
    max_size=8,
    unique_by=lambda step: (step[0], step[2]),
)
deliveries = steps.flatmap(
    lambda found: st.tuples(
        st.just(found),
        st.permutations([*found, *found]).flatmap(
            lambda order: st.tuples(st.just(order), st.lists(st.booleans(), min_size=len(order), max_size=len(order)))
        ),
    )
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deliveries)
def test_any_order_twice_and_split_across_feeds_is_one_index(vault: Vault, given_: Any) -> None:
    found, (order, split) = given_

    def deliver(sent: Any, feeds: list[bool]) -> dict[str, tuple[Any, ...]]:
        with transaction.atomic():
            merge.reset(vault.pk)
            EventFeed.objects.filter(vault=vault).delete()
            for (key, name, second), over_http in zip(sent, feeds, strict=True):
                body = event(name, key, 5 * second, etag=f"e{second}").encode()
                kind = FeedKind.WEBHOOK if over_http else FeedKind.QUEUE
                feed = take.ensured(vault, kind)
                take.record(vault, feed, take.sort(vault, [take.Message(body=body)]), at=START)
            rows = RemoteObject.objects.filter(vault=vault).order_by("key")
            names = ("key", "etag", "size", "sequencer", "tombstone", "doubtful", "observed_at", "rival_at", "source")
            return {row[0]: row for row in rows.values_list(*names)}

    in_order = sorted(found, key=lambda step: step[2])
    assert deliver(order, split) == deliver(in_order, [False] * len(in_order))
