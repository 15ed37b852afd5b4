"""What was measured, what it is compared with, and the two files that say so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MIB = 2**20
MOST_RSS = 300 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One tool at one job. `seconds` and `cpu` are totals; `rate` is in `unit`, higher is better."""

    job: str
    tool: str
    seconds: float
    cpu: float | None = None
    rss: int | None = None  # bytes of the largest process
    rate: float | None = None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Ours beside another's figure, both as people read them. `ratio` is better the larger it is.

    `least` is the target for it; None where none is set."""

    job: str
    ours: str
    against: str
    theirs: str
    ratio: float
    least: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.least is None else self.ratio >= self.least


@dataclass(slots=True, kw_only=True)
class Report:
    """Everything one run found. `said` are the lines about what could not be measured."""

    machine: dict[str, str]
    measures: list[Measure] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def add(self, measures: Sequence[Measure], ratios: Sequence[Ratio]) -> None:
        self.measures += measures
        self.ratios += ratios
        for measure in measures:
            print("  " + _line(measure), flush=True)

    def say(self, line: str) -> None:
        self.said.append(line)
        print(line, flush=True)

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "bench.json").write_text(json.dumps(self.as_json(), indent=2) + "\n")
        (directory / "bench.md").write_text(self.as_markdown())

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "ratios": [{**asdict(ratio), "met": ratio.met} for ratio in self.ratios],
            "measures": [asdict(measure) for measure in self.measures],
            "said": self.said,
        }

    def as_markdown(self) -> str:
        parts = [
            "# Bench",
            "\n".join(f"- {name}: {value}" for name, value in self.machine.items()),
            "## Ratios\n\nHow many times better `vh` is than what it is compared with; below 1 it is worse.",
            _table(("job", "vh", "against", "its figure", "ratio", "target", "met"), [_cells(r) for r in self.ratios]),
            "## Measured\n\nCPU and memory are those of the tool's own processes, memory that of the largest one; "
            "what PostgreSQL and the S3 server use is not in them.",
            _table(
                ("job", "tool", "wall s", "rate", "CPU s", "max RSS MiB", "note"),
                [_measured(measure) for measure in self.measures],
            ),
            *(["## Not measured\n\n" + "\n".join(f"- {line}" for line in self.said)] if self.said else []),
        ]
        return "\n\n".join(parts) + "\n"


def memory(measures: Sequence[Measure]) -> list[Ratio]:
    """The largest process that vh needed in all these jobs."""
    sizes = [(measure.rss, measure.job) for measure in measures if measure.tool == "vh" and measure.rss]
    if not sizes:
        return []
    rss, job = max(sizes)
    return [
        Ratio(
            job=f"memory ({job})",
            ours=f"{rss / MIB:.0f} MiB",
            against="limit",
            theirs=f"{MOST_RSS // MIB} MiB",
            ratio=MOST_RSS / rss,
            least=1,
        )
    ]


def seconds(value: float) -> str:
    return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"


def _cells(ratio: Ratio) -> tuple[str, ...]:
    target = "" if ratio.least is None else f"≥ {ratio.least:.2g}"
    met = {None: "", True: "yes", False: "**no**"}[ratio.met]
    return ratio.job, ratio.ours, ratio.against, ratio.theirs, f"{ratio.ratio:.2f}", target, met


def _measured(measure: Measure) -> tuple[str, ...]:
    rate = "" if measure.rate is None else f"{_round(measure.rate)} {measure.unit}"
    cpu = "" if measure.cpu is None else f"{measure.cpu:.2f}"
    rss = "" if measure.rss is None else f"{measure.rss / MIB:.0f}"
    return measure.job, measure.tool, f"{measure.seconds:.3f}", rate, cpu, rss, measure.note


def _round(rate: float) -> str:
    return f"{rate:,.0f}".replace(",", " ") if rate >= 100 else f"{rate:.1f}"


def _line(measure: Measure) -> str:
    job, tool, wall, rate, cpu, rss, note = _measured(measure)
    return f"{job:42} {tool:8} {wall:>9} s  {rate:18} CPU {cpu or '-':>6} s  {rss or '-':>4} MiB  {note}".rstrip()


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
