"""Tells workers that there is something to claim. A hint only: a lost one is made good by the sweeper.

Publishing happens on a thread of its own, since importing the broker's client and a broker that does not answer
must delay no command. At exit what is under way gets a moment, then is given up.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Mapping
from queue import SimpleQueue

logger = logging.getLogger(__name__)

# One worker process wakes per message; those that find nothing cost one query.
MOST_AT_ONCE = 16
EXIT_SECONDS = 2


class _Ringer:
    """The thread of this process, started by its first ring."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.rings: SimpleQueue[tuple[str, int, float] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._publish, name="doorbell", daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.rings.put(None)
        self.thread.join(EXIT_SECONDS)

    def _publish(self) -> None:
        while (ring := self.rings.get()) is not None:
            try:
                _send(*ring)
            except Exception as error:  # whatever the broker's client raises, the work is in the database
                logger.debug("The doorbell of %s was not rung: %s", ring[0], error)


_ringer: _Ringer | None = None
_starting = threading.Lock()


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
