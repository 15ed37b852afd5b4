"""A LIST of a whole vault, or of a prefix, into its index: page by page, each kept as soon as it is merged.

In key order each page covers a range, so rows of the range that it lacks are gone at once; an unordered listing
remembers its keys and sweeps at the end. Either way the index becomes complete, and as old as the scan's start,
only with the last page. An unfinished ordered scan goes on from its last page in the next run that scans.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from shlex import quote
from typing import Any

from budgets.access import ChunkMeter, Draw, budget_stall, open_store
from indexing import merge, state
from indexing.freshness import list_requests, resumable
from indexing.sql import Changes
from vaulthalla.errors import Stall, StallCode, VaulthallaError
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import (
    BucketMissing,
    MeterRefused,
    Ordering,
    Page,
    Store,
    StoreError,
    StoreUnavailable,
)
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.engine import Lease, NewChunk, Phase, Yield, handler, on_run_finished
from vaulthalla.work.models import Chunk, Queue, Run

KIND = "index.list"
# Drawn at once; what is left over goes back.
MOST_PAGES_DRAWN = 50
WAIT_FOR_OTHERS_SECONDS = 1.0


def reconcile_chunks(vault: Vault, *, prefix: str = "") -> list[NewChunk]:
    """What lists a vault's remote side into its index, as the first phase of any run.

    Local vaults are listed from the beginning each time; their chunks need a process that reaches the directories.
    """
    pages = state.estimate(vault) or 0
    pool = vault.pool if vault.kind == VaultKind.LOCAL else ""
    return [NewChunk(KIND, Phase.PREPARE, Queue.INDEX, payload={"prefix": prefix}, pool=pool, items=pages)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a scan is; the chunk's cursor. `after` goes to the store, `swept` is the last key merged."""

    started_at: datetime | None = None
    began_with: int = 0  # the index's revision before the first page was asked for
    after: str = ""
    swept: str = ""
    pages: int = 0
    objects: int = 0
    unusable: int = 0
    changes: Changes = field(default_factory=Changes)

    def as_cursor(self) -> dict[str, Any]:
        changes = {name: getattr(self.changes, name) for name in ("added", "changed", "removed")}
        started_at = self.started_at.isoformat() if self.started_at else None
        # A key may hold what JSON in a database cannot.
        after = self.after.encode("utf-8", "surrogateescape").hex()
        plain = {"began_with": self.began_with, "swept": self.swept, "pages": self.pages}
        return {
            **plain,
            "objects": self.objects,
            "unusable": self.unusable,
            "changes": changes,
            "started_at": started_at,
            "after": after,
        }

    @classmethod
    def of(cls, cursor: Mapping[str, Any]) -> Progress:
        started_at = cursor["started_at"]
        plain = {name: cursor[name] for name in ("began_with", "swept", "pages", "objects", "unusable")}
        return cls(
            **plain,
            started_at=datetime.fromisoformat(started_at) if started_at else None,
            after=bytes.fromhex(cursor["after"]).decode("utf-8", "surrogateescape"),
            changes=Changes(**cursor["changes"]),
        )


@handler(KIND)
def scan(lease: Lease) -> Yield | None:
    """Lists until the end, or until time is up. Raises Stall when the LIST budget is used up: what was merged stays."""
    vault = lease.load_run().vault
    if vault is None:
        raise AssertionError("a listing without a vault")
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="list") as fetcher:
        return _Scan(lease, vault, fetcher).run()


