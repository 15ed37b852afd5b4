"""A queue is emptied into the index: received, merged, committed, and only then deleted.

A process that dies between commit and delete sees its messages again, which changes nothing. The index gets as
young as the beginning of a poll that found the queue empty, when `events.feed` says that nothing is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from time import monotonic
from typing import Any

from django.db.models.functions import Now

from indexing.events.freshen import freshen, note_drained
from indexing.events.sqs import RECEIVERS, Queue, QueueState
from indexing.events.take import OUTCOMES, UNMERGEABLE, Message, Sorted, ensured, record, sort, unmergeable
from indexing.models import EventFeed, FeedKind
from vaulthalla.errors import VaulthallaError
from vaulthalla.vaults.models import ApiKey, Vault
from vaulthalla.work.engine import Lease, NewChunk, Phase, Yield, handler
from vaulthalla.work.models import Queue as WorkQueue
from vaulthalla.work.models import Run

CHUNK = "events.poll"
# One transaction takes this many messages: one a transaction would be limited by the disk.
MOST_MESSAGES = 2_000
# Messages come back when they are held longer than the queue's visibility time-out.
LONGEST_GATHER = timedelta(seconds=5)


@dataclass(kw_only=True)
class Poll:
    """One vault's work on one queue, under a lease."""

    lease: Lease
    vault: Vault
    queue: Queue
    feed: EventFeed
    vouched: datetime | None = None
    wait: int = 1
    show: Callable[[Counter[str]], None] | None = None
    total: Counter[str] = field(default_factory=Counter)

    def cycle(self, pool: ThreadPoolExecutor, stop: Callable[[], bool]) -> bool:
        """Until the queue is empty; False when `stop` said so earlier."""
        begun = self._ask(pool)
        while not stop():
            messages = self._gather(pool, begun)
            if not messages:
                self._drained(pool, begun)
                return True
            self._take(messages, begun, pool)
        return False

    def _ask(self, pool: ThreadPoolExecutor) -> QueueState:
        state = self.lease.outlast(pool.submit(self.queue.state))
        with self.lease.commit():
            found = EventFeed.objects.filter(pk=self.feed.pk)
            found.update(last_poll_at=state.at, waiting=state.waiting + state.in_flight, error="")
        return state

    def _gather(self, pool: ThreadPoolExecutor, begun: QueueState) -> list[Message]:
        """Messages for one transaction: one look that waits, then many at once for as long as they find some."""
        until = monotonic() + min(LONGEST_GATHER, begun.visibility / 3).total_seconds()
        messages = self.lease.outlast(pool.submit(self.queue.receive, wait=self.wait))
        found = messages
        while found and len(messages) < MOST_MESSAGES and monotonic() < until:
            asked = [pool.submit(self.queue.receive, wait=0) for _ in range(RECEIVERS)]
            answers: list[list[Message]] = [self.lease.outlast(one) for one in asked]
            found = list(chain.from_iterable(answers))
            messages += found
        return messages

    def _take(self, messages: list[Message], begun: QueueState, pool: ThreadPoolExecutor) -> None:
        try:
            counts = self._merge(sort(self.vault, messages), begun)
        except UNMERGEABLE:
            # One of them holds what no index can: each by itself, so that it is nobody's obstacle.
            counts = sum((self._merge_one(message, begun) for message in messages), Counter())
        # Only now: what was not committed stays in the queue.
        self.lease.outlast(pool.submit(self._delete, messages))
        self._told(counts)

    def _merge(self, found: Sorted, begun: QueueState) -> Counter[str]:
        with self.lease.commit():
            counts = record(self.vault, self.feed, found, at=begun.at)
            _add(self.lease.run_id, counts, found.skipped)
        return counts + found.skipped

    def _merge_one(self, message: Message, begun: QueueState) -> Counter[str]:
        try:
            return self._merge(sort(self.vault, [message]), begun)
        except UNMERGEABLE as error:
            return self._merge(unmergeable(message, error), begun)

    def _delete(self, messages: list[Message]) -> None:
        # A pool of its own, since this runs in the other one.
        with ThreadPoolExecutor(RECEIVERS) as deleters:
            self.queue.delete(messages, deleters)

    def _drained(self, pool: ThreadPoolExecutor, begun: QueueState) -> None:
        now = self.lease.outlast(pool.submit(self.queue.state))
        with self.lease.commit():
            # What others hold, or is delayed, has not been read.
            if not now.in_flight:
                note_drained(self.feed.pk, started=begun.at, retention=begun.retention)
            moved = freshen(self.vault, self.feed.pk, vouched=self.vouched)
            EventFeed.objects.filter(pk=self.feed.pk).update(waiting=now.waiting + now.in_flight)
            _add(self.lease.run_id, Counter(), Counter(), drained=not now.in_flight, moved=moved is not None)

    def _told(self, counts: Counter[str]) -> None:
        self.total.update(counts)
        if self.show:
            self.show(counts)


def begin(lease: Lease, vault: Vault, url: str, key: ApiKey, **options: Any) -> Poll:
    feed = ensured(vault, FeedKind.QUEUE, url)
    return Poll(lease=lease, vault=vault, queue=Queue(url, key), feed=feed, **options)


def poll_chunk(url: str, key: ApiKey, *, through: str = "") -> NewChunk:
    """The work of one poll, for any process on `index` workers."""
    payload = {"queue": url, "api_key": key.pk, "through": through}
    return NewChunk(CHUNK, Phase.PREPARE, WorkQueue.INDEX, payload=payload)


@handler(CHUNK)
def poll(lease: Lease) -> Yield | None:
    """Empties a queue, in as many chunks' times as it takes."""
    vault = lease.load_run().vault
    if vault is None:
        raise AssertionError("a poll without a vault")
    url = lease.payload["queue"]
    key = ApiKey.objects.get(pk=lease.payload["api_key"])
    text = lease.payload.get("through")
    vouched = datetime.fromisoformat(text) if text else None
    work = begin(lease, vault, url, key, vouched=vouched)
    try:
        with ThreadPoolExecutor(RECEIVERS) as pool:
            return None if work.cycle(pool, lambda: lease.overdue) else Yield(lease.cursor)
    except VaulthallaError as error:
        EventFeed.objects.filter(pk=work.feed.pk).update(error=error.message, last_poll_at=Now())
        raise


def _add(run_id: int, counts: Counter[str], skipped: Counter[str], **facts: bool) -> None:
    """Adds to the run's numbers, in the commit that made them true."""
    run = Run.objects.select_for_update(no_key=True).only("result").get(pk=run_id)
    before = run.result
    skips = Counter(before.get("skipped", {}))
    skips.update(skipped)
    if old := counts["old_version"]:
        skips["old_version"] += old
    names = ("messages", "records", *OUTCOMES, "set_aside")
    numbers = {name: before.get(name, 0) + counts[name] for name in names}
    flags = {"drained": False, "moved": before.get("moved", False), **facts}
    Run.objects.filter(pk=run_id).update(result={**numbers, "skipped": dict(skips), **flags})
