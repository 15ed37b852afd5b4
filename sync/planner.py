"""From differing paths to operations: folds decisions into rows, checks the guards, cuts the chunks.

Batches commit one by one with the last path as cursor, so a plan of any size survives a crash and holds
its lease; nothing is executed before the last batch has been checked as a whole and cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from budgets.access import UNLIMITED, capabilities, keep_refusal, limits, remaining, spent
from indexing.manifest.state import publish_needs, refresh_needs
from sync import guards, sql
from sync.chunks import cut
from sync.costs import cost
from sync.decide import NOTHING_NEW, WORK, Action, Decision, Rules, Sides, decide
from sync.options import SyncOptions
from sync.paths import path_problem
from sync.prices import estimate_of, mark_cut_short
from sync.record import Ledger, versions
from sync.rows import Differing, differing_of, from_json, policy_key, rules_of, to_json
from sync.scan import unknown_prefixes
from sync.unknown import UnknownBelow
from vaulthalla.errors import Stall
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import Capabilities
from vaulthalla.terms import ConflictPolicy, Strategy
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.engine import Lease, Yield, handler
from vaulthalla.work.models import Run, RunKind, Trigger

BATCH = 5_000
# A server-side copy of less costs as much as the upload it saves.
RENAME_FROM = 2**20
# How many archived objects a manual sync asks about: a HEAD each, to learn of restores.
MOST_RESTORE_CHECKS = 100
# What leaves something new in the index.
TOUCHING = WORK - {Action.DELETE_LOCAL}
# The scan's states of a directory, as reasons for skipping a path.
UNKNOWN = {"unreadable": "unreadable_directory"}


class Plan(msgspec.Struct):
    """How far planning came, and what it adds up to. Lives in the chunk's cursor."""

    after: str = ""
    ordinal: int = 0
    restore_checks: int = 0
    actions: dict[str, int] = {}
    skipped: dict[str, int] = {}
    requests: dict[str, int] = {}
    # Standing verdicts that this plan replaces, as "verdict/reason"; only a dry-run, which replaces none, needs them.
    released: dict[str, int] = {}
    bytes_up: int = 0

    @property
    def needs(self) -> Requests:
        return Requests({RequestClass(name): count for name, count in self.requests.items()})


@dataclass(kw_only=True)
class Draft:
    """One batch of decisions, ready to be written in one transaction."""

    ledger: Ledger
    operations: list[tuple[Any, ...]] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    requests: Requests = field(default_factory=Requests)
    released: Counter[str] = field(default_factory=Counter)
    bytes_up: int = 0


@handler("sync.plan")
def plan(lease: Lease) -> Yield | None:
    """Plans the rest of the paths, then checks and cuts the plan as a whole."""
    planner = Planner.of(lease.load_run(), lease.cursor)
    if planner.options.plan is None:
        planner.check_emptied()
    with planner.batches() as batches:
        for rows in batches:
            draft = planner.draft(rows)
            with lease.commit(cursor=planner.cursor(rows[-1][0], draft)):
                planner.keep(draft)
            if lease.overdue:
                return Yield(msgspec.to_builtins(planner.plan))
    with planner.telling(lease), lease.commit(cursor=msgspec.to_builtins(planner.plan)):
        planner.finish()
    return None


