"""What worker processes of the tests do; see `worker_settings`."""

from __future__ import annotations

import os
import signal

from vaulthalla.work.engine import Lease, Yield, handler


@handler("test.note")
def note(lease: Lease) -> None:
    """Leaves who did it behind."""
    with lease.commit(cursor=os.getpid(), items_done=1):
        pass


@handler("test.die")
def die(lease: Lease) -> None:
    """Takes its process down the first time, leaving progress behind."""
    if lease.cursor is None:
        with lease.commit(cursor="half-way"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)


@handler("test.long")
def work_until_told(lease: Lease) -> Yield | None:
    """Goes on until its process must end."""
    with lease.commit(cursor="begun"):
        pass
    while not lease.overdue:
        lease.keep()
    return Yield("more")
