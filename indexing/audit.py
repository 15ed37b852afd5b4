"""How wrong the index is: HEADs of a random sample of its rows, and what that says of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from math import sqrt
from typing import Any

from django.db.models import Count

from budgets.access import ChunkMeter, Draw, budget_stall, open_store, spent
from budgets.meter import Pot
from indexing import findings, merge, sql
from indexing.models import Finding, RemoteObject
from indexing.scanning import exit_code
from indexing.store_fault import store_fault
from indexing.terms import Source
from indexing.usable import require_index
from vaulthalla.console import Console, fields, printable
from vaulthalla.errors import Refused
from vaulthalla.remedies import sync_of
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.stores.base import MeterRefused, ObjectInfo, ObjectMissing, Store, StoreError
from vaulthalla.stores.direct import ATTEMPTS
from vaulthalla.vaults.models import Vault, VaultKind
from vaulthalla.work.engine import Lease, NewChunk, Phase, Yield, attach_or_create, drive, handler
from vaulthalla.work.models import Queue, Run, RunKind

KIND = "index.audit"
# HEADs at a time, and how many are asked for, judged and recorded together.
HEADS_AT_ONCE = 16
BATCH = 128
WAIT_FOR_OTHERS_SECONDS = 1.0
ONE_HEAD = Requests({RequestClass.HEAD: 1})
# Where one attempt brought no answer: what the next try may send, so that a store that is away is found to be.
ANOTHER_TRY = Requests({RequestClass.HEAD: ATTEMPTS})
SAME, CHANGED, MISSING = "same", "changed", "missing"
# 95 % of a normal distribution is that many deviations around its middle.
LEVEL, DEVIATIONS = 0.95, 1.959964


@dataclass(frozen=True, slots=True)
class Row:
    """What the index holds of a sampled key; `gone` meanwhile, perhaps."""

    gone: bool
    etag: str
    size: int
    doubtful: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store said: the object, or that there is none, at a store time."""

    info: ObjectInfo | None
    at: datetime | None


def verdict(row: Row, info: ObjectInfo | None) -> str:
    """Whether the index was right. Pure."""
    if info is None:
        return SAME if row.gone else MISSING
    alike = not row.gone and (row.etag, row.size) == (info.etag, info.size)
    return SAME if alike else CHANGED


def wilson(wrong: int, looked_at: int) -> tuple[float, float]:
    """Between which rates the true one lies at LEVEL, by Wilson's score: sound for rates near 0, too. Pure."""
    if not looked_at:
        return 0.0, 1.0
    rate, square = wrong / looked_at, DEVIATIONS**2
    middle = rate + square / (2 * looked_at)
    reach = DEVIATIONS * sqrt(rate * (1 - rate) / looked_at + square / (4 * looked_at**2))
    whole = 1 + square / looked_at
    low = 0.0 if not wrong else max(0.0, (middle - reach) / whole)
    high = 1.0 if wrong == looked_at else min(1.0, (middle + reach) / whole)
    return low, high


def start_audit(vault: Vault, sample: int) -> Run:
    """The run that looks. Raises Refused for what has no index to audit."""
    if vault.kind == VaultKind.LOCAL:
        raise Refused(
            f"{vault.name} is a local vault: its second directory is read by every sync.",
            code="s3_only",
            remedy=sync_of(vault.name),
        )
    if sample < 1:
        remedy = "Give --sample the number of objects to look at, such as 100."
        raise Refused("--sample must be 1 or more.", code="invalid_value", remedy=remedy)
    require_index(vault)
    chunk = NewChunk(KIND, Phase.PREPARE, Queue.INDEX, payload={"sample": sample}, items=sample)
    return attach_or_create(vault, RunKind.AUDIT, options={"sample": sample}, chunks=[chunk])


def drive_audit(console: Console, vault: Vault, *, sample: int, listed: bool) -> int:
    """The run to its end, then its numbers, or each wrong row. Ctrl-C leaves it to the workers."""
    run = start_audit(vault, sample)
    with console.progress("Looking", total=sample) as bar:
        run = drive(run.pk, on_progress=lambda now: bar.update(done=now.items_done))
    if listed:
        for row in findings.noted(run.pk, (CHANGED, MISSING)):
            console.line(row, f"{row['change']:<7}  {printable(row['key'])}")
    else:
        console.result(result_json(run), result_text)
    return exit_code(console, run, others="workers go on with it")


def result_json(run: Run) -> dict[str, Any]:
    sampled, changed, missing = (run.result.get(name, 0) for name in ("sampled", CHANGED, MISSING))
    wrong = changed + missing
    low, high = wilson(wrong, sampled)
    return {
        "run": str(run.pk),
        "vault": run.vault.name if run.vault else None,
        "status": run.status,
        "sampled": sampled,
        "wrong": wrong,
        "missing": missing,
        "changed": changed,
        "error_rate": wrong / sampled if sampled else None,
        "confidence": {"level": LEVEL, "low": low, "high": high},
        "requests": spent(run.pk).as_json(),
    }


def result_text(value: dict[str, Any]) -> str:
    interval = value["confidence"]
    rate = "unknown" if value["error_rate"] is None else f"{value['error_rate']:.2%}"
    within = f"{interval['low']:.2%} to {interval['high']:.2%} at {interval['level']:.0%} confidence"
    lines = [("Vault", value["vault"]), ("Status", value["status"]), ("Objects looked at", value["sampled"])]
    lines += [(name.capitalize(), value[name]) for name in ("wrong", "missing", "changed")]
    lines += [("Error rate", f"{rate}; {within}"), ("Requests", f"{value['requests']['head']} head")]
    return fields(lines)


