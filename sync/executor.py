"""Executes the operations of one chunk: several at once on helper threads, recorded by the main thread.

The main thread alone touches the database. It draws allotments before it hands out work, and writes
outcomes, new base rows, index rows and settled budgets in one transaction under the lease.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from time import monotonic

import msgspec

from budgets.access import ChunkMeter, Draw, budget_stall, capabilities, limits, open_store
from budgets.meter import Pot
from indexing.manifest.state import kept_back
from indexing.merge import revision_of
from sync import sql
from sync.costs import RANGES_FROM, cost
from sync.decide import DELETES, Action
from sync.models import OperationStatus
from sync.options import SyncOptions
from sync.perform import Operation, Outcome, Workshop
from sync.planner import size_of
from sync.record import Ledger
from sync.root import open_root
from sync.rows import from_json, policy_key, rules_of
from sync.transfers import Transfers
from vaulthalla.errors import Stall, StallCode
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.models import VaultKind
from vaulthalla.work.again import again
from vaulthalla.work.engine import Lease, LeaseLost, Yield, handler, record_stall
from vaulthalla.work.models import Run

# Requests wait for the network most of the time; more threads than this only fight for the interpreter.
THREADS = 16
# What may be in flight beyond what is running, so that no thread waits for the main thread.
QUEUED = 2 * THREADS
# Renames handed to a thread together.
AT_ONCE = 16
COMMIT_SECONDS = 1.0
COMMIT_OUTCOMES = 400
# A store that fails this often in a row is away, whatever each single failure says.
MOST_UNAVAILABLE = 4
# How long a chunk waits for allotments that other chunks still hold.
WAIT_SECONDS = 1.0

TRANSFERS = tuple(a.value for a in Action if a not in DELETES)
DELETIONS = tuple(a.value for a in DELETES)


@handler("sync.transfer")
def transfer(lease: Lease) -> Yield | None:
    """Uploads, downloads, copies and second looks."""
    return Executor(lease, TRANSFERS).run()


@handler("sync.delete")
def delete(lease: Lease) -> Yield | None:
    """Deletes, unless a transfer of this run did not come to its end: what was lost may be its only copy."""
    if not sql.has_unfinished_transfers(lease.run_id, DELETIONS):
        return Executor(lease, DELETIONS).run()
    first, last = lease.payload["first"], lease.payload["last"]
    with lease.commit() as checkpoint:
        checkpoint.items_done = sql.execute(sql.SKIP_DELETES, (lease.run_id, first, last, list(DELETIONS)))
    return None


class Executor:
    """One lease's work on its operations."""

    def __init__(self, lease: Lease, actions: Sequence[str]) -> None:
        self.lease = lease
        self.run_row: Run = lease.load_run()
        vault = self.run_row.vault
        if vault is None:
            raise AssertionError("operations without a vault")
        self.vault = vault
        self.able = capabilities(vault)
        self.known = revision_of(vault.pk)
        self.metered = vault.kind == VaultKind.S3
        self.meter = ChunkMeter(lease)
        if not SyncOptions.of(self.run_row).offline:
            self.meter.keeps_back = kept_back(vault, limits(lease.run_id))
        self.stop = threading.Event()
        loaded = self._load(actions)
        self.todo = deque(op for op in loaded if op.status != OperationStatus.STAGED)
        self.staged = deque(op for op in loaded if op.status == OperationStatus.STAGED)
        self.in_flight: set[Future[list[Outcome]]] = set()
        self.outcomes: list[Outcome] = []
        self.transfers = Transfers.load(vault.pk, [op.path for op in loaded])
        self.last_commit = monotonic()
        self.unavailable = 0
        self.succeeded = False
        self.waiting = False

    def run(self) -> Yield | None:
        """All operations, or as many as time and budget allow."""
        if not self.todo and not self.staged:
            return None
        policy = SyncOptions.of(self.run_row).supposed(self.vault.policy)
        with open_root(self.vault.root, self.vault.marker, vault=self.vault.name) as tree:
            self.workshop = Workshop(
                vault=self.vault,
                tree=tree,
                store=open_store(self.vault, self.meter),
                rules=rules_of(policy, self.run_row),
                policy=policy_key(policy),
                trash=str(self.lease.run_id),
                stop=self.stop,
                may_delete=self.lease.kind == "sync.delete",
                transfers=self.transfers,
                meter=self.meter,
            )
            with ThreadPoolExecutor(THREADS) as pool:
                try:
                    self._loop(pool)
                except LeaseLost:
                    raise
                except BaseException:
                    # Cancelled, interrupted or stalled: what is under way is finished and recorded first.
                    self._drain()
                    raise
                finally:
                    self.stop.set()
        if self.todo or self.staged:
            return Yield(None, delay=WAIT_SECONDS if self.waiting else 0)
        return None

    # --- the loop

    def _loop(self, pool: ThreadPoolExecutor) -> None:
        while self.in_flight or ((self.todo or self.staged) and not self._must_stop()):
            self._hand_out(pool)
            self._collect()
            if self._is_time_to_commit():
                self._commit()
            if self.waiting and not self.in_flight:
                break
            self.lease.keep()
        self._commit()
        # Bodies that were staged in the last commit are renamed into place before the lease ends.
        if self.staged:
            self._publish_rest(pool)

    def _drain(self) -> None:
        self.stop.set()
        while self.in_flight:
            self._collect()
        self._commit()

    def _must_stop(self) -> bool:
        if self.lease.overdue:
            self.stop.set()
        return self.lease.overdue

    def _hand_out(self, pool: ThreadPoolExecutor) -> None:
        self.waiting = False
        self._hand_out_staged(pool)
        for _ in range(len(self.todo)):
            if len(self.in_flight) >= QUEUED or self._must_stop():
                return
            operation = self.todo.popleft()
            match self._afford(operation):
                case Draw.DRAWN:
                    self._submit(pool, operation)
                case Draw.WAIT:
                    self.todo.append(operation)
                    self.waiting = True
                    return
                case Draw.EXHAUSTED:
                    self._park(operation)

    def _hand_out_staged(self, pool: ThreadPoolExecutor) -> None:
        """Bodies to be put into place: so quick that several at once are handed to a thread."""
        while self.staged:
            several = [self.staged.popleft() for _ in range(min(AT_ONCE, len(self.staged)))]
            self._submit(pool, *several)

    def _submit(self, pool: ThreadPoolExecutor, *operations: Operation) -> None:
        work = [(operation, operation.pot) for operation in operations]
        for operation in operations:
            operation.pot = None
        self.in_flight.add(pool.submit(self._perform, work))

    def _perform(self, work: Sequence[tuple[Operation, Pot | None]]) -> list[Outcome]:
        """On a helper thread; what an operation set aside is spent first, and what is left of it goes back."""
        outcomes = []
        for operation, pot in work:
            with pot or nullcontext():
                outcomes.append(self.workshop.perform(operation))
        return outcomes

    def _collect(self) -> None:
        if not self.in_flight:
            return
        done, _ = wait(self.in_flight, timeout=0.25, return_when=FIRST_COMPLETED)
        for future in done:
            self.in_flight.remove(future)
            for outcome in future.result():
                self._take(outcome)

    def _take(self, outcome: Outcome) -> None:
        operation = outcome.operation
        self.outcomes.append(outcome)
        if outcome.unavailable:
            self._count_unavailable(outcome)
        elif outcome.status in (OperationStatus.DONE, OperationStatus.STAGED):
            self.succeeded, self.unavailable = True, 0
        if outcome.status == OperationStatus.PARKED:
            record_stall(self.lease.run_id, self._full())
        if outcome.status == OperationStatus.PENDING:
            self._retry(operation, outcome.refused)

    def _full(self) -> Stall:
        return Stall(
            StallCode.DISK_SPACE,
            f"A disk of vault {self.vault.name} is full; nothing was half-written.",
            remedy=f"{again(self.lease.load_run())}  # after freeing space",
        )

    def _retry(self, operation: Operation, refused: RequestClass | None) -> None:
        """A refused attempt costs one more of that class than was planned; a paused body goes on with its parts."""
        main = (RequestClass.PUT, RequestClass.GET) if self._goes_in_parts(operation) else ()
        # Without a cost, what was learnt made it another operation: it is priced anew.
        if operation.cost and refused is not None and refused not in main:
            body = refused is RequestClass.DOWNLOAD_BYTES and operation.sides.remote
            operation.cost[refused] += max(1, body.size) if body else 1
        self.todo.append(operation)

    def _count_unavailable(self, outcome: Outcome) -> None:
        self.unavailable += 1
        if self.stop.is_set():
            return
        if self.unavailable >= MOST_UNAVAILABLE or (not self.succeeded and not self.todo and not self.in_flight):
            self.stop.set()
            raise Stall(
                StallCode.STORE_UNAVAILABLE,
                f"The store of {self.vault.name} does not answer: {outcome.reason.partition(': ')[2]}",
                remedy=f"{again(self.lease.load_run())}  # once the endpoint answers again",
            )

    # --- budgets

    def _afford(self, operation: Operation) -> Draw:
        """Sets aside what `operation` needs, drawing more of the run's budget when the lease holds too little."""
        if not self.metered or operation.status == OperationStatus.STAGED:
            return Draw.DRAWN
        self._price(operation)
        if self._goes_in_parts(operation):
            return self._afford_large(operation)
        if operation.action is Action.KEEP_BOTH and self._is_large(operation):
            # Its parts go on other threads than its own, which would not find what it had set aside.
            lacking = self._lacking(operation.cost)
            return self.meter.draw(lacking, lacking) if lacking else Draw.DRAWN
        if operation.path in self.transfers.rows:
            self._hold_abort(operation)
        # Never without: who finds nothing left for the second of two requests sends the first one again.
        while (pot := self.meter.set_aside(operation.cost)) is None:
            # Large bodies spend what is in no pot, so that what was there a moment ago may be gone.
            if not (lacking := self._lacking(operation.cost)):
                continue
            answer = self.meter.draw(Requests({c: n + self._coming(c) for c, n in lacking.items()}), lacking)
            if answer is not Draw.DRAWN:
                return answer
        operation.pot = pot
        return Draw.DRAWN

    def _afford_large(self, operation: Operation) -> Draw:
        """A large body spends as its parts go, on several threads; it may start with less than all it needs."""
        body = self.workshop.body(operation.action, operation.sides)
        main = RequestClass.PUT if operation.action is Action.UPLOAD else RequestClass.GET
        needed = Requests(operation.cost)
        begun = 1 if body.upload_id else 0
        needed[main] = max(1, needed[main] - len(body.parts) - begun)
        needed[RequestClass.DOWNLOAD_BYTES] = max(0, needed[RequestClass.DOWNLOAD_BYTES] - body.held)
        body.allowance, body.refused = None, None
        self._hold_abort(operation)
        lacking = self._lacking(needed)
        answer = self.meter.draw(lacking, lacking) if lacking else Draw.DRAWN
        if answer is not Draw.EXHAUSTED or self.meter.exhausted is not main:
            return answer
        # A part, and for an upload what begins and completes it: less would send bytes for nothing.
        least = Requests(needed)
        least[main] = min(needed[main], 3 if main is RequestClass.PUT else 1)
        lacking = self._lacking(least)
        answer = self.meter.draw(needed, lacking) if lacking else Draw.DRAWN
        body.allowance = self.meter.available(main)
        return answer

    def _hold_abort(self, operation: Operation) -> None:
        """One DELETE, if there is one, so that parts nobody needs any more can be dropped."""
        abort = Requests({RequestClass.DELETE: 1})
        if operation.action is Action.UPLOAD and self._lacking(abort):
            self.meter.draw(abort, abort)

    def _lacking(self, needed: Requests) -> Requests:
        short = {c: n - self.meter.available(c) for c, n in needed.items()}
        return Requests({c: n for c, n in short.items() if n > 0})

    def _coming(self, request_class: RequestClass) -> int:
        """What the rest of the chunk will need of a class."""
        return sum(self._price(op)[request_class] for op in self.todo)

    def _price(self, operation: Operation) -> Requests:
        if not operation.cost:
            operation.cost = cost(operation.action, operation.sides, self.able)
        return operation.cost

    def _goes_in_parts(self, operation: Operation) -> bool:
        return self._is_large(operation) and operation.action in (Action.UPLOAD, Action.DOWNLOAD)

    def _is_large(self, operation: Operation) -> bool:
        return self.metered and size_of(operation.action, operation.sides) >= RANGES_FROM

    def _park(self, operation: Operation) -> None:
        short = self.meter.exhausted or RequestClass.PUT
        ledger = Ledger(vault_id=self.vault.pk, policy="")
        self.outcomes.append(
            Outcome(operation=operation, status=OperationStatus.PARKED, reason=f"budget_{short.field}", ledger=ledger)
        )
        needed = Requests({c: self.run_row.result.get("requests", {}).get(c.value, 0) for c in RequestClass})
        record_stall(self.lease.run_id, budget_stall(self.lease.run_id, short, planned=needed))

    # --- recording

    def _is_time_to_commit(self) -> bool:
        # Parts of a large body count: what is not on record when this process dies is sent again.
        news = bool(self.outcomes) or self.transfers.dirty
        return len(self.outcomes) >= COMMIT_OUTCOMES or (news and monotonic() - self.last_commit > COMMIT_SECONDS)

    def _commit(self) -> None:
        """Writes the outcomes; what was staged goes on to be renamed into place."""
        self.last_commit = monotonic()
        outcomes, self.outcomes = self.outcomes, []
        if not outcomes and not self.transfers.dirty:
            return
        self._make_lasting(outcomes)
        whole = Ledger(vault_id=self.vault.pk, policy=self.workshop.policy, since=self.known)
        for outcome in outcomes:
            whole.absorb(outcome.ledger)
        over = [o for o in outcomes if o.status not in (OperationStatus.PENDING, OperationStatus.STAGED)]
        with self.lease.commit(items_done=len(over)):
            sql.record_operations([_row(o) for o in outcomes if o.status != OperationStatus.PENDING])
            whole.write()
            self.transfers.store([o.operation.path for o in over if o.status == OperationStatus.DONE])
            # What was sent so far is known for certain, whatever becomes of this process.
            self.meter.settle()
        for outcome in outcomes:
            if outcome.status == OperationStatus.STAGED:
                outcome.operation.status = OperationStatus.STAGED
                self.staged.append(outcome.operation)

    def _make_lasting(self, outcomes: Sequence[Outcome]) -> None:
        """What is recorded must survive a power cut, directories included. A slow disk costs no lease."""
        bodies = [o.progress["staged"]["name"] for o in outcomes if o.status == OperationStatus.STAGED]
        touched = set[str]().union(*(o.operation.touched for o in outcomes))
        if not bodies and not touched:
            return
        with ThreadPoolExecutor(1) as flusher:
            self.lease.outlast(flusher.submit(self.workshop.tree.make_lasting, bodies, touched))

    def _publish_rest(self, pool: ThreadPoolExecutor) -> None:
        self._hand_out_staged(pool)
        while self.in_flight:
            self._collect()
            self.lease.keep()
        self._commit()

    def _load(self, actions: Sequence[str]) -> list[Operation]:
        first, last = self.lease.payload["first"], self.lease.payload["last"]
        rows = sql.fetch(sql.CLAIM_OPERATIONS, (self.lease.run_id, first, last, list(actions)))
        return [
            Operation(
                id=id_,
                path=path,
                action=Action(action),
                planned=Action(action),
                reason=reason,
                status=OperationStatus(status),
                size=size,
                sides=from_json(planned),
                source=source,
                progress=msgspec.json.decode(progress) if isinstance(progress, str) else progress,
            )
            for id_, path, action, reason, status, size, planned, source, progress in rows
        ]


def _row(outcome: Outcome) -> tuple[int, str, str, str, str]:
    operation = outcome.operation
    # What is not over keeps the action it was planned with: by that its phase finds it, and deletes wait for it.
    over = outcome.status in (OperationStatus.DONE, OperationStatus.SKIPPED)
    action = (outcome.action or operation.action) if over else operation.planned
    # What was staged must be found again; what a copy was made of tells its price.
    source = {name: value for name, value in operation.progress.items() if name == "source"}
    progress = outcome.progress if outcome.status == OperationStatus.STAGED else source
    return (
        operation.id,
        outcome.status.value,
        outcome.reason,
        action.value,
        msgspec.json.encode(progress).decode(),
    )
