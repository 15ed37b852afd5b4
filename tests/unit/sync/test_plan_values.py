"""The pure parts of planning: costs, cutting, guards, prefixes, back-off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.chunks import pieces as cut
from sync.chunks import seconds
from sync.costs import MIB, MOST_PARTS, RANGE_SIZE, cost, part_size, pieces
from sync.decide import Action, Local, Remote, Sides
from sync.guards import most_deletes
from sync.planner import ancestors
from sync.selection import Selection
from sync.start import next_sync_at
from sync.unknown import UnknownBelow
from vaulthalla.requests import RequestClass
from vaulthalla.stores.base import Capabilities

PROVEN = Capabilities(conditional_put=True, conditional_copy=True, conditional_delete=True, conditional_complete=True)
UNPROVEN = Capabilities()
GIB = 1024 * MIB


def sides(up: int = 0, down: int = 0) -> Sides:
    return Sides(
        path="f",
        local=Local(size=up, mtime_ns=0, ctime_ns=0, inode=0),
        remote=Remote(size=down, etag="e"),
    )


@pytest.mark.parametrize(
    ("action", "up", "down", "proven", "unproven"),
    [
        (Action.UPLOAD, 10, 0, {"put": 1}, {"put": 1, "head": 1}),
        # 64 parts of 16 MiB, one to begin and one to complete.
        (Action.UPLOAD, GIB, 0, {"put": 66}, {"put": 66, "head": 1}),
        (Action.DOWNLOAD, 0, 10, {"get": 1, "downloaded_bytes": 10}, {"get": 1, "downloaded_bytes": 10}),
        # 16 ranges of 64 MiB.
        (Action.DOWNLOAD, 0, GIB, {"get": 16, "downloaded_bytes": GIB}, {"get": 16, "downloaded_bytes": GIB}),
        (Action.KEEP_BOTH, 10, 20, {"put": 1, "get": 1, "downloaded_bytes": 20}, None),
        (Action.COPY, 10, 0, {"copy": 1}, {"copy": 1, "head": 1}),
        (Action.DELETE_REMOTE, 0, 0, {"delete": 1}, {"delete": 1, "head": 1}),
        (Action.VERIFY, 0, 0, {"head": 1}, {"head": 1}),
        (Action.DELETE_LOCAL, 0, 0, {}, {}),
        (Action.CONFLICT, 0, 0, {}, {}),
    ],
)
def test_what_each_action_costs(
    action: Action, up: int, down: int, proven: dict[str, int], unproven: dict[str, int] | None
) -> None:
    def named(able: Capabilities) -> dict[str, int]:
        return {c.value: n for c, n in cost(action, sides(up, down), able).items() if n}

    assert named(PROVEN) == proven
    assert unproven is None or named(UNPROVEN) == unproven


@given(st.integers(0, 5 * 2**40))
def test_parts_cover_any_size_within_the_providers_limits(size: int) -> None:
    part = part_size(size)
    assert part % MIB == 0
    assert pieces(size, part) <= MOST_PARTS
    assert pieces(size, part) * part >= size
    assert pieces(size, RANGE_SIZE) >= 1


@given(st.lists(st.integers(0, 2**36), max_size=60), st.floats(0.01, 30))
def test_cutting_keeps_order_loses_nothing_and_stays_within_the_time(sizes: list[int], longest: float) -> None:
    operations = list(enumerate(sizes))
    cut_up = list(cut(operations, longest=longest))
    assert sum(piece.items for piece in cut_up) == len(operations)
    covered = [ordinal for piece in cut_up for ordinal in range(piece.first, piece.last + 1)]
    assert covered == [ordinal for ordinal, _ in operations]
    for piece in cut_up:
        spent = sum(seconds(sizes[ordinal]) for ordinal in range(piece.first, piece.last + 1))
        assert piece.items == 1 or spent <= longest


@pytest.mark.parametrize(
    ("rule", "files", "most"),
    [("50%", 100, 50), ("50%", 4, 10), ("0%", 1000, 10), ("200", 1000, 200), ("0", 50, 0), ("unlimited", 9, None)],
)
def test_how_many_deletes_a_rule_allows(rule: str, files: int, most: int | None) -> None:
    assert most_deletes(rule, files) == most


@pytest.mark.parametrize(
    ("path", "reason"),
    [("a/x", "one"), ("a/b/x", "one"), ("ab/x", ""), ("b/c/x", "two"), ("b/cx", ""), ("", ""), ("z", "")],
)
def test_what_is_below_an_unknown_directory_is_unknown(path: str, reason: str) -> None:
    unknown = UnknownBelow([("b/c/", "two"), ("a/", "one"), ("a/b/", "inner")])
    assert unknown.reason(path) == reason


def test_below_an_unknown_root_everything_is_unknown() -> None:
    assert UnknownBelow([("", "gone")]).reason("any/thing") == "gone"


def test_ancestors_are_proper_and_outermost_first() -> None:
    assert list(ancestors("a/b/c")) == ["a", "a/b"]
    assert list(ancestors("a")) == []


def test_a_selection_of_nothing_is_everything() -> None:
    assert Selection().condition("l.path") == ""


def test_patterns_are_paths_directories_and_globs() -> None:
    chosen = Selection(patterns=["a/b/", "x*.txt"]).parameters
    assert chosen["from_dirs"] == ["a/b/", "x*.txt/"]
    assert chosen["to_dirs"] == ["a/b0", "x*.txt0"]
    assert chosen["globs"] == [r"^x.*\.txt$"]
    assert Selection(patterns=["*/x*.d[!ab]?"]).parameters["globs"] == [r"^.*/x.*\.d[^ab].$"]
    exact = Selection(patterns=["x*.txt"], exact=True).parameters
    assert (exact["paths"], exact["globs"], exact["from_dirs"]) == (["x*.txt"], [], [])


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "code", "level", "minutes", "next_level"),
    [
        ("success", "", 3, 5, 0),
        ("failed", "", 3, 5, 0),
        ("stalled", "budget_put", 3, 5, 0),
        ("stalled", "delete_guard", 0, 10, 1),
        ("stalled", "delete_guard", 1, 20, 2),
        ("stalled", "root_missing", 30, 24 * 60, 31),
    ],
)
def test_only_protections_back_off(status: str, code: str, level: int, minutes: int, next_level: int) -> None:
    policy: Any = SimpleNamespace(interval_seconds=300, backoff_level=level)
    run: Any = SimpleNamespace(status=status, stall_code=code)
    assert next_sync_at(policy, run, now=NOW) == (NOW + timedelta(minutes=minutes), next_level)


def test_every_class_has_a_cost_somewhere() -> None:
    costs = [cost(action, sides(10, 10), UNPROVEN) for action in Action]
    spent = {request_class for one in costs for request_class, count in one.items() if count}
    assert spent == set(RequestClass) - {RequestClass.LIST}