@dataclass(kw_only=True)
class Planner:
    """The facts a plan is made from. Decisions themselves are `sync.decide`'s."""

    run: Run
    vault: Vault
    options: SyncOptions
    rules: Rules
    able: Capabilities
    plan: Plan
    unknown: UnknownBelow

    @classmethod
    def of(cls, run: Run, cursor: Any) -> Planner:
        vault = Vault.objects.select_related("policy", "api_key").get(runs=run)
        options = SyncOptions.of(run)
        return cls(
            run=run,
            vault=vault,
            options=options,
            rules=rules_of(options.supposed(vault.policy), run),
            able=capabilities(vault),
            plan=msgspec.convert(cursor or {}, Plan),
            unknown=unknown_below(vault),
        )

    @property
    def dry(self) -> bool:
        """A plan to look at: nothing but its own operations is written."""
        return self.run.kind == RunKind.DRY_RUN

    def keep(self, draft: Draft) -> None:
        """Writes what this run may: a dry-run no verdict, and a plan that was seen no operation beside its own."""
        if self.options.plan is None:
            sql.insert_operations(draft.operations)
        if not self.dry:
            draft.ledger.write()

    def adopt(self, plan: int) -> None:
        """Takes over the operations of a dry-run as they were seen; what needed no work was settled just now."""
        settled = self.plan
        self.plan = msgspec.convert(Run.objects.get(pk=plan).result["plan"], Plan)
        self.plan.actions[Action.CONVERGE.value] = settled.actions.get(Action.CONVERGE.value, 0)
        self.plan.skipped = settled.skipped
        sql.execute(sql.ADOPT_PLAN, (self.run.pk, plan))
        sql.execute(sql.DRIFTED, {"run": self.run.pk, "vault": self.vault.pk})
        self._start()

    def check_emptied(self) -> None:
        if self.rules.strategy is not Strategy.CACHE and not self.options.allow_deletes:
            guards.check_emptied(self.vault)

    def batches(self) -> Any:
        return sql.differing(
            self.vault.pk,
            policy=policy_key(self.vault.policy),
            after=self.plan.after,
            selection=self.options.selection(self.run),
            batch=BATCH,
        )

    def draft(self, rows: list[tuple[Any, ...]]) -> Draft:
        """Decides a batch. Reads the database only for paths that stand in each other's way."""
        resolutions = Resolutions.of(self.vault.pk, [row[0] for row in rows])
        found = [differing_of(row) for row in rows]
        decided = [(sides, self._decide(sides, resolutions)) for sides in map(self._sides, found)]
        blocked = clashes(self.vault, decided)
        draft = Draft(ledger=Ledger(vault_id=self.vault.pk, policy=policy_key(self.vault.policy)))
        draft.released.update("/".join(row.stood) for row in found if row.stood[0])
        for row, (sides, decision) in zip(found, decided, strict=True):
            reason = blocked.get(sides.path)
            taken = Decision(action=Action.PATH_SKIPPED, reason=reason) if reason else decision
            # A conflict stands until what was decided of it is done.
            if row.stood[0] not in ("", Action.CONFLICT) and not taken.settles:
                draft.ledger.unsettled.append(sides.path)
            self._take(draft, sides, taken)
        return draft

    def cursor(self, after: str, draft: Draft) -> Any:
        """Adds a batch to the plan."""
        plan = self.plan
        plan.after = after
        plan.ordinal += len(draft.operations)
        plan.actions = dict(Counter(plan.actions) + draft.actions)
        plan.skipped = dict(Counter(plan.skipped) + draft.skipped)
        plan.released = dict(Counter(plan.released) + draft.released)
        plan.bytes_up += draft.bytes_up
        plan.requests = {c.value: n for c, n in (plan.needs + draft.requests).items()}
        return msgspec.to_builtins(plan)

    def finish(self) -> None:
        """Pairs renames; then, unless this is only to be looked at, lets the plan start."""
        if self.options.plan is not None:
            self.adopt(self.options.plan)
            return
        self._pair_renames()
        if self.dry:
            self._keep_result(self._estimate())
        else:
            self._start()

    @contextmanager
    def telling(self, lease: Lease) -> Iterator[None]:
        """A plan that is stopped leaves nothing behind but what it would have needed."""
        try:
            yield
        except Stall as stall:
            with lease.commit():
                keep_refusal(self.run.pk, stall)
                self._estimate()
                self.run.save(update_fields=["result"])
            raise

    def _with_manifest(self) -> Requests:
        """What the plan needs, and what a sync spends on the manifest before and after it."""
        allowed = limits(self.run.pk)
        changes = any(self.plan.actions.get(action.value) for action in TOUCHING)
        looks = self.run.kind in (RunKind.SYNC, RunKind.DRY_RUN) and not spent(self.run.pk)[RequestClass.GET]
        look = refresh_needs(self.vault, allowed) if looks else Requests()
        publish = publish_needs(self.vault, allowed, now=datetime.now(UTC), changes=changes)
        return Requests.summed((self.plan.needs, look, publish))

    def _estimate(self) -> Requests:
        """Notes what is expected of the run, and returns what of it is still ahead."""
        ahead = self.plan.needs if self.options.offline else self._with_manifest()
        # What a sync asked before it planned is part of it; what a dry-run asked is not part of the sync it shows.
        whole = ahead if self.dry else Requests.summed((spent(self.run.pk), ahead))
        mark_cut_short(self.run.pk, self.vault)
        down = sql.planned_bytes(self.run.pk, guards.BODIES)
        found = estimate_of(self.run, self.vault, whole, up=self.plan.bytes_up, down=down)
        self.run.result = {**self.run.result, "estimate": found}
        return ahead

    def _start(self) -> None:
        """Checks guards, space and download bytes, and cuts what may run into chunks."""
        ahead = self._estimate()
        guards.check_deletes(
            self.run, self.vault, self.options, self.plan.actions, renamed=sql.renamed_sources(self.run.pk)
        )
        guards.park_downloads(self.run, self.vault, self._sufficient())
        looked = spent(self.run.pk)[RequestClass.GET] and not self.options.offline
        again = refresh_needs(self.vault, limits(self.run.pk)) if looked else Requests()
        guards.reserve_money(self.run, self.vault, ahead, again=again)
        cut(self.run, self.vault)
        sql.execute(sql.CLOSE_CONFLICTS, (self.vault.pk,))
        self._keep_result(self._sufficient())

    def _sufficient(self) -> Requests:
        """Of each class, the limit under which a run does all of this plan: with its look, and publishing its end."""
        if self.options.offline:
            return self.plan.needs
        look = refresh_needs(self.vault, UNLIMITED)
        publish = publish_needs(self.vault, UNLIMITED, now=datetime.now(UTC), changes=True)
        return Requests.summed((self.plan.needs, look, publish))

    def _keep_result(self, needs: Requests) -> None:
        self.run.result = {
            **self.run.result,
            "planned": self.plan.actions,
            "skipped": self.plan.skipped,
            "requests": needs.as_json(),
            "plan": msgspec.to_builtins(self.plan),
        }
        self.run.save(update_fields=["result"])

    def _sides(self, row: Differing) -> Sides:
        sides = row.sides
        problem = row.skip or path_problem(sides.path, prefix=self.vault.prefix)
        unknown = "" if problem else self.unknown.reason(sides.path)
        if not problem and not unknown:
            return sides
        return replace(sides, unknown=problem or unknown, unknown_settles=bool(problem))

    def _decide(self, sides: Sides, resolutions: Resolutions) -> Decision:
        decision = decide(sides, resolutions.rules(sides, self.rules))
        if decision.action is Action.ARCHIVE_SKIPPED and self._may_check_restore():
            self.plan.restore_checks += 1
            return Decision(action=Action.VERIFY, reason="restore state")
        return decision

    def _may_check_restore(self) -> bool:
        return self.run.trigger == Trigger.MANUAL and self.plan.restore_checks < MOST_RESTORE_CHECKS

    def _take(self, draft: Draft, sides: Sides, decision: Decision) -> None:
        if decision.action is Action.NOTHING:
            return
        if decision.reason != NOTHING_NEW:
            draft.actions[decision.action.value] += 1
        if decision.action in WORK:
            if self.vault.kind == VaultKind.S3:
                draft.requests.update(cost(decision.action, sides, self.able))
            if decision.action in (Action.UPLOAD, Action.KEEP_BOTH) and sides.local is not None:
                draft.bytes_up += sides.local.size
            ordinal = self.plan.ordinal + len(draft.operations)
            size = size_of(decision.action, sides)
            draft.operations.append(
                (self.run.pk, ordinal, sides.path, decision.action.value, decision.reason, size, to_json(sides))
            )
            return
        draft.ledger.verdict(sides, decision)
        if decision.action is Action.PATH_SKIPPED and not decision.settles:
            draft.skipped[decision.reason] += 1

    def _pair_renames(self) -> None:
        if self.vault.kind != VaultKind.S3 or not self.plan.actions.get(Action.DELETE_REMOTE.value):
            return
        left = remaining(self.run.pk)[RequestClass.COPY]
        most = self.plan.actions.get(Action.UPLOAD.value, 0)
        pairs = sql.execute(
            sql.PAIR_RENAMES,
            {"run": self.run.pk, "rename_from": RENAME_FROM, "most": most if left is None else min(left, most)},
        )
        if pairs:
            self._price_renames(pairs)

    def _price_renames(self, pairs: int) -> None:
        """What were uploads are copies now: other requests, and no bytes."""
        needs = self.plan.needs
        for (planned,) in sql.fetch(sql.RENAMED, (self.run.pk,)):
            sides = from_json(planned)
            needs.subtract(cost(Action.UPLOAD, sides, self.able))
            needs.update(cost(Action.COPY, sides, self.able))
            self.plan.bytes_up -= size_of(Action.UPLOAD, sides)
        self.plan.requests = {c.value: n for c, n in needs.items()}
        actions = Counter(self.plan.actions)
        actions.update({Action.COPY.value: pairs, Action.UPLOAD.value: -pairs})
        self.plan.actions = dict(actions)


