"""A LIST of a whole vault, or of a prefix, into its index: page by page, each kept as soon as it is merged.

In key order each page covers a part of the keys, so rows of that part that it lacks are gone at once; an unordered
listing remembers its keys and sweeps at the end. Either way the index becomes complete, and as old as the scan's
start, only with the last page.

A large bucket is listed in several disjoint ranges at once. They are rows of the vault, not of the run: whoever scans
next goes on with them, so no page that was kept is paid again. One process drives them all, since merges of a vault
follow one another anyhow; its helper threads wait for the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from budgets.access import ChunkMeter, Draw, budget_stall, limits, open_store, remaining
from budgets.meter import Pot
from indexing import counts, findings, merge, sql, state
from indexing.freshness import list_requests, resumable
from indexing.manifest.state import publish_needs, refresh_needs
from indexing.ranges import MOST_RANGES, PAGES_BEFORE_DIVIDING, Range, evenly, raw
from indexing.sql import Changes, Moment
from indexing.store_fault import store_fault
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import (
    MeterRefused,
    Ordering,
    Page,
    Store,
    StoreError,
    UnexpectedResponse,
)
from vaulthalla.stores.direct import ATTEMPTS
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.engine import Lease, NewChunk, Phase, Yield, handler, on_run_finished
from vaulthalla.work.models import Chunk, Queue, Run, RunKind

KIND = "index.list"
REFUSED = "refused to be listed"
# Drawn at once; what is left over goes back.
MOST_PAGES_DRAWN = 50
WAIT_FOR_OTHERS_SECONDS = 1.0
# What finding out how to divide an unknown bucket may cost, and the LIST budget from which on that is little.
DIVIDING_REQUESTS = 3
DIVIDING_BUDGET = 500
ONE_LIST = Requests({RequestClass.LIST: 1})
# A page that one attempt did not bring: what its next try may send, so that a store that is away is found to be.
ANOTHER_TRY = Requests({RequestClass.LIST: ATTEMPTS})


def reconcile_chunks(vault: Vault, *, prefix: str = "", noted: bool = False) -> list[NewChunk]:
    """What lists a vault's remote side into its index, as the first phase of any run.

    `noted`: each difference is kept as a finding of the run.

    Local vaults are listed from the beginning each time; their chunks need a process that reaches the directories.
    """
    pages = state.estimate(vault, limit=vault.policy.limit(RequestClass.LIST)) or 0
    pool = vault.pool if vault.kind == VaultKind.LOCAL else ""
    return [
        NewChunk(KIND, Phase.PREPARE, Queue.INDEX, payload={"prefix": prefix, "noted": noted}, pool=pool, items=pages)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a scan has done; the chunk's cursor. `single` is the one range of a scan that nobody else may go on with."""

    started_at: datetime | None = None
    began_with: int = 0  # the index's revision before the first page was asked for
    single: Range = field(default_factory=Range)
    divided: bool = False  # whether the unknown rest of a bucket was divided, or could not be
    pages: int = 0
    objects: int = 0
    unusable: int = 0
    changes: Changes = field(default_factory=Changes)

    def as_cursor(self) -> dict[str, Any]:
        # A key may hold what JSON in a database cannot.
        after = raw(self.single.after).hex()
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "changes": {name: getattr(self.changes, name) for name in ("added", "changed", "removed")},
            "started_at": self.started_at.isoformat() if self.started_at else None,
            "single": {"reached": self.single.reached, "after": after},
        }

    @classmethod
    def of(cls, cursor: Mapping[str, Any]) -> Progress:
        started_at, single = cursor["started_at"], cursor["single"]
        after = bytes.fromhex(single["after"]).decode("utf-8", "surrogateescape")
        return cls(
            **{name: cursor[name] for name in _PLAIN},
            started_at=datetime.fromisoformat(started_at) if started_at else None,
            single=Range(reached=single["reached"], after=after),
            changes=Changes(**cursor["changes"]),
        )


