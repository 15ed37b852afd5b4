"""Threads that send and fetch the manifest's objects for one lease."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from budgets.access import ChunkMeter, Draw
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import MeterRefused
from vaulthalla.stores.direct import ATTEMPTS
from vaulthalla.work.engine import Lease

T = TypeVar("T")
THREADS = 4


class Helpers:
    """What is drawn is what is needed when nothing fails; each attempt beyond that is drawn when it turns out so."""

    def __init__(self, lease: Lease, meter: ChunkMeter) -> None:
        self.lease, self.meter = lease, meter
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="manifest")

    def begin(self, job: Callable[..., T], *arguments: object) -> Callable[[], T]:
        """Starts a job that may be done again; what it came to, for the main thread. Raises MeterRefused."""
        begun = self.pool.submit(job, *arguments)

        def outcome() -> T:
            body = begun
            # As often as any other request: a store that is away must not use up the budget.
            for _ in range(ATTEMPTS - 1):
                try:
                    return self.lease.outlast(body)
                except MeterRefused as refused:
                    if not self._pays_for(refused.request_class):
                        raise
                    body = self.pool.submit(job, *arguments)
            return self.lease.outlast(body)

        return outcome

    def _pays_for(self, request_class: RequestClass | None) -> bool:
        if request_class in (None, RequestClass.DOWNLOAD_BYTES):
            return False
        return self.meter.draw(Requests({request_class: 1})) is Draw.DRAWN

    def __enter__(self) -> Helpers:
        self.pool.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.pool.__exit__(kind, error, at)
