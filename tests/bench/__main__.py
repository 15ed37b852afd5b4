"""python -m tests.bench [--objects N] [--large MIB] [--rows N] [--scan N] [--pages N] [--inventory N] [--files N]
    [--only JOB …]

Writes bench-out/bench.md and bench-out/bench.json. Ends with 1 where vh failed at a job. A target that is missed
is shown, not an error: figures taken on a busy machine prove nothing either way. Everything else that is made is
removed, also on an interrupt.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from tests.bench import parts, transfers
from tests.bench.ground import Ground, large_file, prepared, small_files
from tests.bench.inventory import inventory
from tests.bench.measure import CommandFailed
from tests.bench.results import MIB, Report, memory
from tests.bench.tools import Aws, Rclone, Tool, Vh, versions

OUT = Path("bench-out")


def main() -> None:
    signal.signal(signal.SIGTERM, _end)
    wanted = arguments()
    others = versions()
    report = Report(machine=machine(others))
    failed = False
    # Ours goes last: its marker in the source is nothing that the others should carry.
    tools: list[Tool] = [tool for tool in (Aws(), Rclone()) if tool.name in others]
    for name in {"aws", "rclone"} - set(others):
        report.say(f"{name} is skipped: it does not run from .bench-venv; `make bench` builds that.")
    with prepared(wanted.scratch) as ground:
        for name, job in jobs(wanted, [*tools, Vh()]).items():
            if not wanted.only or name in wanted.only:
                print(f"{name}:", flush=True)
                failed |= not attempt(name, job, ground, report)
    report.add((), memory(report.measures))
    report.machine["load at the end"] = _load()
    report.write(OUT)
    print(f"\n{report.as_markdown()}\nWritten to {OUT}/.")
    sys.exit(failed)


def attempt(name: str, job: Callable[[Ground, Report], None], ground: Ground, report: Report) -> bool:
    """Whether the job could be measured. What failed is told, and keeps no other job from being measured."""
    try:
        job(ground, report)
    except CommandFailed as error:
        report.say(f"{name} failed: {error}")
        return False
    finally:
        report.write(OUT)
    return True


def jobs(wanted: argparse.Namespace, tools: list[Tool]) -> dict[str, Callable[[Ground, Report], None]]:
    def small(ground: Ground, report: Report) -> None:
        root = ground.directory("small")
        small_files(root, wanted.objects)
        load = transfers.Load(
            name=f"{wanted.objects:,} objects of 4 KiB",
            root=root,
            amount=wanted.objects,
            unit="objects/s",
            least={"rclone": 1, "aws": 2},
            again=True,
        )
        transfers.measure(ground, load, tools, report)

    def large(ground: Ground, report: Report) -> None:
        root = ground.directory("large")
        large_file(root, wanted.large * MIB)
        load = transfers.Load(
            name=f"one object of {wanted.large} MiB",
            root=root,
            amount=wanted.large,
            unit="MiB/s",
            least={"rclone": 1, "aws": 1},
        )
        transfers.measure(ground, load, tools, report)

    return {
        "answers": parts.answers,
        "listing": lambda ground, report: parts.listing(ground, wanted.pages, report),
        "ranges": lambda ground, report: parts.ranges(ground, wanted.pages, report),
        "small": small,
        "large": large,
        "plan": lambda ground, report: parts.plan(ground, wanted.rows, report),
        "scan": lambda ground, report: parts.scan(ground, wanted.scan, report),
        "inventory": lambda ground, report: inventory(ground, wanted.inventory, wanted.files, report),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure vh beside rclone and aws.")
    parser.add_argument("--objects", type=int, default=5000, metavar="N", help="small objects (5000)")
    parser.add_argument("--large", type=int, default=512, metavar="MIB", help="size of the large object (512)")
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="rows on either side (1000000)")
    parser.add_argument("--scan", type=int, default=1_000_000, metavar="N", help="files to scan (1000000)")
    parser.add_argument("--pages", type=int, default=100, metavar="N", help="pages of a listing (100)")
    parser.add_argument("--inventory", type=int, default=2_000_000, metavar="N", help="rows of a delivery (2000000)")
    parser.add_argument("--files", type=int, default=1, metavar="N", help="files of that delivery (1)")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where to make, and remove, everything")
    names = ("answers", "listing", "ranges", "small", "large", "plan", "scan", "inventory")
    parser.add_argument("--only", nargs="+", choices=names, metavar="JOB", help=f"of {', '.join(names)}")
    return parser.parse_args()


def machine(others: dict[str, str]) -> dict[str, str]:
    return {
        "taken": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        **others,
        "load at the start": _load(),
    }


def _load() -> str:
    return " ".join(f"{average:.1f}" for average in os.getloadavg())


def _end(number: int, frame: FrameType | None) -> None:
    """Ends like Ctrl-C does, so that what was made is removed."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
