"""How much of a budget one chunk may hold: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from budgets.sql import Line
from vaulthalla.requests import RequestClass, Requests


class Draw(Enum):
    """The answer to a draw; true only when something was drawn."""

    DRAWN = "the chunk holds more now"
    WAIT = "nothing is left, but others hold some that may come back"
    EXHAUSTED = "nothing is left, and nothing that is out could suffice"

    def __bool__(self) -> bool:
        return self is Draw.DRAWN


def within(needs: Requests, left: Mapping[RequestClass, int | None]) -> Requests:
    """What of `needs` there is room for; None is unlimited."""
    return Requests({name: least(count, left.get(name)) for name, count in needs.items()})


def least(count: int, limit: int | None) -> int:
    """As many as there is room for, and never less than nothing."""
    return count if limit is None else max(0, min(count, limit))


def share(line: Line, *, need: int, at_least: int, workers: int) -> int | None:
    """What one of `workers` chunks is granted of a class; None when it cannot have `at_least`.

    A fair part, so that no chunk starves the others, but never less than it can begin with.
    """
    remaining = None if line.remaining is None else max(line.remaining, 0)
    if remaining is None:
        return max(need, at_least)
    if at_least > remaining:
        return None
    return min(remaining, max(at_least, min(need, remaining // max(workers, 1))))


def shares(
    lines: Mapping[RequestClass, Line], *, need: Requests, at_least: Requests, workers: int
) -> tuple[Requests, list[RequestClass]]:
    """What is granted of each class, and the classes that cannot give `at_least`."""
    granted, refused = Requests(), []
    for name, line in lines.items():
        part = share(line, need=need[name], at_least=at_least[name], workers=workers)
        if part is None:
            refused.append(name)
        else:
            granted[name] = part
    return granted, refused


def can_come_back(line: Line, *, at_least: int, own: int) -> bool:
    """Whether `at_least` could still be had if others returned all that they hold."""
    return (line.remaining or 0) + line.held - own >= at_least


def unpaid(lines: Mapping[RequestClass, Line], granted: Requests) -> Requests:
    """How much of `granted` no money is set aside for."""
    short = {name: granted[name] - line.paid for name, line in lines.items() if line.paid is not None}
    return Requests({name: count for name, count in short.items() if count > 0})


def affordable(lines: Mapping[RequestClass, Line], granted: Requests, *, at_least: Requests) -> Requests:
    """As much of `granted` as is paid for, but not less than it can begin with."""
    return Requests(
        {
            name: count if (paid := lines[name].paid) is None else max(at_least[name], min(count, paid))
            for name, count in granted.items()
        }
    )
