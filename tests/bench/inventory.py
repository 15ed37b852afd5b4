"""An inventory's import, end to end, beside `psql \\copy` of the same rows into a table with the same key."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.bench.ground import Ground
from tests.bench.measure import Cost, run
from tests.bench.parts import unreachable_vault
from tests.bench.results import Measure, Ratio, Report

FIRST, AGAIN = 1.5, 3.0
TABLE = """
  DROP TABLE IF EXISTS bench_copied;
  CREATE TABLE bench_copied (bucket text, key text COLLATE "C" PRIMARY KEY, size bigint, last_modified timestamptz,
    etag text, storage_class text)
"""


def inventory(ground: Ground, rows: int, files: int, report: Report) -> None:
    """The first import into an empty index, and the same once more."""
    unreachable_vault(ground, "inventory")
    home = ground.directory("delivery")
    made = [sys.executable, "-m", "tests.support.deliveries", home, "--bucket", "inventory"]
    manifest = Path(run([*made, "--rows", str(rows), "--files", str(files)]).out.strip())
    theirs = _copied(ground, sorted(home.rglob("*.csv.gz")))
    job = f"{rows:,} rows of CSV.gz in {files} {'file' if files == 1 else 'files'}"
    measures = [_measure(f"inventory, {job}", "psql \\copy", theirs, rows)]
    ratios = []
    for name, least in (("first import", FIRST), ("again, nothing changed", AGAIN)):
        ours = ground.vh("vault", "sync", "inventory", "inventory", "--manifest", manifest, "--json")
        found = json.loads(ours.out)["objects_indexed"]
        if found != rows:
            report.say(f"The {name} indexed {found} of {rows} objects.")
        whole = f"{name}, {job}"
        measures.append(_measure(whole, "vh", ours, rows))
        ratios.append(
            Ratio(
                job=whole,
                ours=f"{rows / ours.seconds:,.0f} rows/s",
                against="psql \\copy",
                theirs=f"{rows / theirs.seconds:,.0f} rows/s",
                ratio=theirs.seconds / ours.seconds,
                least=least,
            )
        )
    report.add(measures, ratios)


def _copied(ground: Ground, files: list[Path]) -> Cost:
    status = json.loads(ground.vh("status", "--json").out)["postgresql"]
    psql = ["psql", status["url"], "-v", "ON_ERROR_STOP=1", "-q"]
    run([*psql, "-c", TABLE])
    named = " ".join(map(str, files))
    cost = run([*psql, "-c", f"\\copy bench_copied FROM PROGRAM 'gunzip -c {named}' CSV"])
    run([*psql, "-c", "DROP TABLE bench_copied"])
    return cost


def _measure(job: str, tool: str, cost: Cost, rows: int) -> Measure:
    return Measure(
        job=job, tool=tool, seconds=cost.seconds, cpu=cost.cpu, rss=cost.rss, rate=rows / cost.seconds, unit="rows/s"
    )
