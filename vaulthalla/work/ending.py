"""How a Celery worker ends in good order: on TERM its chunks stop at their next look at the clock, then it leaves.

Some supervisors tell every process of a worker to end (systemd, `vh up`), others the first alone (Docker,
Kubernetes): either way each pool process hears of it, gives its chunk back with what was done, and the warm
shutdown that follows takes a moment instead of a chunk's length. By default a pool process ends with TERM in the
middle of whatever it does.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from celery.signals import worker_shutting_down

from vaulthalla.work import lease


@contextmanager
def in_order() -> Iterator[None]:
    """While a chunk may be at hand, TERM only asks it to stop."""
    # Set anew for each task: the pool puts its own handler in place after every hook that it offers.
    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _stop) if ours else None
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


@worker_shutting_down.connect
def pass_on(**_: Any) -> None:
    """In the worker's first process, from within its signal handler."""
    from billiard import active_children

    for child in active_children():
        if child.pid:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGTERM)


def _stop(number: int, frame: FrameType | None) -> None:
    lease.shutdown.set()
