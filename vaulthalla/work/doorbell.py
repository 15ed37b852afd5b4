"""Tells workers that there is something to claim. A hint only: a lost one is made good by the sweeper.

Publishing happens on a thread of its own, since importing the broker's client and a broker that does not answer
must delay no command. A command works on its run itself, so it wakes others only for what takes a while
(`be_patient`), or when it leaves its run to them (`flush`). At exit what is under way gets a moment, then is given up.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Mapping
from queue import SimpleQueue
from time import monotonic

logger = logging.getLogger(__name__)

# One worker process wakes per message; those that find nothing cost one query.
MOST_AT_ONCE = 16
EXIT_SECONDS = 2
PATIENCE_SECONDS = 2.0


class _Ringer:
    """The thread of this process, started by its first ring."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.begins_at = monotonic() + _patience
        self.rings: SimpleQueue[tuple[str, int, float] | None] = SimpleQueue()
        self.woken = threading.Event()
        self.closing = False
        self.thread = threading.Thread(target=self._publish, name="doorbell", daemon=True)
        self.thread.start()

    def close(self) -> None:
        """What was held back until now is not needed: whoever left work to others has flushed it."""
        self.closing = monotonic() < self.begins_at and not self.woken.is_set()
        self.woken.set()
        self.rings.put(None)
        self.thread.join(EXIT_SECONDS)

    def _publish(self) -> None:
        while (ring := self.rings.get()) is not None:
            self.woken.wait(max(0.0, self.begins_at - monotonic()))
            if self.closing:
                return
            try:
                _send(*ring)
            except Exception as error:  # whatever the broker's client raises, the work is in the database
                logger.debug("The doorbell of %s was not rung: %s", ring[0], error)


_ringer: _Ringer | None = None
_starting = threading.Lock()
_patience = 0.0


def be_patient() -> None:
    """This process works on what it begins: its first rings wait, since most commands are over before."""
    global _patience  # noqa: PLW0603 - a property of the process
    _patience = PATIENCE_SECONDS


def flush() -> None:
    """Rings now: this process leaves its run to others."""
    if _ringer is not None:
        _ringer.woken.set()


def ring(waiting: Mapping[str, int], *, delay: float = 0) -> None:
    """Wakes workers of each queue, as many as there are chunks (within reason). Never raises."""
    ringer = _current()
    for queue, count in waiting.items():
        ringer.rings.put((queue, min(count, MOST_AT_ONCE), delay))


def _current() -> _Ringer:
    global _ringer  # noqa: PLW0603 - one thread per process, and none in processes that never ring
    with _starting:
        if _ringer is None or _ringer.pid != os.getpid():
            _ringer = _Ringer()
            atexit.register(_ringer.close)
        return _ringer


def _send(queue: str, count: int, delay: float) -> None:
    from vaulthalla.work.tasks import ring as task

    for _ in range(count):
        task.apply_async((queue,), queue=queue, countdown=delay)
