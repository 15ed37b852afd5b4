"""Celery's side: what beat asks for. It may run twice, late, or beside itself."""

from __future__ import annotations

import logging

from budgets.catalog_refresh import refresh_in_use
from budgets.deliver import look_and_send
from vaulthalla.celery import app

logger = logging.getLogger(__name__)

# With the longest attempt well below the soft time limit; what is left waits for the next tick.
SECONDS = 45


@app.task(name="budgets.notify", ignore_result=True)  # type: ignore[untyped-decorator,unused-ignore]
def notify_tick() -> None:
    """Looks at what policies and price lists are worth telling, and sends what is open."""
    look_and_send(seconds=SECONDS)


@app.task(name="budgets.prices", ignore_result=True)  # type: ignore[untyped-decorator,unused-ignore]
def prices_tick() -> None:
    """Reads the public price lists of the buckets there are; on any failure what is known stays, and gets older."""
    for came in refresh_in_use():
        logger.log(logging.WARNING if came.result == "failed" else logging.INFO, "%s", came.text)
