"""Trees up, down and up again with nothing to do: each tool on a fresh server, the same files for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.ground import Ground, s3_server, same, settle
from tests.bench.measure import CommandFailed, Cost
from tests.bench.results import Measure, Ratio, Report, seconds
from tests.bench.tools import Tool

UP, AGAIN, DOWN = "up", "nothing to do", "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is carried. `amount` in `unit` is what a rate counts; `least` are the targets by tool."""

    name: str
    root: Path
    amount: float
    unit: str
    least: dict[str, float]
    again: bool = False


def measure(ground: Ground, load: Load, tools: Sequence[Tool], report: Report) -> None:
    """All tools; one that fails is named and left out, unless it is ours."""
    for tool in tools:
        try:
            report.add(_trial(ground, load, tool), ())
        except CommandFailed as error:
            if tool.name == "vh":
                raise
            report.say(f"{load.name}: {tool.name} is left out: {error}")
    settle([load.root])
    report.add((), _ratios(load, report.measures))


def _trial(ground: Ground, load: Load, tool: Tool) -> list[Measure]:
    with s3_server(ground) as server:
        tool.prepare(ground, server, load.root)
        settle([])
        measures = [_measured(load, tool, UP, tool.up(load.root))]
        if load.again:
            measures.append(_measured(load, tool, AGAIN, tool.up(load.root)))
        target = ground.directory(f"{load.root.name}-from-{tool.name}")
        try:
            measures.append(_measured(load, tool, DOWN, tool.down(target)))
            same(load.root, target)
        finally:
            settle([target])
    return measures


def _measured(load: Load, tool: Tool, way: str, cost: Cost) -> Measure:
    return Measure(
        job=f"{load.name}, {way}",
        tool=tool.name,
        seconds=cost.seconds,
        cpu=cost.cpu,
        rss=cost.rss,
        rate=None if way == AGAIN else load.amount / cost.seconds,
        unit=load.unit,
        note=tool.note(cost),
    )


def _ratios(load: Load, measures: Sequence[Measure]) -> list[Ratio]:
    ratios = []
    for way in (UP, DOWN, AGAIN):
        of_way = {m.tool: m for m in measures if m.job == f"{load.name}, {way}"}
        ours = of_way.pop("vh", None)
        if ours is not None:
            ratios += [_ratio(ours, theirs, None if way == AGAIN else load.least) for theirs in of_way.values()]
    return ratios


def _ratio(ours: Measure, theirs: Measure, least: dict[str, float] | None) -> Ratio:
    return Ratio(
        job=ours.job,
        ours=seconds(ours.seconds),
        against=theirs.tool,
        theirs=seconds(theirs.seconds),
        ratio=theirs.seconds / ours.seconds,
        least=least.get(theirs.tool) if least else None,
    )
