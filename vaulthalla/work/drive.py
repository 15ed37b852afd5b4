"""Working on one run until it is over: the command line, its helper processes, and small commands of their own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from types import FrameType
from typing import Any
from uuid import uuid4

from vaulthalla.errors import NotFound
from vaulthalla.vaults.models import Vault
from vaulthalla.work import doorbell, execute, lease, outage, runs, sql
from vaulthalla.work.helpers import Helpers
from vaulthalla.work.lease import Lease
from vaulthalla.work.models import TERMINAL, Queue, Run, RunKind, RunStatus, Trigger
from vaulthalla.work.phases import Phase
from vaulthalla.work.registry import Handler
from vaulthalla.work.sweep import INLINE, sweep
from vaulthalla.work.values import Busy, NewChunk, Progress

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.5
SWEEP_PAUSE = 2.0
PROGRESS_PAUSE = 0.5
STDERR = 2
DEFAULTS: dict[signal.Signals, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}

OnProgress = Callable[[Progress], None]


def drive(run_id: int, *, on_progress: OnProgress | None = None, helpers: int = 0) -> Run:
    """Claims and executes chunks of a run in this process until it is over, beside whoever else does.

    A queued run waits for, and works on, the active run of its vault first. Waits out a database that is away
    for up to 30 s. While nothing can be claimed, takes back lapsed leases, so that nobody's death holds it up.
    Up to `helpers` more processes are started as soon as there is work for them, and stopped at the end.

    Returns the run, which is not over only if this process was asked to end (SIGTERM or Ctrl-C). Raises NotFound.
    """
    with _ending_on_signals(), Helpers(run_id, helpers) as others:
        driver = _Driver(run_id, on_progress, others)
        while not lease.shutdown.is_set() and driver.step():
            pass
    run = outage.through(lambda: _load(run_id))
    if run.status not in TERMINAL:
        doorbell.flush()
    return run


def make_way(run_id: int, *, on_progress: OnProgress | None = None) -> None:
    """Works on a run that is in the way of another. Raises KeyboardInterrupt when this process was asked to end."""
    drive(run_id, on_progress=on_progress)
    if lease.shutdown.is_set():
        raise KeyboardInterrupt


def attach_or_create(
    vault: Vault,
    kind: RunKind,
    *,
    trigger: Trigger = Trigger.MANUAL,
    options: Mapping[str, Any] | None = None,
    chunks: Sequence[NewChunk],
    on_progress: OnProgress | None = None,
) -> Run:
    """`create_run` for a command that would rather wait: works on the run in the way until there is room.

    Returns the run to drive: new, or one that does the same and was already waiting.
    """
    while True:
        try:
            return runs.create_run(vault, kind, trigger=trigger, options=options, chunks=chunks)
        except Busy as busy:
            if busy.run_id:
                make_way(busy.run_id, on_progress=on_progress)


def run_inline(
    vault: Vault | None,
    kind: RunKind,
    function: Handler,
    *,
    options: Mapping[str, Any] | None = None,
    trigger: Trigger = Trigger.MANUAL,
    then: Sequence[NewChunk] = (),
) -> Run:
    """A run whose first chunk is `function`, executed by this process, once; returns the closed run.

    `then`: chunks of later phases, which are anybody's.

    Raises what the function raised, once the run is closed with it.
    """
    # Only this process knows the function, so only it may claim the chunk.
    pool = f"process:{uuid4()}"
    chunk = NewChunk(INLINE, Phase.PREPARE, Queue.CONTROL, pool=pool)
    run = runs.create_run(vault, kind, trigger=trigger, options=options, chunks=[chunk, *then])
    own = _claim_own(run, pool)
    failure: BaseException | None = None

    def once(held: Lease) -> Any:
        nonlocal failure
        try:
            return function(held)
        except Exception as error:
            failure = error
            raise

    with _cancelled_on_the_way_out(run):
        _last_attempt(own)
        execute.perform(own, lambda _: once)
    finished = drive(run.pk)
    if failure:
        raise failure
    return finished


def progress(run_id: int) -> Progress | None:
    """How far a run is; None when there is no such run."""
    row = sql.progress(run_id)
    if row is None:
        return None
    phase, chunks_done, chunks_total, items_done, items_total = row
    return Progress(
        run_id=run_id,
        phase=phase,
        chunks_done=chunks_done,
        chunks_total=chunks_total,
        items_done=items_done,
        items_total=items_total,
    )


class _Driver:
    """One process's part in a run, step by step."""

    def __init__(self, run_id: int, on_progress: OnProgress | None, helpers: Helpers) -> None:
        self.run_id = run_id
        self.on_progress = on_progress
        self.helpers = helpers
        self.pause = FIRST_PAUSE
        self.next_sweep = 0.0
        self.next_progress = 0.0

    def step(self) -> bool:
        """One chunk, or one pause; False when the run is over."""
        target = outage.through(self._target)
        if target is None:
            return False
        outage.through(lambda: self._call_helpers(target))
        outage.through(lambda: self._report(target))
        held = outage.through(lambda: execute.claim(Queue.values, run_id=target))
        if held is None:
            self._idle()
            return True
        self.pause = FIRST_PAUSE
        held.on_keep = lambda: self._report(target)
        execute.execute(held)
        return True

    def _target(self) -> int | None:
        """The run to work on: this one, or the one it is queued behind."""
        run = _load(self.run_id)
        if run.status in TERMINAL:
            return None
        if run.status != RunStatus.QUEUED or run.vault_id is None:
            return run.pk
        ahead = runs.active_run(run.vault_id)
        if ahead is not None:
            return ahead.pk
        runs.promote_next(run.vault_id)
        return run.pk

    def _idle(self) -> None:
        if monotonic() >= self.next_sweep:
            outage.through(sweep)
            self.next_sweep = monotonic() + SWEEP_PAUSE
        sleep(self.pause)
        self.pause = min(self.pause * 1.5, LONGEST_PAUSE)

    def _report(self, target: int) -> None:
        """Tells how far the run is, at most twice a second; also calls helpers to what a long chunk has cut so far."""
        if monotonic() < self.next_progress or not (self.on_progress or self.helpers.wanted):
            return
        self.next_progress = monotonic() + PROGRESS_PAUSE
        self._call_helpers(target)
        if self.on_progress and (now := progress(target)):
            self.on_progress(now)

    def _call_helpers(self, target: int) -> None:
        """When there is enough for them. Right after a plan they are worth most, so this waits for no pause to end."""
        if self.helpers.wanted:
            self.helpers.start(claimable=sql.claimable(target))