@dataclass(frozen=True, kw_only=True)
class Resolutions:
    """What the operator decided for conflicts; each holds only for the versions it was made for."""

    by_path: dict[str, tuple[str, str, str]]

    @classmethod
    def of(cls, vault_id: int, paths: list[str]) -> Resolutions:
        rows = sql.fetch(sql.RESOLUTIONS, (vault_id, paths))
        return cls(by_path={path: (local, remote, resolution) for path, local, remote, resolution in rows})

    def rules(self, sides: Sides, rules: Rules) -> Rules:
        """`rules` with the operator's decision in place of the policy, if it still applies."""
        local, remote, resolution = self.by_path.get(sides.path, ("", "", ""))
        if not resolution or (local, remote) != versions(sides):
            return rules
        return replace(rules, conflict=ConflictPolicy(resolution), verified=True)


def unknown_below(vault: Vault) -> UnknownBelow:
    """Directories that could not be read, and what lies below a path that is no directory any more."""
    return UnknownBelow((prefix, UNKNOWN.get(reason, reason)) for prefix, reason in unknown_prefixes(vault.pk))


def size_of(action: Action, sides: Sides) -> int:
    """The bytes an operation is about."""
    if action in (Action.UPLOAD, Action.COPY):
        return sides.local.size if sides.local else 0
    return sides.remote.size if sides.remote else (sides.local.size if sides.local else 0)