class _Scan:
    """One lease's part of a scan. The next page is on its way while the last one is merged."""

    def __init__(self, lease: Lease, vault: Vault, fetcher: ThreadPoolExecutor) -> None:
        self.lease, self.vault, self.fetcher = lease, vault, fetcher
        self.prefix: str = lease.payload.get("prefix", "")
        self.meter = ChunkMeter(lease)
        self.store: Store = open_store(vault, self.meter)
        self.metered = vault.kind == VaultKind.S3
        self.ordered = self.store.capabilities.ordering is Ordering.BINARY
        self.done = Progress.of(lease.cursor) if lease.cursor else Progress(began_with=merge.revision_of(vault.pk))
        # A later scan of the whole vault may go on where this one stops.
        self.shared = self.metered and self.ordered and not self.prefix

    def run(self) -> Yield | None:
        if self.shared and self._overtaken():
            return None
        page, since = self._asked(self.done.after)
        while page is not None:
            answer = self._answer(page)
            if answer is None:  # refused: draw more and ask again
                page, since = self._asked(self.done.after)
                continue
            following = self._ahead(answer)
            self._keep(answer, since)
            if answer.next_after is None:
                return None
            if self.lease.overdue and following is None:
                return Yield(self.done.as_cursor())
            page, since = following or self._asked(self.done.after)
        return Yield(self.done.as_cursor(), delay=WAIT_FOR_OTHERS_SECONDS)

    def _overtaken(self) -> bool:
        """Goes on where an unfinished scan stopped; true when somebody else has finished this one meanwhile."""
        known = state.state_of(self.vault.pk)
        if self.done.started_at is None:
            max_age = state.max_age_of(self.vault)
            if known.scan_cursor and resumable(known.scan_started_at, max_age=max_age, now=datetime.now(UTC)):
                self._jump(known.scan_cursor, known.scan_started_at)
            return False
        if known.complete and known.snapshot_as_of is not None and known.snapshot_as_of >= self.done.started_at:
            return known.scan_started_at != self.done.started_at
        if known.scan_started_at == self.done.started_at and (known.scan_cursor or "") > self.done.swept:
            self._jump(known.scan_cursor or "", known.scan_started_at)
        return False

    def _jump(self, key: str, started_at: datetime | None) -> None:
        self.done = replace(self.done, after=key, swept=key, started_at=started_at)

    # --- asking ---

    def _asked(self, after: str) -> tuple[Future[Page] | None, int]:
        """A page on its way, and the revision it is newer than; no page when others hold the rest of the budget.

        Raises Stall when nothing is left and nothing is out.
        """
        drawn = self._drawn()
        if drawn is Draw.EXHAUSTED:
            planned = state.estimate(self.vault)
            raise budget_stall(self.lease.run_id, RequestClass.LIST, planned=planned)
        if drawn is Draw.WAIT:
            return None, 0
        return self._send(after)

    def _ahead(self, answer: Page) -> tuple[Future[Page], int] | None:
        """The page after `answer`, unless time is up or the budget is."""
        if answer.next_after is None or self.lease.overdue or self._drawn() is not Draw.DRAWN:
            return None
        return self._send(answer.next_after)

    def _send(self, after: str) -> tuple[Future[Page], int]:
        since = merge.revision_of(self.vault.pk)
        ask = self.fetcher.submit
        return ask(self.store.list_page, after=after, prefix=self.prefix, token=not self.ordered), since

    def _drawn(self) -> Draw:
        if not self.metered or self.meter.available(RequestClass.LIST):
            return Draw.DRAWN
        expected = state.estimate(self.vault)
        left = max(1, (expected or MOST_PAGES_DRAWN) - self.done.pages)
        need = Requests({RequestClass.LIST: min(MOST_PAGES_DRAWN, left)})
        return self.meter.draw(need, at_least=Requests({RequestClass.LIST: 1}))

    def _answer(self, page: Future[Page]) -> Page | None:
        """The page, with the lease kept while waiting; None when the meter refused (another attempt of) it."""
        try:
            return self.lease.outlast(page)
        except MeterRefused as refused:
            if refused.request_class is None:
                raise self.lease.lost() from refused
            return None
        except StoreError as error:
            raise _told(error, self.vault) from error

    # --- keeping ---

    def _keep(self, page: Page, since: int) -> None:
        """One transaction: the page's rows, what it says is gone, the cursor, and with the last page the state."""
        usable = [info.key for info in page.objects if merge.storable(info.key)]
        last = None if page.next_after is None else (usable[-1] if usable else self.done.swept)
        started_at = self.done.started_at or page.observed_at
        with self.lease.commit(items_done=1) as checkpoint:
            changes = self._merge(page, since, last)
            if page.next_after is None:
                changes += self._finish(started_at)
            elif self.shared and last:
                state.scan_advanced(self.vault.pk, started_at=started_at, last=last)
            done = replace(
                self.done,
                started_at=started_at,
                after=page.next_after or "",
                swept=last or "",
                pages=self.done.pages + 1,
                objects=self.done.objects + sum(not key.startswith(merge.OWN_KEYS) for key in usable),
                unusable=self.done.unusable + len(page.objects) - len(usable),
                changes=self.done.changes + changes,
            )
            checkpoint.cursor = done.as_cursor()
            self.meter.settle()
        self.done = done

    def _merge(self, page: Page, since: int, last: str | None) -> Changes:
        return merge.observe_page(
            self.vault.pk,
            page,
            after=self.done.swept,
            last=last,
            since=since,
            prefix=self.prefix,
            touch=bool(self.prefix),
            run_id=None if self.ordered else self.lease.run_id,
        )

    def _finish(self, started_at: datetime) -> Changes:
        """After the last page. A scan of a prefix moves neither age nor completeness."""
        changes = Changes()
        if not self.ordered:
            since = self.done.began_with
            changes = merge.sweep_scan(
                self.vault.pk, self.lease.run_id, started_at=started_at, since=since, prefix=self.prefix
            )
        if not self.prefix:
            state.scan_finished(self.vault.pk, started_at=started_at)
        return changes


@handler("finish.reconcile")
def finish(lease: Lease) -> None:
    """What the scan did, where `history` and the command find it."""
    chunk = Chunk.objects.filter(run_id=lease.run_id, kind=KIND).order_by("-ordinal").first()
    done = Progress.of(chunk.cursor) if chunk is not None and chunk.cursor else Progress()
    result = {
        "objects_indexed": done.objects,
        "added": done.changes.added,
        "changed": done.changes.changed,
        "removed": done.changes.removed,
        "skipped": {"key_not_text": done.unusable} if done.unusable else {},
    }
    with lease.commit():
        run = Run.objects.select_for_update(no_key=True).get(pk=lease.run_id)
        run.result = {**run.result, **result}
        run.save(update_fields=["result"])


@on_run_finished
def forget_unfinished(run: Run) -> None:
    """The keys of an unordered scan that was given up; the next one begins again."""
    merge.forget_scan(run.pk)


def expected_requests(vault: Vault, prefix: str = "") -> int | None:
    """What a scan is expected to cost; for a prefix, by the rows below it."""
    if not prefix:
        return state.estimate(vault)
    return list_requests(merge.count_below(vault.pk, prefix)) if state.state_of(vault.pk).complete else None


def _told(error: StoreError, vault: Vault) -> VaulthallaError:
    """A store that is away is a protective stop; one that refuses us is a failure."""
    away = isinstance(error, StoreUnavailable) or (isinstance(error, BucketMissing) and vault.kind == VaultKind.LOCAL)
    if away:
        again = f"Try again when it answers: vh vault sync {quote(vault.name)}"
        return Stall(StallCode.STORE_UNAVAILABLE, f"The store of {vault.name} does not answer: {error}", remedy=again)
    remedy = f"Check bucket, endpoint and credentials: vh vault info {quote(vault.name)}"
    return VaulthallaError(f"The store of {vault.name} refused to be listed: {error}", code=error.code, remedy=remedy)