def _load(run_id: int) -> Run:
    run = Run.objects.select_related("vault").filter(pk=run_id).first()
    if run is None:
        raise NotFound(f"There is no run {run_id}.")
    return run


def _claim_own(run: Run, pool: str) -> Lease:
    """The lease of an inline run's chunk, after the runs it is queued behind."""
    while True:
        own = execute.claim([Queue.CONTROL], pools=[pool], run_id=run.pk)
        if own is not None:
            return own
        run = _load(run.pk)
        if run.status != RunStatus.QUEUED or run.vault_id is None:
            raise Busy(f"Run {run.pk} was cancelled, or is another process's.", run_id=run.pk, remedy="Try again.")
        ahead = runs.active_run(run.vault_id)
        if ahead is not None:
            make_way(ahead.pk)
        else:
            runs.promote_next(run.vault_id)


def _last_attempt(own: Lease) -> None:
    """A function of this process cannot be tried again by others: its first attempt is its last."""
    own.attempts = execute.MOST_ATTEMPTS


@contextmanager
def _cancelled_on_the_way_out(run: Run) -> Iterator[None]:
    """A command that is interrupted takes its own small run with it."""
    try:
        yield
    except BaseException:
        runs.request_cancel(run.pk)
        raise


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C let the chunk at hand stop in good order; only where nobody else has claimed the signal.

    An exception out of nowhere could leave a lock of a library taken, and its threads waiting for it for ever.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in DEFAULTS} if main else {}
    ours = [number for number, handler in before.items() if handler is DEFAULTS[number]]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, DEFAULTS[number])


def _end(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        # The second one ends the process at once; what it was doing is begun again by others.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if os.isatty(STDERR):
            os.write(STDERR, b"\nStopping in good order; Ctrl-C again stops at once.\n")
    lease.shutdown.set()
