"""A meter that only counts, up to limits."""

from __future__ import annotations

import threading
from collections import Counter

from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import MeterRefused


class CountingMeter:
    """Counts what is asked of it; refuses what exceeds `limits` (no limit: unlimited)."""

    def __init__(self, **limits: int) -> None:
        self.counts = Requests()
        self.limits = {RequestClass(name): limit for name, limit in limits.items()}
        self.answers: Counter[tuple[RequestClass, int]] = Counter()
        self._lock = threading.Lock()

    def attempt(self, request_class: RequestClass) -> None:
        self._take(request_class, 1)

    def answered(self, request_class: RequestClass, status: int) -> None:
        with self._lock:
            self.answers[request_class, status] += 1

    def received(self, count: int) -> None:
        self._take(RequestClass.DOWNLOAD_BYTES, count)

    def _take(self, request_class: RequestClass, count: int) -> None:
        with self._lock:
            limit = self.limits.get(request_class)
            if limit is not None and self.counts[request_class] + count > limit:
                raise MeterRefused(request_class, f"no more than {limit}")
            self.counts[request_class] += count
