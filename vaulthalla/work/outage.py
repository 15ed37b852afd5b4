"""A database that goes away and comes back: told apart from other errors, and waited for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connection

from vaulthalla import embedded
from vaulthalla.errors import VaulthallaError

logger = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_SECONDS = 30
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
# Connection exceptions, shutdowns and starts, and a server that is full for the moment.
OUTAGE_STATES = ("08", "57P", "53300")
# Deadlock, serialisation, a lock not granted in time: the same transaction may succeed at once.
CONTENTION_STATES = ("40P01", "40001", "55P03")


def is_outage(error: BaseException) -> bool:
    """Whether the server (or the way to it) is gone, rather than unwilling."""
    if isinstance(error, InterfaceError):
        return True
    state = _state(error)
    return isinstance(error, OperationalError) and (state is None or state.startswith(OUTAGE_STATES))


def is_contention(error: BaseException) -> bool:
    """Whether trying again at once makes sense."""
    state = _state(error)
    return isinstance(error, OperationalError) and state is not None and state.startswith(CONTENTION_STATES)


def through(action: Callable[[], T]) -> T:
    """`action`, a transaction of its own, again after every outage until one has lasted for 30 s.

    The action must bear being done twice: a commit whose answer was lost may have happened.
    """
    give_up = time.monotonic() + WAIT_SECONDS
    pause = FIRST_PAUSE
    while True:
        try:
            return action()
        except (OperationalError, InterfaceError) as error:
            if not _worth_another(error, give_up):
                raise
            logger.info("The database is away: %s", error)
        _reconnect(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _worth_another(error: Exception, give_up: float) -> bool:
    if connection.in_atomic_block or time.monotonic() > give_up:
        return False
    return is_outage(error) or is_contention(error)


def _reconnect(pause: float) -> None:
    time.sleep(pause)
    connection.close()
    try:
        # Starts the embedded server again; does nothing for one that is run by others.
        embedded.ensure(migrate=False)
    except (VaulthallaError, OSError) as error:
        logger.info("The database does not start yet: %s", error)


def _state(error: BaseException) -> str | None:
    return getattr(error.__cause__, "sqlstate", None)