_PLAIN = ("began_with", "divided", "pages", "objects", "unusable")


@handler(KIND)
def scan(lease: Lease) -> Yield | None:
    """Lists until the end, or until time is up. Raises Stall when the LIST budget is used up: what was merged stays."""
    vault = lease.load_run().vault
    if vault is None:
        raise AssertionError("a listing without a vault")
    with ThreadPoolExecutor(max_workers=MOST_RANGES, thread_name_prefix="list") as fetchers:
        return _Scan(lease, vault, fetchers).run()


@dataclass(frozen=True, slots=True)
class _Flight:
    """A page on its way: the range as it was then, and the revision of the index that the page is newer than."""

    range: Range
    since: int


@dataclass(frozen=True, slots=True)
class _Landed:
    """A page to keep: what of it belongs to the range, and the range before and after it."""

    before: Range
    page: Page
    past: Range
    last: str | None
    since: int


class _Scan:
    """One lease's part of a scan. Each range has its next page on its way while the last ones are merged."""

    def __init__(self, lease: Lease, vault: Vault, fetchers: ThreadPoolExecutor) -> None:
        self.lease, self.vault, self.fetchers = lease, vault, fetchers
        self.prefix: str = lease.payload.get("prefix", "")
        self.noted = lease.run_id if lease.payload.get("noted") else None
        self.meter = ChunkMeter(lease)
        self.store: Store = open_store(vault, self.meter)
        self.metered = vault.kind == VaultKind.S3
        self.ordered = self.store.capabilities.ordering is Ordering.BINARY
        self.done = Progress.of(lease.cursor) if lease.cursor else Progress(began_with=merge.revision_of(vault.pk))
        self.limit = limits(lease.run_id).get(RequestClass.LIST)
        # Ranges that a later scan of the whole vault, or another one now, may go on with.
        self.shared = self.metered and self.ordered and not self.prefix
        self.ranges: list[Range] = [self.done.single]
        self.flying: dict[Future[Page], _Flight] = {}
        self.tokens: set[str] = set()
        self.refused: set[str] = set()  # ranges whose last page needed more attempts than it had leave for

    def run(self) -> Yield | None:
        if self.shared and self._overtaken():
            return None
        while any(not one.done for one in self.ranges):
            self._ask()
            if not self.flying:
                return self._later()
            landed = self._arrived()
            self._ask(ahead=True)
            self._keep(landed)
            self._divide()
        return None

    def _later(self) -> Yield:
        """Time is up, or others hold the rest of the budget."""
        return Yield(self.done.as_cursor(), delay=0 if self.lease.overdue else WAIT_FOR_OTHERS_SECONDS)

    def _overtaken(self) -> bool:
        """Finds the ranges to go on with; true when somebody else has finished this scan meanwhile."""
        known = state.state_of(self.vault.pk)
        if self.done.started_at is None:
            if resumable(known.scan_started_at, max_age=state.max_age_of(self.vault), now=datetime.now(UTC)):
                self._adopt(known.scan_started_at, sql.ranges_of(self.vault.pk))
            else:
                self.ranges = state.key_ranges(self.vault, limit=self._listable())
            return False
        if known.scan_started_at is not None:
            self._adopt(known.scan_started_at, sql.ranges_of(self.vault.pk))
            return False
        if known.complete and known.snapshot_as_of is not None and known.snapshot_as_of >= self.done.started_at:
            return True
        self._adopt(None, [])
        return False

    def _adopt(self, started_at: datetime | None, ranges: Sequence[Range]) -> None:
        """Goes on with the vault's unfinished scan, whoever began it; without one, from the beginning."""
        self.done = replace(self.done, started_at=started_at if ranges else None)
        self.ranges = list(ranges) or [Range()]

    def _listable(self) -> int | None:
        """LIST requests that the run has left; None: any number."""
        return remaining(self.lease.run_id)[RequestClass.LIST]

    # --- asking ---

    def _ask(self, *, ahead: bool = False) -> None:
        """The next page of every range that has none on its way, while time and budget last.

        Unless `ahead` of what is to be kept first, raises Stall when nothing is left, is out, or is on its way.
        """
        idle = [] if self.lease.overdue else self._idle()
        since = merge.revision_of(self.vault.pk) if idle else 0
        for one in idle:
            pot = self._pot(ANOTHER_TRY if one.low in self.refused else ONE_LIST, ahead=ahead)
            if pot is None:
                return
            self.flying[self.fetchers.submit(self._fetch, one.after, pot)] = _Flight(one, since)

    def _idle(self) -> list[Range]:
        """The first page goes alone: its time is that of the whole scan's start."""
        flying = {flight.range.low for flight in self.flying.values()}
        idle = [one for one in self.ranges if not one.done and one.low not in flying]
        return idle if self.done.started_at is not None else idle[: max(0, 1 - len(flying))]

    def _fetch(self, after: str, pot: AbstractContextManager[Any]) -> Page:
        with pot:
            return self.store.list_page(after=after, prefix=self.prefix, token=not self.ordered)

    def _pot(self, wanted: Requests = ONE_LIST, *, ahead: bool) -> AbstractContextManager[Any] | None:
        """Leave to send one LIST, and `wanted` of them where there are as many; None when there is none for now."""
        if not self.metered:
            return nullcontext()
        return self.meter.set_aside(wanted) or self._drawn(wanted, ahead=ahead)

    def _drawn(self, wanted: Requests, *, ahead: bool) -> Pot | None:
        expected = state.estimate(self.vault, limit=self.limit)
        left = max(wanted[RequestClass.LIST], (expected or MOST_PAGES_DRAWN) - self.done.pages)
        need = Requests({RequestClass.LIST: min(MOST_PAGES_DRAWN, left)})
        drawn = self.meter.draw(need, at_least=ONE_LIST)
        if drawn is Draw.EXHAUSTED and not ahead and not self.flying:
            planned = Requests({RequestClass.LIST: expected} if expected else {})
            raise budget_stall(self.lease.run_id, RequestClass.LIST, planned=planned, anew=self._anew(expected))
        return (self.meter.set_aside(wanted) or self.meter.set_aside(ONE_LIST)) if drawn else None

    def _anew(self, expected: int | None) -> Requests:
        """What a run that lists takes from its beginning, of an unknown bucket as much again; a plan comes later."""
        pages = expected if expected and expected > self.done.pages else max(1, 2 * self.done.pages)
        kind, allowed = self.lease.load_run().kind, limits(self.lease.run_id)
        look = refresh_needs(self.vault, allowed) if kind == RunKind.SYNC else Requests()
        told = Requests()
        if kind != RunKind.DRY_RUN:
            told = publish_needs(self.vault, allowed, now=datetime.now(UTC), changes=True)
        return Requests.summed(({RequestClass.LIST: pages}, look, told))

    def _arrived(self) -> list[_Landed]:
        """The pages that have come, at least one, unless a meter refused it: then its range asks again."""
        self.lease.outlast_any(self.flying)
        landed: list[_Landed] = []
        for future in [future for future in self.flying if future.done()]:
            flight = self.flying.pop(future)
            page = self._page(future, flight, landed)
            current = next((one for one in self.ranges if one.low == flight.range.low), None)
            if page is not None and current is not None and current.after == flight.range.after:
                landed.append(self._landed(current, page, flight.since))
        return landed

    def _page(self, future: Future[Page], flight: _Flight, landed: Sequence[_Landed]) -> Page | None:
        """The answer; None when the meter refused (another attempt of) it. What came before an error is kept."""
        try:
            page = future.result()
        except MeterRefused as refused:
            if refused.request_class is None:
                raise self.lease.lost() from refused
            self.refused.add(flight.range.low)
            return None
        except StoreError as error:
            self._keep(landed)
            raise store_fault(error, self.vault, self.lease.load_run(), refused=REFUSED) from error
        self.refused.discard(flight.range.low)
        return page

    def _landed(self, current: Range, page: Page, since: int) -> _Landed:
        own = current.own(page) if self.ordered else self._new_token(page)
        usable = (info.key for info in reversed(own.objects) if merge.storable(info.key))
        last = current.high if own.next_after is None else next(usable, current.reached)
        past = current.past(own, last)
        self.ranges[self.ranges.index(current)] = past
        return _Landed(current, own, past, last, since)

    def _new_token(self, page: Page) -> Page:
        """A token that comes again would go round for ever."""
        if page.next_after is not None:
            if page.next_after in self.tokens:
                self.ranges = [self.done.single]
                endless = UnexpectedResponse("The listing does not end: a token was given twice.")
                raise store_fault(endless, self.vault, self.lease.load_run(), refused=REFUSED)
            self.tokens.add(page.next_after)
        return page

    # --- dividing what nobody knows ---

    def _divide(self) -> None:
        """Cuts the rest of a bucket without an index once it proved large, where its keys have prefixes.

        That costs up to DIVIDING_REQUESTS, so only where the budget is no concern.
        """
        unknown = self.shared and not self.done.divided and self.done.pages >= PAGES_BEFORE_DIVIDING
        open_ = [one for one in self.ranges if not one.done]
        if not unknown or len(open_) != 1 or self.lease.overdue:
            return
        self.done = replace(self.done, divided=True)
        left = self._listable()
        if state.state_of(self.vault.pk).complete or (left is not None and left < DIVIDING_BUDGET):
            return
        cuts = self._cuts(open_[0])
        parts = [part for one in self.ranges for part in one.divided(cuts if one is open_[0] else ())]
        with self.lease.commit() as checkpoint:
            moment = merge.begin(self.vault.pk)
            begun = moment.scan_started_at
            if begun is not None and (begun, list(moment.ranges)) == (self.done.started_at, self.ranges):
                state.scan_begun(self.vault.pk, started_at=begun, ranges=parts)
                self.ranges = parts
            checkpoint.cursor = self.done.as_cursor()
            self.meter.settle()

    def _cuts(self, rest: Range) -> list[str]:
        """Prefixes that divide what is left, as far down as there is only one; none where keys are flat."""
        prefix = ""
        for _ in range(DIVIDING_REQUESTS):
            pot = self._pot(ahead=True)
            if pot is None:
                return []
            found = self._prefixes(prefix, rest.after, pot)
            if len(found) != 1:
                return evenly(["", *found], min(MOST_RANGES, len(found) + 1))
            prefix = found[0]
        return []

    def _prefixes(self, prefix: str, after: str, pot: AbstractContextManager[Any]) -> list[str]:
        def ask() -> Sequence[str]:
            with pot:
                return self.store.list_prefixes(after=after, prefix=prefix)

        try:
            found = self.lease.outlast(self.fetchers.submit(ask))
        except (MeterRefused, StoreError):
            # The listing itself will tell what is wrong.
            return []
        return [one for one in found if merge.storable(one)]

    # --- keeping ---

    def _keep(self, landed: Sequence[_Landed]) -> None:
        """One transaction: the pages' rows, what they say is gone, the ranges, and with the last page the state."""
        if not landed:
            return
        with self.lease.commit(items_done=len(landed)) as checkpoint:
            moment = merge.begin(self.vault.pk)
            kept = self._still_wanted(landed, moment) if self.shared else list(landed)
            started_at = self.done.started_at or landed[0].page.observed_at
            changes = sum((self._merge(one, moment) for one in self._news(kept)), Changes())
            if kept and all(one.done for one in self.ranges):
                changes += self._finish(started_at)
            done = self._counted(kept, changes)
            self.done = replace(done, started_at=started_at) if kept else self.done
            checkpoint.cursor = self.done.as_cursor()
            self.meter.settle()

    def _counted(self, kept: Sequence[_Landed], changes: Changes) -> Progress:
        """Of the objects those that users may have put there: not our own, which are no news."""
        own = (merge.OWN_KEYS,)
        listed = [info.key for one in kept for info in one.page.objects if not info.key.startswith(own)]
        usable = sum(map(merge.storable, listed))
        return replace(
            self.done,
            single=self.done.single if self.shared else self.ranges[0],
            pages=self.done.pages + len(kept),
            objects=self.done.objects + usable,
            unusable=self.done.unusable + len(listed) - usable,
            changes=self.done.changes + changes,
        )

    def _still_wanted(self, landed: Sequence[_Landed], moment: Moment) -> list[_Landed]:
        """Under the lock: what nobody else has merged meanwhile. The ranges in the database are the truth."""
        if self.done.started_at is None and not self._begun_by_others(moment):
            state.scan_begun(self.vault.pk, started_at=landed[0].page.observed_at, ranges=self.ranges)
            return list(landed)
        if moment.scan_started_at != self.done.started_at:
            self._superseded(moment)
            return []
        stored = {one.low: one for one in moment.ranges}
        kept = [one for one in landed if stored.get(one.before.low) == one.before]
        stored.update({one.past.low: one.past for one in kept})
        self.ranges = list(stored.values())
        sql.ranges_moved(self.vault.pk, [one.past for one in kept])
        return kept

    def _begun_by_others(self, moment: Moment) -> bool:
        return resumable(moment.scan_started_at, max_age=state.max_age_of(self.vault), now=datetime.now(UTC))

    def _superseded(self, moment: Moment) -> None:
        """Another scan began first, or has ended this one."""
        if moment.scan_started_at is not None:
            self._adopt(moment.scan_started_at, moment.ranges)
        elif self._overtaken():
            self.ranges = []

    def _news(self, landed: Sequence[_Landed]) -> Sequence[_Landed]:
        """Pages that say anything new: most of a bucket is as it was."""
        if not landed or not self.ordered or self.prefix:
            return landed
        pages = [(one.before.reached or "", one.last, one.page) for one in landed]
        known = merge.as_known(self.vault.pk, pages)
        return [one for one, same in zip(landed, known, strict=True) if not same]

    def _merge(self, one: _Landed, moment: Moment) -> Changes:
        return merge.observe_page(
            self.vault.pk,
            one.page,
            after=one.before.reached or "",
            last=one.last,
            since=one.since,
            prefix=self.prefix,
            touch=bool(self.prefix),
            run_id=None if self.ordered else self.lease.run_id,
            moment=moment,
            noted=self.noted,
        )

    def _finish(self, started_at: datetime) -> Changes:
        """After the last page. A scan of a prefix moves neither age nor completeness."""
        changes = Changes()
        if not self.ordered:
            since = self.done.began_with
            changes = merge.sweep_scan(
                self.vault.pk,
                self.lease.run_id,
                started_at=started_at,
                since=since,
                prefix=self.prefix,
                noted=self.noted,
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
    run = lease.load_run()
    if run.vault_id is not None and done.pages:
        counts.count(run.vault_id)
    with lease.commit():
        findings.forget_others(run)
        run = Run.objects.select_for_update(no_key=True).get(pk=lease.run_id)
        run.result = {**run.result, **result}
        run.save(update_fields=["result"])


@on_run_finished
def forget_unfinished(run: Run) -> None:
    """The keys of an unordered scan that was given up; the next one begins again."""
    merge.forget_scan(run.pk)


def expected_requests(vault: Vault, prefix: str = "", *, limit: int | None = None) -> int | None:
    """What a scan within `limit` is expected to cost; for a prefix, by the rows below it."""
    if not prefix:
        return state.estimate(vault, limit=limit)
    return list_requests(merge.count_below(vault.pk, prefix)) if state.state_of(vault.pk).complete else None
