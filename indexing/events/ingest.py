"""`vh vault sync events`: a file is read once to check all of it, then again into the index, batch by batch.

Batches are small, so that nobody waits long for the vault's index. Applied once, twice or out of order, the same
events leave the same index, so a command that was interrupted is simply given again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from budgets.access import spent
from indexing import counts, state
from indexing.events import apply as applying
from indexing.events.envelopes import items
from indexing.events.feed import Told, known_through
from indexing.events.records import Change, change_of, is_event
from indexing.inputs import STDIN, kept_stdin, moment, opened
from indexing.manifest import describe
from indexing.manifest.publish import publish_chunks
from indexing.models import IndexState
from vaulthalla.console import Console, fields, rfc3339
from vaulthalla.errors import Refused
from vaulthalla.remedies import sync_of
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.engine import Lease, run_inline
from vaulthalla.work.models import Run, RunKind

BATCH = 5_000
NO_RECORDS = "no S3 event records found"


@dataclass(kw_only=True)
class Feed:
    """One file of events for one vault."""

    vault: Vault
    path: Path
    name: str
    vouched: datetime | None = None
    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    told: Told = field(default_factory=Told)

    def changes(self) -> Iterator[Change]:
        """Raises Damaged."""
        with opened(self.path, self.name) as file:
            for item, place in items(file, self.name):
                change = change_of(item, self.name, place)
                if is_event(change):
                    yield change

    def mine(self) -> Iterator[Change]:
        """Those that may change this vault's index; the others are counted."""
        for change in self.changes():
            self.counts["records"] += 1
            skip = applying.skip_of(change, self.vault)
            if change.at is not None and (skip is None or skip is change.skip):
                self.told = self.told.also(change.at, lifecycle=change.lifecycle)
            if skip is None:
                yield change
            else:
                self.skipped[skip] += 1


def ingest(vault: Vault, source: str, *, through: str = "", show: Callable[[int, int], None] | None = None) -> Run:
    """Events of a file (`-`: standard input) into the index. Raises Refused, and then nothing was changed."""
    check(vault)
    vouched = moment(through, option="--through") if through else None
    kept = kept_stdin() if source == STDIN else nullcontext(Path(source))
    with kept as path:
        name = "standard input" if source == STDIN else source
        feed = Feed(vault=vault, path=path, name=name, vouched=vouched)
        total = sum(1 for _ in feed.changes())
        if not total:
            raise Refused(
                f"{name}: {NO_RECORDS}.",
                code="no_records",
                remedy="Give S3 event notifications as JSON or JSON Lines: bare, or from SQS, SNS, EventBridge or R2.",
            )
        options = {"file": source, "through": rfc3339(vouched)}
        then = publish_chunks(vault)
        return run_inline(
            vault, RunKind.EVENTS, lambda lease: _work(lease, feed, total, show), options=options, then=then
        )


def check(vault: Vault) -> None:
    """Raises Refused for a vault that no S3 tells about."""
    if vault.kind == VaultKind.LOCAL:
        raise Refused(
            f"{vault.name} is a local vault: events are for S3 and R2; a second directory is read by every sync.",
            code="s3_only",
            remedy=sync_of(vault.name),
        )


def _work(lease: Lease, feed: Feed, total: int, show: Callable[[int, int], None] | None) -> None:
    changes = feed.mine()
    while batch := list(islice(changes, BATCH)):
        lease.keep()
        with lease.commit():
            outcome = applying.apply(feed.vault, batch)
        feed.counts.update(outcome)
        if show:
            show(feed.counts["records"], total)
    with lease.commit():
        _finish(lease.run_id, feed)
    counts.refreshed(feed.vault.pk)


def _finish(run_id: int, feed: Feed) -> None:
    """What came of it, and how far the index is known now."""
    found = IndexState.objects.select_for_update().filter(vault=feed.vault)
    known = state.trust_of(found.first() or IndexState(vault=feed.vault))
    through = known_through(known.as_of, feed.told, vouched=feed.vouched)
    if through is not None:
        found.update(events_through=through)
    outcomes = ("upserted", "deleted", "stale", "duplicate", "doubtful")
    skipped = dict(feed.skipped)
    if old := feed.counts["old_version"]:
        skipped["old_version"] = old
    result = {name: feed.counts[name] for name in ("records", *outcomes)}
    facts = {"events_through": rfc3339(through or known.events_through), "lifecycle_seen": feed.told.lifecycle}
    Run.objects.filter(pk=run_id).update(result={**result, "skipped": skipped, **facts, "moved": through is not None})


def command(console: Console, vault: Vault, source: str, *, through: str) -> int:
    """Runs it, shows how far it is, and prints what came of it."""
    with console.progress("Events") as bar:
        run = ingest(vault, source, through=through, show=lambda done, total: bar.update(done=done, total=total))
    for warning in warnings(vault, run):
        console.message(warning)
    for text in describe.warnings(run):
        console.message(f"Warning: {text}")
    console.result(result_json(vault, run), result_text)
    return 0


def warnings(vault: Vault, run: Run) -> Iterator[str]:
    """What a person should know about a feed that was taken in, but does not make the index younger."""
    known = state.trust_of(state.state_of(vault.pk))
    if known.as_of is None:
        yield f"{vault.name} has no complete index yet, and events alone make none: import an inventory, or reconcile."
    elif not run.result["moved"]:
        yield (
            f"The index stays as old as it is ({rfc3339(known.as_of)}): the events do not follow on from it, or tell"
            " nothing newer. Add --through TIME if nothing is missing up to then."
        )
    if not run.result["lifecycle_seen"]:
        yield "No lifecycle event was among them: are LifecycleExpiration and LifecycleTransition in the notifications?"


def result_json(vault: Vault, run: Run) -> dict[str, Any]:
    names = ("records", "upserted", "deleted", "stale", "duplicate", "doubtful", "skipped", "events_through")
    counts = {name: run.result[name] for name in names}
    requests, told = spent(run.pk).as_json(), describe.warnings(run)
    return {"run": str(run.pk), "vault": vault.name, **counts, "requests": requests, "warnings": told}


def result_text(value: dict[str, Any]) -> str:
    lines = [("Vault", value["vault"]), ("Records", value["records"])]
    lines += [(name.capitalize(), value[name]) for name in ("upserted", "deleted", "stale", "duplicate", "doubtful")]
    lines += [(f"Skipped: {reason.replace('_', ' ')}", count) for reason, count in value["skipped"].items()]
    lines.append(("Events through", value["events_through"]))
    return fields(lines)