def clashes(vault: Vault, decided: list[tuple[Sides, Decision]]) -> dict[str, str]:
    """Paths that cannot be files because a file or a directory is in the way, with the reason.

    A bucket may hold `a` beside `a/b`, a directory cannot. What has a file here keeps the path; between
    two objects without files, the directory wins.
    """
    new = [
        sides.path
        for sides, decision in decided
        if (decision.action is Action.DOWNLOAD and sides.local is None)
        or (decision.action is Action.UPLOAD and sides.remote is None and vault.kind == VaultKind.LOCAL)
    ]
    if not new:
        return {}
    above = {path: list(ancestors(path)) for path in new}
    every = sorted({parent for parents in above.values() for parent in parents})
    files = sql.files_at(vault.pk, every) if every else set()
    if vault.kind == VaultKind.LOCAL and every:
        files |= sql.objects_at(vault.pk, every)
    blocked = {path: "below_file" for path, parents in above.items() if any(p in files for p in parents)}
    blocked.update(dict.fromkeys(sql.beside_directory(vault.pk, new), "beside_directory"))
    # An empty directory is in the way as well, but only here.
    blocked.update(dict.fromkeys(sql.directories_at(vault.pk, new), "beside_directory"))
    return blocked


def ancestors(path: str) -> Iterator[str]:
    """Every proper parent path: "a", "a/b" for "a/b/c"."""
    place = path.find("/")
    while place > 0:
        yield path[:place]
        place = path.find("/", place + 1)
