"""A lease: the right to work on one chunk, for as long as it is renewed, and the only way to record that work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import transaction

from vaulthalla.work import sql
from vaulthalla.work.models import Run, RunKind
from vaulthalla.work.phases import Phase
from vaulthalla.work.values import LeaseLost, RunCancelled

T = TypeVar("T")
# How often the main thread looks up from waiting for a helper thread.
TICK_SECONDS = 1.0
# Of a task, kept for what follows a wait.
LAST_SECONDS = 60


class _Shutdown:
    """Whether this process was asked to end. No threading.Event: setting one in a signal handler may deadlock."""

    def __init__(self) -> None:
        self._requested = False

    def set(self) -> None:
        self._requested = True

    def clear(self) -> None:
        self._requested = False

    def is_set(self) -> bool:
        return self._requested


# Chunks stop at their next look at the clock.
shutdown = _Shutdown()


class _Keep:
    """The cursor stays as it is (None is a cursor)."""


KEEP = _Keep()


@dataclass(slots=True)
class Checkpoint:
    """What a commit records of its chunk; the body may still set both."""

    cursor: Any = KEEP
    items_done: int = 0


class Lease:
    """One execution of one chunk. Only the thread that claimed it may call methods that reach the database.

    `deadline` and `lapses_at` are instants of `time.monotonic()`. Helper threads read `lapsed` before each request.
    """

    def __init__(self, row: sql.Claimed, token: UUID, *, claimed_at: float) -> None:
        self.run_id = row.run_id
        self.chunk_id = row.chunk_id
        self.vault_id = row.vault_id
        self.run_kind = RunKind(row.run_kind)
        self.kind = row.kind
        self.phase = Phase(row.phase)
        self.queue = row.queue
        self.token = token
        self.payload = row.payload
        self.cursor = row.cursor
        self.attempts = row.attempts
        self.deadline = claimed_at + settings.CHUNK_SECONDS
        self.on_keep: Callable[[], None] | None = None
        self.committing = False
        self.transactions = 0
        self._before_commit: list[Callable[[], None]] = []
        self._after_commit: list[Callable[[], None]] = []
        self._at_end: list[Callable[[], None]] = []
        self._renewed(claimed_at)

    def __repr__(self) -> str:
        return f"<lease of chunk {self.chunk_id} ({self.kind}) of run {self.run_id}>"

    # --- time ---

    @property
    def lapses_at(self) -> float:
        """The instant after which no request may be sent; well before the database gives the chunk away."""
        return self._lapses_at

    @property
    def lapsed(self) -> bool:
        return monotonic() > self._lapses_at

    @property
    def overdue(self) -> bool:
        """Time is up: finish what is in flight and return Yield(cursor)."""
        return shutdown.is_set() or monotonic() >= self.deadline

    def keep(self) -> None:
        """Renews if it is time to; costs nothing otherwise. To be called often by the handler's own thread."""
        if monotonic() >= self._renew_at:
            self.renew()
        if self.on_keep:
            self.on_keep()

    def outlast(self, future: Future[T]) -> T:
        """What a helper thread comes to, with the lease kept meanwhile however long that takes."""
        while not wait([future], timeout=TICK_SECONDS).done:
            self.keep()
        return future.result()

    def outlast_any(self, futures: Iterable[Future[Any]]) -> None:
        """Waits until at least one of several is done, with the lease kept meanwhile."""
        waiting = list(futures)
        while not wait(waiting, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED).done:
            self.keep()

    def renew(self) -> None:
        """Moves the end of the lease. Raises LeaseLost, or RunCancelled (but never in the last phase)."""
        asked_at = monotonic()
        cancelled = sql.renew(self.chunk_id, self.token, seconds=settings.LEASE_SECONDS)
        if cancelled is None:
            raise self.lost()
        self._renewed(asked_at)
        if cancelled and self.phase != Phase.FINISH:
            raise RunCancelled(f"Run {self.run_id} was cancelled.")

    # --- recording ---

    @contextmanager
    def commit(self, cursor: Any = KEEP, items_done: int = 0) -> Iterator[Checkpoint]:
        """One transaction under the lease: body, cursor, `items_done` more items, renewal; all or nothing.

        Locks the own chunk first, so nobody can take it over half-way, however long the body then waits: an import
        holds a vault's index for its whole commit. Raises LeaseLost.
        """
        checkpoint = Checkpoint(cursor, items_done)
        with self.transaction():
            if not sql.lock_chunk(self.chunk_id, self.token, patience=settings.TASK_SECONDS - LAST_SECONDS):
                raise self.lost()
            yield checkpoint
            self.flush()
            asked_at = monotonic()
            self._record(checkpoint)
        self._renewed(asked_at)
        if checkpoint.cursor is not KEEP:
            self.cursor = checkpoint.cursor
        if self.on_keep:
            self.on_keep()

    def load_run(self) -> Run:
        """The run as it is now, with its vault, key and policy."""
        return Run.objects.select_related("vault__api_key", "vault__policy").get(pk=self.run_id)

    # --- for the meters of a lease ---

    def before_commit(self, hook: Callable[[], None]) -> None:
        """Calls `hook` late in the running commit: its rows are locked after chunk and run, as everywhere."""
        if not self.committing:
            raise RuntimeError("Only inside `with lease.commit():`.")
        self._before_commit.append(hook)

    def after_commit(self, hook: Callable[[], None]) -> None:
        """Calls `hook` once the running transaction is kept, and not at all when it is rolled back."""
        self._after_commit.append(hook)

    def at_end(self, hook: Callable[[], None]) -> None:
        """Calls `hook` inside the transaction that ends this lease, whatever the outcome; not when it was lost."""
        self._at_end.append(hook)

    # --- for the engine ---

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction whose hooks run only if it is kept. Not nested."""
        if self.committing:
            raise RuntimeError("A commit inside a commit.")
        self._before_commit.clear()
        self._after_commit.clear()
        self.committing = True
        self.transactions += 1
        try:
            with transaction.atomic():
                yield
        finally:
            self.committing = False
        for hook in self._after_commit:
            hook()

    def flush(self) -> None:
        """Runs what `before_commit` put off."""
        while self._before_commit:
            self._before_commit.pop(0)()

    def settle(self) -> None:
        """Runs the hooks of the lease's end, inside its last transaction."""
        for hook in self._at_end:
            hook()
        self.flush()

    def over(self) -> None:
        """From here on nothing may be sent in this lease's name."""
        self._lapses_at = self._renew_at = -inf

    def lost(self) -> LeaseLost:
        self.over()
        return LeaseLost(f"Chunk {self.chunk_id} of run {self.run_id} was taken over.")

    def _record(self, checkpoint: Checkpoint) -> None:
        moved = checkpoint.cursor is not KEEP
        sql.checkpoint(
            self.chunk_id,
            self.token,
            moved=moved,
            cursor=checkpoint.cursor if moved else None,
            items=checkpoint.items_done,
            seconds=settings.LEASE_SECONDS,
        )

    def _renewed(self, asked_at: float) -> None:
        # Counted from before the question: the database's answer can only be later.
        self._lapses_at = asked_at + settings.LEASE_SECONDS - settings.LEASE_MARGIN_SECONDS
        self._renew_at = asked_at + settings.LEASE_RENEW_SECONDS
