"""The parts of a sync by themselves: planning, scanning, a page of a listing, and how soon a command answers."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.bench.ground import Ground, settle, small_files
from tests.bench.measure import Cost, run
from tests.bench.results import Measure, Ratio, Report, seconds

PLAN_SECONDS = 3
PAGE_CPU_MS = 10
LATE_SECONDS = 0.05
HELP_SECONDS = 0.2
INFO_SECONDS = 1
REPEATS = 5


def plan(ground: Ground, rows: int, report: Report) -> None:
    """Tables of `rows` local and as many indexed rows; one in 100 000 changed."""
    unreachable_vault(ground, "plan")
    found, cost = ground.inside("planner", "plan", rows)
    job = f"plan, {rows:,} by {rows:,} rows"
    taken = found["differing"] + found["unhashed"]
    note = f"differing {found['differing']:.3f} s ({found['paths']} paths), unhashed {found['unhashed']:.3f} s"
    report.add(
        [Measure(job=job, tool="vh", seconds=taken, rss=cost.rss, note=note)], [_at_most(job, taken, PLAN_SECONDS)]
    )


def scan(ground: Ground, files: int, report: Report) -> None:
    """A tree of empty files, 100 to a directory, known already; beside find, both with a warm cache."""
    root, replica = ground.directory("scan"), ground.directory("replica")
    small_files(root, files, size=0)
    settle([])
    ground.vh("vault", "create", "scan", "--local", "--root", root, "--replica", replica)
    job = f"scan, {files:,} files, nothing changed"
    find = [run(["find", root, "-printf", "%s %T@"], quiet_out=True) for _ in range(3)]
    found, cost = ground.inside("scanning", "scan", files)
    settle([root])
    theirs = min(find, key=lambda taken: taken.seconds)
    ours = Measure(
        job=job, tool="vh", seconds=found["again"], rss=cost.rss, note=f"the first scan took {found['first']:.2f} s"
    )
    ratio = theirs.seconds / ours.seconds
    report.add(
        [ours, Measure(job=job, tool="find", seconds=theirs.seconds, cpu=theirs.cpu, rss=theirs.rss)],
        [
            Ratio(
                job=job,
                ours=seconds(ours.seconds),
                against="find -printf",
                theirs=seconds(theirs.seconds),
                ratio=ratio,
                least=1 / 3,
            )
        ],
    )


def listing(ground: Ground, pages: int, report: Report) -> None:
    """CPU of the client alone; the pages come from a process of their own."""
    job = f"LIST, {pages} pages of 1 000"
    with _page_server(pages) as endpoint:
        costs = {who: ground.inside("listing", who, endpoint, pages) for who in ("vh", "boto3")}
    per_page = {who: 1000 * found["cpu"] / pages for who, (found, _) in costs.items()}
    measures = [
        Measure(
            job=job,
            tool=who,
            seconds=found["seconds"],
            cpu=found["cpu"],
            rss=cost.rss,
            rate=pages / found["cpu"],
            unit="pages/CPU s",
            note=f"{per_page[who]:.1f} ms CPU a page",
        )
        for who, (found, cost) in costs.items()
    ]
    report.add(
        measures,
        [
            _cpu_ratio(job, per_page["vh"], "boto3 paginator", per_page["boto3"], None),
            _cpu_ratio(job, per_page["vh"], "limit", PAGE_CPU_MS, 1),
        ],
    )


def ranges(ground: Ground, pages: int, report: Report) -> None:
    """A known bucket listed again, each answer LATE_SECONDS late: a budget without room for ranges against leave."""
    job = f"reconcile, {pages} pages, {LATE_SECONDS * 1000:.0f} ms an answer"
    with _page_server(pages, LATE_SECONDS) as endpoint:
        where = ["--provider", "minio", "--endpoint", endpoint, "--no-verify"]
        ground.vh("api-key", "create", "ranges", *where)
        place = ["--root", ground.directory("ranges"), "--api-key", "ranges", "--bucket", "bench"]
        ground.vh("vault", "create", "ranges", "--s3", *place, "--no-verify", "--s3-budget-list", str(pages))
        leave = ["vault", "sync", "reconcile", "ranges", "--allow-list-scan"]
        ground.vh(*leave)
        one, several = ground.vh("vault", "sync", "reconcile", "ranges"), ground.vh(*leave)
        # What a command takes to start, and to count the rows at the end, is the same for both.
        start = ground.vh("vault", "sync", "reconcile", "ranges", "--prefix", "none")
    taken = {name: cost.seconds - start.seconds for name, cost in (("one range", one), ("8 ranges", several))}
    measures = [
        Measure(job=job, tool=name, seconds=taken[name], cpu=cost.cpu, rss=cost.rss)
        for name, cost in (("one range", one), ("8 ranges", several))
    ]
    per_page = 1000 * (several.cpu - start.cpu) / pages
    faster = Ratio(
        job=job,
        ours=seconds(taken["8 ranges"]),
        against="one range",
        theirs=seconds(taken["one range"]),
        ratio=taken["one range"] / taken["8 ranges"],
        least=6,
    )
    report.add(measures, [faster, _cpu_ratio(job, per_page, "limit", PAGE_CPU_MS, 1)])


def answers(ground: Ground, report: Report) -> None:
    """Whole commands, as a shell sees them, on warm embedded servers."""
    unreachable_vault(ground, "answers")
    _answer("vh --help", HELP_SECONDS, lambda: ground.vh("--help"), report)
    info = lambda: ground.vh("vault", "sync", "info", "answers")  # noqa: E731
    _answer("vh vault sync info", INFO_SECONDS, info, report)


def _answer(job: str, limit: float, command: Callable[[], Cost], report: Report) -> None:
    command()
    costs = [command() for _ in range(REPEATS)]
    median = statistics.median(cost.seconds for cost in costs)
    cpu = statistics.median(cost.cpu for cost in costs)
    measure = Measure(
        job=job, tool="vh", seconds=median, cpu=cpu, rss=max(cost.rss for cost in costs), note=f"median of {REPEATS}"
    )
    report.add([measure], [_at_most(job, median, limit)])


def _at_most(job: str, taken: float, limit: float) -> Ratio:
    return Ratio(job=job, ours=seconds(taken), against="limit", theirs=f"{limit:g} s", ratio=limit / taken, least=1)


def _cpu_ratio(job: str, ours: float, against: str, theirs: float, least: float | None) -> Ratio:
    return Ratio(
        job=f"{job}, CPU a page",
        ours=f"{ours:.1f} ms",
        against=against,
        theirs=f"{theirs:.1f} ms",
        ratio=theirs / ours,
        least=least,
    )


def unreachable_vault(ground: Ground, name: str) -> None:
    """A vault that is declared and never spoken to."""
    endpoint = ["--provider", "other", "--endpoint", "http://127.0.0.1:9", "--no-verify"]
    ground.vh("api-key", "create", name, *endpoint)
    where = ["--root", ground.directory(name), "--api-key", name, "--bucket", name]
    ground.vh("vault", "create", name, "--s3", *where, "--strategy", "sync", "--no-verify")


@contextmanager
def _page_server(pages: int, late: float = 0) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.bench.pages", str(pages), str(late)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["endpoint"]
        finally:
            process.terminate()
