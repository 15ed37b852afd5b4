"""`vh vault sync events --queue`, once or for as long as it is let; and what beat polls."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.db.models.functions import Now

from budgets.access import spent
from indexing import state
from indexing.events.freshen import feed_warnings
from indexing.events.ingest import check
from indexing.events.polling import begin, poll_chunk
from indexing.events.sqs import RECEIVERS, Queue
from indexing.events.take import OUTCOMES, ensured
from indexing.inputs import moment
from indexing.models import EventFeed, FeedKind
from vaulthalla.console import Console, fields, rfc3339
from vaulthalla.errors import DETACHED, Refused
from vaulthalla.vaults.models import ApiKey, Vault
from vaulthalla.vaults.remote import queue_url
from vaulthalla.work.engine import Lease, create_run, drive, run_inline
from vaulthalla.work.models import ACTIVE, TERMINAL, Run, RunKind, RunStatus, Trigger
from vaulthalla.work.runs import failure_of

# An interrupted command ends when the look at the queue does.
FOLLOW_WAIT = 5
POLL_EVERY = timedelta(minutes=1)
MOST_DUE = 500
# A poll that found nothing tells nothing that the feed's own row does not tell.
EMPTY_RUNS_KEPT = timedelta(hours=1)


def command(
    console: Console, vault: Vault, url: str, *, key: ApiKey | None, follow: bool, through: str, no_lifecycle: bool
) -> int:
    """Polls until the queue is empty, or on and on; prints what came of it."""
    check(vault)
    url, key = queue_url(url, option="--queue"), key or _key_of(vault)
    vouched = rfc3339(moment(through, option="--through")) if through else ""
    # Refused before a run begins.
    Queue(url, key).state()
    feed = ensured(vault, FeedKind.QUEUE, url)
    if no_lifecycle:
        EventFeed.objects.filter(pk=feed.pk).update(vouched=True)
    if follow:
        return _follow(console, vault, url, key)
    options = {"queue": url, "through": vouched}
    chunks = [poll_chunk(url, key, through=vouched or "")]
    run = drive(create_run(vault, RunKind.EVENTS, options=options, chunks=chunks).pk)
    if run.status in TERMINAL and run.status != RunStatus.SUCCESS:
        raise failure_of(run)
    for warning in feed_warnings(vault, _as_of(vault)):
        console.message(warning)
    console.result(result_json(vault, run), result_text)
    return 0 if run.status == RunStatus.SUCCESS else DETACHED


def _follow(console: Console, vault: Vault, url: str, key: ApiKey) -> int:
    """Until it is interrupted; what was received is merged, committed and deleted first."""
    with _asked_to_stop() as stop, console.progress("Events") as bar:

        def work(lease: Lease) -> None:
            poll = begin(lease, vault, url, key, wait=FOLLOW_WAIT)

            def show(counts: Counter[str]) -> None:
                bar.update(done=poll.total["records"])
                console.line(_batch_json(vault, lease.run_id, counts), _batch_text(counts))
                sys.stdout.flush()

            poll.show = show
            with ThreadPoolExecutor(RECEIVERS) as pool:
                while not stop.is_set():
                    poll.cycle(pool, stop.is_set)

        run_inline(vault, RunKind.EVENTS, work, options={"queue": url, "follow": True})
    return DETACHED


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C or SIGTERM; a second one ends the process as usual."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: Any) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def poll_due() -> list[int]:
    """A run for each enabled vault whose queue is due; their ids. Two callers at once start each once."""
    vaults = Vault.objects.filter(policy__enabled=True, api_key__isnull=False).exclude(policy__events_queue="")
    started = []
    for vault in vaults.select_related("policy", "api_key")[:MOST_DUE]:
        feed = ensured(vault, FeedKind.QUEUE, vault.policy.events_queue)
        due = EventFeed.objects.filter(Q(next_poll_at__isnull=True) | Q(next_poll_at__lte=Now()), pk=feed.pk)
        at_work = Run.objects.filter(vault=vault, kind=RunKind.EVENTS, trigger=Trigger.SCHEDULE, status__in=ACTIVE)
        if due.update(next_poll_at=Now() + POLL_EVERY) and not at_work.exists():
            started.append(_scheduled(vault, feed.name))
            _forget_empty(vault)
    return started


def _scheduled(vault: Vault, url: str) -> int:
    chunks = [poll_chunk(url, _key_of(vault))]
    return create_run(vault, RunKind.EVENTS, trigger=Trigger.SCHEDULE, options={"queue": url}, chunks=chunks).pk


def _forget_empty(vault: Vault) -> None:
    """Polls that found nothing, an hour later: there is one a minute."""
    empty = Run.objects.filter(
        vault=vault,
        kind=RunKind.EVENTS,
        trigger=Trigger.SCHEDULE,
        status=RunStatus.SUCCESS,
        result__messages=0,
        finished_at__lt=Now() - EMPTY_RUNS_KEPT,
    )
    Run.objects.filter(pk__in=list(empty.values_list("pk", flat=True)[:100])).delete()


def _key_of(vault: Vault) -> ApiKey:
    if vault.api_key is None:
        raise Refused(f"{vault.name} has no API key.", code="s3_only", remedy="Name one: --api-key KEY.")
    return vault.api_key


def _as_of(vault: Vault) -> Any:
    return state.trust_of(state.state_of(vault.pk)).as_of


def result_json(vault: Vault, run: Run) -> dict[str, Any]:
    known = state.state_of(vault.pk)
    names = ("records", *OUTCOMES, "skipped", "messages", "set_aside")
    counts = {name: run.result.get(name, {} if name == "skipped" else 0) for name in names}
    return {
        "run": str(run.pk),
        "vault": vault.name,
        **counts,
        "drained": run.result.get("drained", False),
        "events_through": known.events_through,
        "warnings": feed_warnings(vault, _as_of(vault)),
        "requests": spent(run.pk).as_json(),
    }


def result_text(value: dict[str, Any]) -> str:
    lines = [("Vault", value["vault"]), ("Messages", value["messages"]), ("Records", value["records"])]
    lines += [(name.capitalize(), value[name]) for name in OUTCOMES]
    lines += [(f"Skipped: {reason.replace('_', ' ')}", count) for reason, count in value["skipped"].items()]
    lines += [("Set aside", value["set_aside"]), ("Queue empty", value["drained"])]
    return fields([*lines, ("Events through", value["events_through"])])


def _batch_json(vault: Vault, run_id: int, counts: Counter[str]) -> dict[str, Any]:
    known = ("messages", "records", *OUTCOMES, "set_aside")
    skipped = {name: count for name, count in counts.items() if name not in known}
    return {"run": str(run_id), "vault": vault.name, **{name: counts[name] for name in known}, "skipped": skipped}


def _batch_text(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
