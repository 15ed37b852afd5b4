"""The proposed budget, as a table of what runs needed."""

from __future__ import annotations

from typing import Any

import pytest

from sync.suggest import GIB, MIB, Past, Proposal, round_up, shown, suggest
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.presets import PRESETS

PUT, GET, LIST, BYTES = RequestClass.PUT, RequestClass.GET, RequestClass.LIST, RequestClass.DOWNLOAD_BYTES
BALANCED = PRESETS["balanced"]


def past(run: int, spent: int = 0, *, planned: int | None = None, lost: int = 0, stall: str = "") -> Past:
    """A run that is about PUTs."""
    return Past(
        run=run,
        planned=None if planned is None else Requests({PUT: planned}),
        spent=Requests({PUT: spent}),
        lost=Requests({PUT: lost}),
        stall=stall,
    )


FIVE = [past(5, 3), past(4, 3), past(3, 3), past(2, 3), past(1, 2)]


def of(name: RequestClass, *pasts: Past, current: int | None = 1_000, pages: int | None = None) -> Proposal:
    found = suggest(list(pasts), {**BALANCED, name: current}, pages=pages)
    return next(one for one in found if one.name is name)


@pytest.mark.parametrize(
    ("pasts", "current", "proposed", "reason"),
    [
        # No runs: nothing is known, nothing changes, not even an unlimited field.
        ([], 1_000, 1_000, "no run has needed anything yet"),
        ([], None, None, "no run has needed anything yet"),
        # One run says little: twice what it needed.
        ([past(1, 900)], 1_000, 1_800, "run 1 needed 900: raise it"),
        ([past(1, 400)], 1_000, 1_000, "run 1 needed 400: it suffices"),
        ([past(1, 400)], None, 800, "run 1 needed 400: a limit"),
        ([past(1, 3)], 1_000, 1_000, "so few runs are no reason to lower it"),
        # Several: half as much again as the one that needed most.
        ([past(3, 10), past(2, 900), past(1, 500)], 1_000, 1_400, "run 2 needed 900: raise it"),
        # A stall on the field: what the plan needs, not what was sent.
        (
            [past(2, 10), past(1, 1_000, planned=1_240, stall="budget_put")],
            1_000,
            1_900,
            "run 1 needed 1240 and stalled on it: raise it",
        ),
        # Without a plan nobody knows: twice what was sent.
        ([past(2, 5), past(1, 1_000, stall="budget_put")], 1_000, 3_000, "run 1 needed 2000 and stalled on it"),
        # A stall on another field says nothing about this one.
        ([past(2, 5), past(1, 700, planned=700, stall="budget_get")], 1_000, 1_100, "run 1 needed 700: raise it"),
        # A plan that money or the delete guard stopped still counts.
        ([past(2, 5), past(1, 0, planned=900, stall="price_budget")], 1_000, 1_400, "run 1 needed 900: raise it"),
        # Usage fell: the newer half speaks, and the limit comes down.
        (
            [past(5, 30), past(4, 100), past(3, 9), past(2, 90), past(1, 5_000)],
            8_000,
            150,
            "run 4 needed 100, the most of the newest 3 runs; older ones up to 5000: lower it",
        ),
        (
            [past(5), past(4), past(3), past(2), past(1, 5_000)],
            8_000,
            100,
            "not used by the newest 3 runs, though up to 5000 before; `conservative` allows 100: lower it",
        ),
        # So many runs say what is needed, but not yet that it will stay so.
        ([past(4, 30), past(3, 100), past(2, 90), past(1, 5_000)], 8_000, 8_000, "no reason to lower it"),
        # Not by half: all count.
        ([past(4, 100), past(3, 60), past(2, 50), past(1, 200)], 100, 300, "run 1 needed 200: raise it"),
        # A stall among the newer ones: nothing fell.
        (
            [past(4, 10, stall="budget_put"), past(3, 20), past(2, 50), past(1, 900)],
            10,
            1_400,
            "run 1 needed 900: raise it",
        ),
        # Three runs are too few to call it a fall.
        ([past(3, 10), past(2, 10), past(1, 900)], 1_000, 1_400, "run 1 needed 900: raise it"),
        # Retries and what a worker took with it count.
        (
            [past(2, 1_000, planned=900, lost=50), past(1, 3)],
            1_000,
            1_600,
            "run 2 needed 1050, 150 more than planned, 50 of them lost with a worker: raise it",
        ),
        # Never less than `conservative`; a limit far above what is needed comes down after a few runs.
        (FIVE, 1_000, 100, "run 5 needed 3; `conservative` allows 100: lower it"),
        (FIVE, 400, 400, "it suffices"),
        ([past(3, 3), past(2, 3), past(1, 2)], 0, 100, "raise it"),
    ],
)
def test_puts(pasts: list[Past], current: int | None, proposed: int | None, reason: str) -> None:
    found = of(PUT, *pasts, current=current)
    assert found.proposed == proposed
    assert reason in found.reason
    assert found.changes is (proposed != current)


@pytest.mark.parametrize(
    ("pages", "current", "proposed"),
    [(None, 100, 100), (5, 100, 100), (500, 100, 750), (500, 2_000, 2_000), (1_234, None, 1_900)],
)
def test_a_stale_index_can_be_listed(pages: int | None, current: int | None, proposed: int) -> None:
    found = of(LIST, past(2, 3), past(1, 3), current=current, pages=pages)
    assert found.proposed == proposed
    assert ("should the index become stale" in found.reason) is (pages is not None)


def test_what_was_never_used_is_left_as_conservative_has_it() -> None:
    found = of(GET, *FIVE)
    assert (found.proposed, found.needed, found.run) == (100, 0, None)
    assert found.reason == "never used; `conservative` allows 100: lower it"


@pytest.mark.parametrize(
    ("needed", "proposed", "told"),
    [(1, GIB, "1GiB"), (GIB, 1_600 * MIB, "1600MiB"), (9 * GIB, 14 * GIB, "14GiB"), (100 * GIB, 150 * GIB, "150GiB")],
)
def test_bytes_are_told_in_units(needed: int, proposed: int, told: str) -> None:
    runs = [Past(run=n, planned=None, spent=Requests({BYTES: needed}), lost=Requests()) for n in (2, 1)]
    found = of(BYTES, *runs, current=0)
    assert (found.proposed, shown(BYTES, found.proposed or 0)) == (proposed, told)


@pytest.mark.parametrize(
    ("count", "rounded"), [(0, 0), (7, 7), (99, 99), (100, 100), (101, 110), (1_001, 1_100), (99_001, 100_000)]
)
def test_rounding_is_upwards_to_two_digits(count: int, rounded: int) -> None:
    assert round_up(PUT, count) == rounded


@pytest.mark.parametrize(
    ("given", "idle"),
    [
        ({"spent": 1}, True),
        ({"spent": 0}, True),
        ({"spent": 1, "stall": "budget_put"}, False),
        ({"spent": 2}, False),
        ({"spent": 0, "planned": 3}, False),
        ({"spent": 1, "lost": 1}, False),
    ],
)
def test_who_only_looked_is_idle(given: dict[str, Any], *, idle: bool) -> None:
    assert past(1, **given).idle is idle
