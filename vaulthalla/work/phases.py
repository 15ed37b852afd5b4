"""The order in which the chunks of a run may be claimed."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """A later phase begins when every chunk of the earlier ones is finished. Gaps leave room for more."""

    PREPARE = 10
    SCAN = 20
    HASH = 30
    PLAN = 40
    TRANSFER = 50
    DELETE = 60
    PUBLISH = 90
    FINISH = 100
