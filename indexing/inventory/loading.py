"""The chunks of an import that load rows: each file (or some row groups of it) once, into a table of its own.

A lease loads into a table that only it knows; the commit that ends the chunk names it. So a chunk that died begins
again with an empty one, and what is done is never done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from indexing.ahead import ahead
from indexing.inputs import damaged
from indexing.inventory import sql
from indexing.inventory.delivery import DataFile, Delivery, is_columnar, unpacked_pieces, verify
from indexing.inventory.remote import Remote, is_here
from indexing.inventory.rows import Scope, Tally
from indexing.inventory.schema import schema_of
from vaulthalla.errors import Refused
from vaulthalla.vaults.models import ApiKey
from vaulthalla.work import lease as leases
from vaulthalla.work import process
from vaulthalla.work.engine import Lease, NewChunk, Phase, Yield, handler
from vaulthalla.work.models import Queue

KIND = "inventory.load"
# A file of more row groups than this makes is shared by several processes.
ROWS_A_CHUNK = 1_000_000
# Each chunk has a table, and all of them are read by one statement.
MOST_CHUNKS = 250
UNIT = 1024
# A process of this host may be another user's: it passes the file on, so often.
MOST_PASSES = 6
PASS_SECONDS = 0.5


def load_chunks(delivery: Delivery, *, common: Mapping[str, Any]) -> list[NewChunk]:
    """What loads a delivery: local files by a process of this host, others by any."""
    parts = [part for file in delivery.files for part in _parts(file)]
    step = -(-len(parts) // MOST_CHUNKS) or 1
    return [_chunk(parts[start : start + step], common) for start in range(0, len(parts), step)]


def _chunk(parts: Sequence[dict[str, Any]], shared: Mapping[str, Any]) -> NewChunk:
    pool = process.host_pool() if any(part["file"]["path"] for part in parts) else ""
    items = sum(part["bytes"] // UNIT for part in parts)
    return NewChunk(KIND, Phase.SCAN, Queue.INDEX, payload={**shared, "parts": list(parts)}, pool=pool, items=items)


def _parts(file: DataFile) -> Iterator[dict[str, Any]]:
    """The whole file, or its row groups in lots. Raises Refused for a local file that is damaged."""
    lots = [(0, None)] if not file.path or not is_columnar(Path(file.path)) else _lots(file)
    for first, last in lots:
        yield {"file": file.as_json(), "first": first, "last": last, "bytes": file.size // len(lots)}


def _lots(file: DataFile) -> list[tuple[int, int | None]]:
    from indexing.inventory import columns

    lots: list[tuple[int, int | None]] = []
    first = rows = 0
    with columns.opened(Path(file.path), file.name) as groups:
        for number, count in enumerate(groups.rows, 1):
            rows += count
            if rows >= ROWS_A_CHUNK:
                lots.append((first, number))
                first, rows = number, 0
        lots = [*lots, (first, None)] if rows or not lots else lots
        if len(lots) > 1 and not groups.exact:
            groups.count()
    return lots


@handler(KIND)
def load(lease: Lease) -> Yield | None:
    """Raises Refused for what is wrong with a file as a whole."""
    files = [DataFile(**part["file"]) for part in lease.payload["parts"]]
    passed = (lease.cursor or {}).get("passed", 0)
    missing = [file for file in files if file.path and not is_here(file)]
    if missing and passed < MOST_PASSES:
        return Yield({"passed": passed + 1}, delay=PASS_SECONDS)
    if missing:
        raise Refused(f"{missing[0].name} cannot be read.", code="input_missing", remedy="Name a readable file.")
    return _Loader(lease).run()


class _Ended(Exception):
    """This process was asked to end: the chunk begins again elsewhere."""


class _Loader:
    """One lease's load."""

    def __init__(self, lease: Lease) -> None:
        self.lease, self.payload = lease, lease.payload
        self.scope = Scope(**self.payload["scope"])
        self.tally = Tally()
        self.md5s: list[str] = []
        self.table = sql.stage(lease.run_id, lease.token)
        self.told = 0

    def run(self) -> Yield | None:
        try:
            for part in self.payload["parts"]:
                self._part(part)
        except _Ended:
            sql.drop(self.table)
            return Yield(None)
        loaded = self.tally.rows - self.tally.skipped.total() - self.tally.bad.total()
        with self.lease.commit() as checkpoint:
            told = {"loaded": loaded, "tally": self.tally.as_json(), "md5s": self.md5s}
            checkpoint.cursor = {"table": self.table, **told}
        return None

    def _part(self, part: Mapping[str, Any]) -> None:
        file = DataFile(**part["file"])
        before = self.told
        with ExitStack() as stack:
            path = stack.enter_context(self._body(file))
            if is_columnar(path):
                self._columnar(path, file, part)
            else:
                self._csv(path, file)
        self._progress(before + part["bytes"] // UNIT)

    @contextmanager
    def _body(self, file: DataFile) -> Iterator[Path]:
        if file.path:
            path = Path(file.path)
            if path.stat().st_size != file.size:
                raise damaged(file.name, "", f"{path.stat().st_size} bytes, not {file.size} any more")
            yield path
            return
        remote = Remote(self.lease, ApiKey.objects.get(pk=self.payload["api_key"]), file.bucket)
        with remote.fetched(file) as path:
            yield path

    def _csv(self, path: Path, file: DataFile) -> None:
        from indexing.inventory.csvs import Csv

        names = self.payload["columns"]
        source = Csv(
            name=file.name,
            scope=self.scope,
            tally=self.tally,
            schema=schema_of(names, origin=file.name) if names else None,
            has_header=self.payload["has_header"],
        )
        before, read = self.told, [0]
        pieces = unpacked_pieces(path, file, partial(read.__setitem__, 0), self.md5s.append)
        with closing(ahead(pieces)) as ready:
            self._load(source.tables(ready), lambda: before + read[0] // UNIT)

    def _columnar(self, path: Path, file: DataFile, part: Mapping[str, Any]) -> None:
        from indexing.inventory import columns

        if part["first"] == 0:
            self.md5s.append(verify(path, file, self.lease.keep))
        with columns.opened(path, file.name) as groups:
            source = columns.Columnar(
                groups=groups, scope=self.scope, tally=self.tally, names=self.payload["columns"] or None
            )
            self._load(source.tables(part["first"], part["last"]), lambda: self.told)

    def _load(self, tables: Iterator[Any], done: Callable[[], int]) -> None:
        """A sorted run at a time, one being sorted while the rows of the next one are read."""
        from indexing.inventory import runs

        with closing(ahead(runs.sorted_runs(ahead(tables)))) as sorted_runs:
            for run in sorted_runs:
                if run:
                    sql.load(self.table, run)
                self._progress(done())
                self.lease.keep()
                if leases.shutdown.is_set():
                    raise _Ended

    def _progress(self, done: int) -> None:
        if done > self.told:
            with self.lease.commit(items_done=done - self.told):
                self.told = done
