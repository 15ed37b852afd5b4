"""An inventory's import, end to end, beside `psql \\copy` of the same rows into a table with the same key."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

from tests.bench.ground import BUCKET, Ground, s3_server
from tests.bench.measure import Cost, run
from tests.bench.results import Measure, Ratio, Report

FIRST, AGAIN = 1.5, 3.0
ANEW, SAME = "delivered anew, nothing changed", "the same delivery again"
TABLE = """
  DROP TABLE IF EXISTS bench_copied;
  CREATE TABLE bench_copied (bucket text, key text COLLATE "C" PRIMARY KEY, size bigint, last_modified timestamptz,
    etag text, storage_class text)
"""


def inventory(ground: Ground, rows: int, files: int, report: Report) -> None:
    """The first import into an empty index, and the same once more."""
    with s3_server(ground) as server:
        where = ["--provider", "minio", "--endpoint", server.endpoint]
        ground.vh("api-key", "create", "inventory", *where)
        place = ["--root", ground.directory("inventory"), "--api-key", "inventory", "--bucket", BUCKET]
        ground.vh("vault", "create", "inventory", "--s3", *place, "--strategy", "sync")
        _imported(ground, rows, files, report)


def _imported(ground: Ground, rows: int, files: int, report: Report) -> None:
    """Each import until the index has it, and to the end of its run, with the manifest in the bucket.

    Last comes the very delivery that was imported, which is not loaded again: its end is all there is of it.
    """
    home = ground.directory("delivery")
    made = [sys.executable, "-m", "tests.support.deliveries", home, "--bucket", BUCKET]
    manifest = Path(run([*made, "--rows", str(rows), "--files", str(files)]).out.strip())
    theirs = _copied(ground, sorted(home.rglob("*.csv.gz")))
    job = f"{rows:,} rows of CSV.gz in {files} {'file' if files == 1 else 'files'}"
    measures = [_measure(f"inventory, {job}", "psql \\copy", theirs, rows)]
    ratios = []
    for name, least in (("first import", FIRST), (ANEW, AGAIN), (SAME, AGAIN)):
        if name == ANEW:
            _as_new(manifest)
        begun = time.time()
        ours = ground.vh("vault", "sync", "inventory", "inventory", "--manifest", manifest, "--json")
        found = json.loads(ours.out)["objects_indexed"]
        if found != rows:
            report.say(f"The {name} indexed {found} of {rows} objects.")
        whole = f"{name}, {job}"
        measures.append(_measure(whole, "vh", ours, rows))
        ends = [(whole, ours.seconds)]
        if name != SAME:
            ends.insert(0, (f"{whole}, in the index", _indexed_at(ground) - begun))
        for what, taken in ends:
            ratios.append(
                Ratio(
                    job=what,
                    ours=f"{rows / taken:,.0f} rows/s",
                    against="psql \\copy",
                    theirs=f"{rows / theirs.seconds:,.0f} rows/s",
                    ratio=theirs.seconds / taken,
                    least=least,
                )
            )
    report.add(measures, ratios)


def _as_new(manifest: Path) -> None:
    """The same rows, in a delivery that began a second later."""
    content = json.loads(manifest.read_bytes())
    content["creationTimestamp"] = str(int(content["creationTimestamp"]) + 1000)
    raw = json.dumps(content).encode()
    manifest.write_bytes(raw)
    manifest.with_name("manifest.checksum").write_text(hashlib.md5(raw, usedforsecurity=False).hexdigest())


def _psql(ground: Ground) -> list[str | Path]:
    status = json.loads(ground.vh("status", "--json").out)["postgresql"]
    return ["psql", status["url"], "-v", "ON_ERROR_STOP=1", "-qAt"]


def _indexed_at(ground: Ground) -> float:
    """When the last import was merged, in seconds since 1970."""
    asked = "SELECT extract(epoch FROM max(indexed_at)) FROM indexing_indexstate"
    return float(run([*_psql(ground), "-c", asked]).out)


def _copied(ground: Ground, files: list[Path]) -> Cost:
    psql = _psql(ground)
    run([*psql, "-c", TABLE])
    named = " ".join(map(str, files))
    cost = run([*psql, "-c", f"\\copy bench_copied FROM PROGRAM 'gunzip -c {named}' CSV"])
    run([*psql, "-c", "DROP TABLE bench_copied"])
    return cost


def _measure(job: str, tool: str, cost: Cost, rows: int) -> Measure:
    return Measure(
        job=job, tool=tool, seconds=cost.seconds, cpu=cost.cpu, rss=cost.rss, rate=rows / cost.seconds, unit="rows/s"
    )