@handler(KIND)
def audit(lease: Lease) -> Yield | None:
    """Looks at what is left of the sample. Raises Stall when the HEAD budget is used up: what was learned stays."""
    vault = lease.load_run().vault
    if vault is None:
        raise AssertionError("an audit without a vault")
    if lease.cursor is None:
        with lease.commit(cursor={"drawn": True}):
            sql.sample(vault.pk, lease.run_id, lease.payload["sample"])
    with ThreadPoolExecutor(max_workers=HEADS_AT_ONCE, thread_name_prefix="head") as askers:
        return _Audit(lease, vault, askers).run()


class _Audit:
    """One lease's part of an audit."""

    def __init__(self, lease: Lease, vault: Vault, askers: ThreadPoolExecutor) -> None:
        self.lease, self.vault, self.askers = lease, vault, askers
        self.meter = ChunkMeter(lease)
        self.store: Store = open_store(vault, self.meter)
        self.refused: set[str] = set()  # keys that needed more attempts than they had leave for

    def run(self) -> Yield | None:
        while keys := self._unseen():
            if self.lease.overdue:
                return Yield(self.lease.cursor)
            # Rows are read before they are asked for: what changes meanwhile is no error of the index.
            since = merge.revision_of(self.vault.pk)
            rows = self._rows(keys)
            asked = self._ask(keys)
            if not asked:
                return Yield(self.lease.cursor, delay=WAIT_FOR_OTHERS_SECONDS)
            self._record(rows, self._answers(asked), since)
        return None

    def _unseen(self) -> list[str]:
        found = Finding.objects.filter(run_id=self.lease.run_id, change="").order_by("key")
        return list(found.values_list("key", flat=True)[:BATCH])

    def _rows(self, keys: Sequence[str]) -> dict[str, Row]:
        found = RemoteObject.objects.filter(vault=self.vault, key__in=keys)
        rows = found.values_list("key", "tombstone", "etag", "size", "doubtful")
        return {key: Row(gone, etag, size, doubtful) for key, gone, etag, size, doubtful in rows}

    def _ask(self, keys: Sequence[str]) -> dict[str, Future[Answer]]:
        asked: dict[str, Future[Answer]] = {}
        for key in keys:
            wanted = ANOTHER_TRY if key in self.refused else ONE_HEAD
            pot = self.meter.set_aside(wanted) or self._drawn(wanted, len(keys) - len(asked), first=not asked)
            if pot is None:
                break
            asked[key] = self.askers.submit(self._head(key, pot))
        return asked

    def _drawn(self, wanted: Requests, keys: int, *, first: bool) -> Pot | None:
        """Leave for one HEAD, and `wanted` of them where there are as many, of so many keys.

        What was asked for already is recorded before the run may stall.
        """
        drawn = self.meter.draw(Requests({RequestClass.HEAD: keys * wanted[RequestClass.HEAD]}), at_least=ONE_HEAD)
        if drawn is Draw.EXHAUSTED and first:
            # The next audit draws another sample, and of a small bucket all there is.
            whole = Requests({RequestClass.HEAD: Finding.objects.filter(run_id=self.lease.run_id).count()})
            raise budget_stall(self.lease.run_id, RequestClass.HEAD, planned=whole, anew=whole)
        return (self.meter.set_aside(wanted) or self.meter.set_aside(ONE_HEAD)) if drawn else None

    def _head(self, key: str, pot: Pot) -> Callable[[], Answer]:
        def look() -> Answer:
            with pot:
                try:
                    info = self.store.head(key)
                except ObjectMissing as error:
                    return Answer(None, error.observed_at)
                return Answer(info, info.observed_at)

        return look

    def _answers(self, asked: dict[str, Future[Answer]]) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        for key, future in asked.items():
            try:
                answers[key] = self.lease.outlast(future)
            except MeterRefused as refused:
                if refused.request_class is None:
                    raise self.lease.lost() from refused
                self.refused.add(key)
            except StoreError as error:
                raise store_fault(error, self.vault, self.lease.load_run(), refused="did not say") from error
        return answers

    def _record(self, rows: dict[str, Row], answers: dict[str, Answer], since: int) -> None:
        """The verdicts, and in the index what was wrong or in doubt: a HEAD is news like any other."""
        unknown = Row(True, "", 0, False)
        verdicts = {key: verdict(rows.get(key, unknown), answer.info) for key, answer in answers.items()}
        news = [key for key in answers if verdicts[key] != SAME or rows.get(key, unknown).doubtful]
        infos = [info for key in news if (info := answers[key].info) is not None]
        gone = [(key, at) for key in news if answers[key].info is None and (at := answers[key].at) is not None]
        with self.lease.commit(items_done=len(answers)):
            if infos:
                merge.observe(self.vault.pk, infos, source=Source.HEAD, since=since)
            if gone:
                merge.observe_gone(self.vault.pk, gone, source=Source.HEAD, since=since)
            sql.judge(self.lease.run_id, verdicts)
            self.meter.settle()


@handler("finish.audit")
def finish(lease: Lease) -> None:
    """The counts, where `history` and the command find them."""
    rows = Finding.objects.filter(run_id=lease.run_id).exclude(change="").values_list("change")
    counts = Counter(dict(rows.annotate(count=Count("key"))))
    result = {"sampled": counts.total(), CHANGED: counts[CHANGED], MISSING: counts[MISSING]}
    run = lease.load_run()
    with lease.commit():
        findings.forget_others(run)
        Run.objects.filter(pk=lease.run_id).update(result=result)
