"""One vault in one process: the product itself between a real directory and a model store.

Everything that happens follows from a seed: what is edited on either side and when, which requests fail before or
after the store acted, where the process dies, when another worker takes a chunk over. `Steps` are the moments at
which that may happen: before and after every request, commit, rename and removal.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

import budgets.access
import sync.costs
from budgets.access import ChunkMeter, limits, lost, spent
from indexing.models import RemoteObject
from indexing.reconcile import reconcile_chunks
from sync import executor, hash_phase, large, perform, planner, scan, transfers
from sync.models import Conflict, ConflictStatus
from sync.options import SyncOptions
from sync.root import plant_marker
from sync.start import start
from sync.tree import Tree
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import StoreUnavailable
from vaulthalla.stores.memory import MemoryBucket, MemoryStore
from vaulthalla.vaults.models import ApiKey, SyncPolicy, Vault, VaultKind
from vaulthalla.work import execute
from vaulthalla.work.engine import attach_or_create, drive
from vaulthalla.work.lease import Lease
from vaulthalla.work.models import TERMINAL, Chunk, ChunkStatus, Run, RunKind, RunStatus

SMALL, LARGE, PART, RENAMED = 40, 4_096, 1_500, 64
CONTROL = ".vaulthalla"
# A run of this size takes some hundreds.
MOST_STEPS = 5_000
CONDITIONS = ("conditional_put", "conditional_copy", "conditional_delete", "conditional_complete")


class Crash(BaseException):
    """The process is dead from here on: nothing is cleaned up, recorded or sent any more."""


@dataclass(slots=True)
class Dead:
    """Whether the process at hand died; the next one begins alive."""

    is_dead: bool = False


@dataclass(kw_only=True)
class Chance:
    """How likely each kind of trouble is at each step of a run, and how much of it there may be."""

    edit: float = 0.0
    fault: float = 0.0
    crash: float = 0.0
    takeover: float = 0.0
    most_crashes: int = 3  # a chunk that kills its process 5 times is poison, which is another test
    most_takeovers: int = 1


@dataclass(kw_only=True)
class World:
    """The vault, both its sides, and what must have become of every content that was ever written."""

    seed: int
    root: Path
    strategy: str
    conflict: str
    proven: bool
    patch: pytest.MonkeyPatch
    paths: tuple[str, ...] = ("a", "b", "d/e", "d/f", "d/g/h", "z é☃")
    random: random.Random = field(init=False)
    bucket: MemoryBucket = field(init=False)
    vault: Vault = field(init=False)
    log: list[str] = field(default_factory=list)
    unforeseen: list[BaseException] = field(default_factory=list)
    released: set[bytes] = field(default_factory=set)
    written: dict[bytes, str] = field(default_factory=dict)
    seen: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    killed: bool = False

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.numbers = itertools.count(1)
        self.dead = Dead()
        self.chance = Chance()
        self.later_ns = 0
        self.crashes = self.takeovers = self.steps = 0
        self.quiet = threading.local()
        self.now = datetime.now(UTC) - timedelta(hours=20)
        self.mtime_ns = 1_600_000_000_000_000_000
        self.bucket = MemoryBucket(self._clock)
        self.root.mkdir()
        key = ApiKey.objects.create(name=uuid4().hex, provider="aws", secret="secret")
        self.vault = Vault.objects.create(
            name=uuid4().hex,
            kind=VaultKind.S3,
            root=str(self.root),
            marker=uuid4(),
            api_key=key,
            bucket=uuid4().hex,
            # Said of each: what is not said is what the provider promises.
            capabilities=dict.fromkeys(CONDITIONS, self.proven),
        )
        SyncPolicy.objects.create(
            vault=self.vault,
            strategy=self.strategy,
            conflict_policy=self.conflict,
            max_remote_index_age_seconds=None,
            max_delete="unlimited",
        )
        plant_marker(str(self.root), self.vault.marker)
        self._patch()

    def _clock(self) -> datetime:
        """Store time: often the same second, sometimes minutes later, never this host's."""
        self.now += timedelta(seconds=self.random.choice((0, 0, 1, 1, 3, 120)))
        return self.now

    # --- what a seed decides

    def step(self, name: str, lease: Lease | None = None) -> None:
        """A moment at which something may happen."""
        if getattr(self.quiet, "on", False):
            return
        if self.dead.is_dead:
            raise Crash
        self.steps += 1
        assert self.steps < MOST_STEPS, f"a run goes on for ever: {name}"
        if self.random.random() < self.chance.edit:
            self.edit(f"at {name}")
        if self.crashes < self.chance.most_crashes and self.random.random() < self.chance.crash:
            self.crashes += 1
            self.killed = self.dead.is_dead = True
            self.log.append(f"crash {name}")
            raise Crash
        may_take_over = lease is not None and self.takeovers < self.chance.most_takeovers
        if may_take_over and self.random.random() < self.chance.takeover:
            assert lease is not None
            self.takeovers += 1
            self._take_over(lease, name)

    def fault(self, name: str) -> None:
        if not getattr(self.quiet, "on", False) and self.random.random() < self.chance.fault:
            self.log.append(f"fault {name}")
            raise StoreUnavailable(f"injected {name}")

    def _take_over(self, lease: Lease, name: str) -> None:
        """This process sleeps for so long that another one does all its work; then it wakes up and goes on."""
        self.killed = True
        self.log.append(f"takeover {name}")
        failures: list[BaseException] = []

        def other() -> None:
            self.quiet.on = True
            try:
                lapse()
                drive(lease.run_id)
            except BaseException as error:  # told by the main thread
                failures.append(error)
            finally:
                connection.close()

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60)
        assert not thread.is_alive(), "the other worker waits for this one"
        lease.over()
        if failures:
            raise failures[0]

    # --- edits

    def edit(self, when: str = "", side: str = "") -> None:
        """A user's edit on either side."""
        side = side or self.random.choice(("local", "remote"))
        path = self.random.choice(self.paths)
        kind = self.random.choices(("write", "rewrite", "delete", "rename", "touch", "same"), (5, 3, 3, 2, 1, 1))[0]
        self.log.append(f"{kind} {side} {path} {when}")
        getattr(self, f"_{kind}")(side, path)

    def _write(self, side: str, path: str, body: bytes | None = None) -> None:
        self._release(side, path)
        body = self._new() if body is None else body
        # Back again, perhaps: whoever writes a content wants it.
        self.released.discard(body)
        self.written.setdefault(body, side)
        if side == "remote":
            self.bucket.write(path, body)
            return
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.parent / ".saving"
        beside.write_bytes(body)
        self._stamp(beside)
        os.replace(beside, target)

    def _rewrite(self, side: str, path: str) -> None:
        """In place, as an editor that keeps the file."""
        target = self.root / path
        if side == "remote" or not target.exists():
            self._write(side, path)
            return
        self._release(side, path)
        body = self._new()
        self.written.setdefault(body, side)
        with target.open("r+b") as file:
            file.write(body)
            file.truncate()
        self._stamp(target)

    def _delete(self, side: str, path: str) -> None:
        self._release(side, path)
        if side == "remote":
            self.bucket.remove(path)
        else:
            (self.root / path).unlink(missing_ok=True)

    def _rename(self, side: str, path: str) -> None:
        body = self._content(side, path)
        target = self.random.choice(self.paths)
        if body is None or target == path:
            return
        self._release(side, target)
        if side == "remote":
            self.bucket.write(target, body)
            self.bucket.remove(path)
            return
        (self.root / target).parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.root / path, self.root / target)

    def _touch(self, side: str, path: str) -> None:
        if side == "local" and (self.root / path).exists():
            self._stamp(self.root / path)

    def _same(self, side: str, path: str) -> None:
        """Both sides get the same content, by hand."""
        body = self._new()
        self._write("local", path, body)
        self._write("remote", path, body)

    def _new(self) -> bytes:
        size = self.random.choice((0, SMALL, SMALL, SMALL, RENAMED * 2, RENAMED * 2, LARGE * 2))
        return f"{self.seed}/{next(self.numbers)} ".encode().ljust(size, b".") if size else b""

    def _stamp(self, path: Path) -> None:
        """Clocks of editors do not agree, but no two saves of a file are at the same nanosecond."""
        self.mtime_ns += self.random.randrange(1, 10**12)
        os.utime(path, ns=(self.mtime_ns, self.mtime_ns))

    def _content(self, side: str, path: str) -> bytes | None:
        if side == "remote":
            stored = self.bucket.objects.get(path)
            return stored.body if stored else None
        target = self.root / path
        return target.read_bytes() if target.exists() else None

    def _release(self, side: str, path: str) -> None:
        """Who overwrites or deletes a content had it in front of them."""
        body = self._content(side, path)
        if body is not None:
            self.released.add(body)

    # --- syncs

    def sync(self, chance: Chance | None = None, *, reconcile: bool = True) -> Run:
        """One run to its end, by as many processes as it takes."""
        self.chance, self.crashes, self.takeovers, self.steps = chance or Chance(), 0, 0, 0
        # Files saved within the tick of a scan are looked at again; most scans are long after all edits.
        self.later_ns = 10**10 if chance is None or self.random.random() < 0.7 else 0
        if reconcile:
            self._drive(lambda: attach_or_create(self.vault, RunKind.RECONCILE, chunks=reconcile_chunks(self.vault)))
        options = SyncOptions(allow_deletes=True)
        run = self._drive(lambda: start(Vault.objects.get(pk=self.vault.pk), RunKind.SYNC, options))
        self.chance = Chance()
        self.log.append(f"sync {run.pk} {run.status} {run.stall_code}{run.error_code} {self.operations(run)}")
        return run

    def _drive(self, begin: Callable[[], Run]) -> Run:
        run: Run | None = None
        while run is None or run.status not in TERMINAL:
            self.dead.is_dead = False
            try:
                run = run or begin()
                run = drive(run.pk)
            except Crash:
                connection.close()
                lapse()
        self.check_budget(run)
        return run

    def limit(self, **limits: int | None) -> None:
        """What each of the following syncs may spend, by class; without arguments the default again."""
        policy = SyncPolicy.objects.get(vault=self.vault)
        for name in RequestClass:
            default = SyncPolicy._meta.get_field(f"budget_{name.field}").default
            setattr(policy, f"budget_{name.field}", limits.get(name.field, default))
        policy.save()
        self.log.append(f"limits {limits}")

    @staticmethod
    def operations(run: Run) -> dict[str, int]:
        return {name: count for name, count in run.result.get("operations", {}).items() if count}

    # --- what must hold

    def settles(self) -> None:
        """Undisturbed syncs reach a state in which the next one does nothing."""
        for _ in range(6):
            run = self.sync()
            if run.status == RunStatus.SUCCESS and not self._work(run):
                break
        else:
            raise AssertionError("it does not settle")
        again = self.sync()
        assert (again.status, self._work(again)) == (RunStatus.SUCCESS, {}), self._work(again)
        # A look at the manifest, and a root that says how young the index is, where the store's clock went on.
        heads = 0 if planner.capabilities(self.vault).conditional_put else 1
        quiet = {RequestClass.GET: 1, RequestClass.PUT: 1, RequestClass.HEAD: heads}
        assert +spent(again.pk) in (+Requests(quiet), +Requests({RequestClass.GET: 1})), spent(again.pk)
        self.check()

    @staticmethod
    def _work(run: Run) -> dict[str, int]:
        standing = ("index_only", "foreign", "conflict", "archive_skipped", "path_skipped")
        return {name: count for name, count in World.operations(run).items() if name not in standing}

    def check(self) -> None:
        assert not self.unforeseen, self.unforeseen
        self.check_sides()
        self.check_index()
        self.check_nothing_lost()
        self.check_ledger()
        stages = list(self.root.rglob(".vaulthalla-*"))
        assert not stages, stages

    def check_sides(self) -> None:
        files, objects = self.files(), {key: stored.body for key, stored in self.objects().items()}
        waiting = set(
            Conflict.objects.filter(vault=self.vault, status=ConflictStatus.OPEN).values_list("path", flat=True)
        )
        assert not waiting or self.conflict in ("ask", "keep_newest"), waiting
        differing = {path for path in {*files, *objects} if files.get(path) != objects.get(path)} - waiting
        match self.strategy:
            case "sync":
                assert not differing, differing
            case "cache":
                assert not differing & set(files), differing & set(files)
            case "mirror":
                left_alone = set() if self.conflict not in ("keep_remote", "keep_newest") else set(objects)
                assert not (differing & set(files)) - left_alone

    def objects(self) -> dict[str, Any]:
        """Users' objects."""
        return {key: stored for key, stored in self.bucket.objects.items() if not key.startswith(f"{CONTROL}/")}

    def check_index(self) -> None:
        known = RemoteObject.objects.filter(vault=self.vault, tombstone=False).values_list("key", "etag")
        assert dict(known) == {key: stored.etag for key, stored in self.objects().items()}

    def check_nothing_lost(self) -> None:
        kept = set(self.files().values()) | {stored.body for stored in self.bucket.objects.values()}
        kept |= {path.read_bytes() for path in (self.root / CONTROL / "trash").rglob("*") if path.is_file()}
        wanted = {body for body in self.written if body and body not in self.released}
        if self.conflict not in ("ask", "keep_both"):
            # The policy lets one side go; what a run removes here is in the trash all the same.
            wanted = {body for body in wanted if self.written[body] == "local"}
        assert wanted <= kept, {body[:20]: self.written[body] for body in wanted - kept}

    def check_ledger(self) -> None:
        counted, away = Requests(), Requests()
        for run in Run.objects.filter(vault=self.vault):
            counted.update(spent(run.pk))
            away.update(lost(run.pk))
        for name in RequestClass:
            seen = self.bucket.seen[name]
            assert counted[name] <= seen <= counted[name] + away[name], (name, counted, seen, away)
            if not self.killed:
                assert seen == counted[name]

    def check_budget(self, run: Run) -> None:
        """The limit held on the wire, not only in the books."""
        for name, limit in limits(run.pk).items():
            assert limit is None or self.seen[run.pk][name] <= limit, (name, limit, self.seen[run.pk])

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.root.rglob("*") if path.is_file())
        named = {path.relative_to(self.root).as_posix(): path for path in found}
        return {name: path.read_bytes() for name, path in named.items() if not name.startswith(f"{CONTROL}/")}

    # --- the seams

    def _patch(self) -> None:
        """Steps around the product's own code; sizes at which small bodies are large ones; one thread at a time."""
        patch = self.patch
        patch.setattr(budgets.access, "_bucket", lambda vault, meter: SteppingStore(self, meter))
        _wrap(patch, Lease, "transaction", self._around_transaction)
        _wrap(patch, ChunkMeter, "attempt", self._around_attempt)
        for name in ("publish", "remove"):
            _wrap(patch, Tree, name, self._around_file(name))
        _wrap(patch, Tree, "discard", self._unless_dead)
        _wrap(patch, execute, "_record_through_outages", self._unless_dead)
        _wrap(patch, execute, "_crashed", self._note)
        patch.setattr(execute, "FIRST_BACKOFF", 0.01)
        for module, names in (
            (executor, {"THREADS": 1, "QUEUED": 1, "RANGES_FROM": LARGE, "COMMIT_SECONDS": 3600.0}),
            (perform, {"MULTIPART_FROM": LARGE, "RANGES_FROM": LARGE}),
            (sync.costs, {"MULTIPART_FROM": LARGE, "RANGES_FROM": LARGE, "RANGE_SIZE": PART}),
            (large, {"PARALLEL_PARTS": 1}),
            (transfers, {"part_size": lambda size: PART, "range_size": lambda size: PART}),
            (planner, {"RENAME_FROM": RENAMED}),
            (hash_phase, {"RENAME_FROM": RENAMED, "THREADS": 1}),
        ):
            for name, value in names.items():
                patch.setattr(module, name, value)
        patch.setattr(sync.costs, "part_size", lambda size: PART)
        _wrap(patch, scan, "_clock_of", lambda original, tree: lambda: original(tree)() + self.later_ns)
        patch.setattr(executor, "COMMIT_OUTCOMES", self.random.randrange(1, 6))
        patch.setattr(executor, "WAIT_SECONDS", 0.0)

    @contextmanager
    def _around_transaction(self, original: Callable[..., Any], lease: Lease) -> Iterator[None]:
        self.step("before a commit")
        with original(lease):
            yield
        self.step("after a commit")

    def _around_attempt(self, original: Callable[..., Any], meter: ChunkMeter, request_class: RequestClass) -> None:
        self.step(f"before {request_class}")
        original(meter, request_class)
        self.seen[meter.run_id][request_class] += 1
        # Counted, not sent yet: the longest pause there can be.
        self.step(f"with {request_class} on its way", meter._lease)

    def _around_file(self, name: str) -> Callable[..., Any]:
        def around(original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            self.step(f"before {name}")
            answer = original(*arguments, **named)
            self.step(f"after {name}")
            return answer

        return around

    def _unless_dead(self, original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return None if self.dead.is_dead else original(*arguments, **named)

    def _note(self, original: Callable[..., Any], lease: Lease, error: Exception) -> Any:
        self.unforeseen.append(error)
        return original(lease, error)


class SteppingStore(MemoryStore):
    """The model store, with steps and faults before and after everything it does."""

    def __init__(self, world: World, meter: Any) -> None:
        super().__init__(world.bucket, meter, capabilities=planner.capabilities(world.vault))
        self.world = world

    @contextmanager
    def _attempt(self, operation: str, request_class: RequestClass) -> Iterator[None]:
        with super()._attempt(operation, request_class):
            self.world.fault(f"before {operation}")
            yield
        self.world.step(f"after {operation}")
        self.world.fault(f"after {operation}")


def _wrap(patch: pytest.MonkeyPatch, owner: Any, name: str, around: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *arguments, **named: around(original, *arguments, **named))


def lapse() -> None:
    """A minute passes: leases of the dead end."""
    Chunk.objects.filter(status=ChunkStatus.RUNNING).update(lease_until="2000-01-01T00:00:00Z")
