"""How much one chunk is granted: a table."""

from __future__ import annotations

import pytest

from budgets.share import can_come_back, share, shares
from budgets.sql import Line
from vaulthalla.requests import RequestClass, Requests


def line(limit: int | None, used: int = 0, held: int = 0, lost: int = 0) -> Line:
    return Line(limit=limit, used=used, held=held, lost=lost)


@pytest.mark.parametrize(
    ("budget", "need", "at_least", "workers", "granted"),
    [
        (line(100), 10, 1, 1, 10),  # the need, when there is plenty
        (line(100), 80, 1, 4, 25),  # a fair part: 100 / 4
        (line(100), 80, 30, 4, 30),  # but enough to begin with
        (line(100, used=50, held=30, lost=10), 80, 1, 1, 10),  # what is left: 100 - 50 - 30 - 10
        (line(100, used=50, held=30, lost=10), 80, 11, 1, None),
        (line(100, used=100), 5, 1, 1, None),
        (line(100, used=100), 5, 0, 1, 0),  # nothing asked, nothing refused
        (line(0), 1, 1, 1, None),
        (line(3), 10, 1, 8, 1),  # 3 / 8 rounds down, at_least lifts it
        (line(3), 10, 1, 0, 3),  # nobody counted: alone
        (line(None, used=10**12), 7, 1, 8, 7),  # unlimited is not shared
    ],
)
def test_a_share(budget: Line, need: int, at_least: int, workers: int, granted: int | None) -> None:
    assert share(budget, need=need, at_least=at_least, workers=workers) == granted


def test_each_class_is_refused_by_name() -> None:
    lines = {RequestClass.GET: line(5), RequestClass.PUT: line(0)}
    both = Requests({RequestClass.GET: 2, RequestClass.PUT: 1})
    granted, refused = shares(lines, need=both, at_least=both, workers=1)
    assert (granted[RequestClass.GET], refused) == (2, [RequestClass.PUT])


@pytest.mark.parametrize(
    ("budget", "at_least", "own", "hope"),
    [
        (line(10, used=4, held=6), 6, 0, True),
        (line(10, used=4, held=6), 7, 0, False),
        (line(10, used=4, held=6), 1, 6, False),  # what is out is our own
        (line(10, used=2, held=6), 3, 5, True),  # 2 left and 1 with others
        (line(10, used=4, lost=6), 1, 0, False),
    ],
)
def test_hope_for_what_others_hold(budget: Line, at_least: int, own: int, hope: bool) -> None:
    assert can_come_back(budget, at_least=at_least, own=own) is hope
