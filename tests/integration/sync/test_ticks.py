"""What beat asks for: due vaults start once, old rows go, and the schedule is the operator's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.apps import apps
from django.core.management import call_command
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from budgets.models import Delivery, Notification
from sync import cleanup, tasks, ticks
from sync.models import Operation
from vaulthalla.celery import app
from vaulthalla.vaults.models import SyncPolicy, Vault, VaultKind
from vaulthalla.work.engine import NewChunk, Phase, create_run, request_cancel
from vaulthalla.work.models import Chunk, Queue, Run, RunKind, RunStatus, Trigger

pytestmark = pytest.mark.django_db

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def make_vault(name: str) -> Vault:
    vault = Vault.objects.create(
        name=name, kind=VaultKind.LOCAL, root=f"/{name}", replica=f"/{name}-copy", marker=uuid4()
    )
    SyncPolicy.objects.create(vault=vault)
    return vault


@pytest.fixture
def vault() -> Vault:
    return make_vault("docs")


def finished(vault: Vault, *, at: datetime) -> Run:
    """A run of the past with one operation; its chunks are the two that every run has."""
    run = create_run(vault, RunKind.SYNC, chunks=[NewChunk("sync.prepare", Phase.PREPARE, Queue.CONTROL)])
    Operation.objects.create(run=run, ordinal=1, path="a", action="upload")
    Chunk.objects.filter(run=run).update(status="done")
    Run.objects.filter(pk=run.pk).update(status=RunStatus.SUCCESS, finished_at=at)
    return run


class TestDue:
    def test_a_new_vault_is_due_at_once_and_two_ticks_start_it_once(self, vault: Vault) -> None:
        assert len(tasks.due_tick()) == 1
        assert tasks.due_tick() == []
        run = Run.objects.get(vault=vault)
        assert (run.kind, run.trigger, run.status) == (RunKind.SYNC, Trigger.SCHEDULE, RunStatus.PLANNING)

    def test_a_disabled_vault_is_never_due(self, vault: Vault) -> None:
        SyncPolicy.objects.filter(vault=vault).update(enabled=False)
        assert tasks.due_tick() == []

    def test_a_vault_at_work_is_not_queued_again(self, vault: Vault) -> None:
        tasks.due_tick()
        SyncPolicy.objects.filter(vault=vault).update(next_sync_at=LONG_AGO)
        assert tasks.due_tick() == []
        assert Run.objects.filter(vault=vault).count() == 1

    def test_one_tick_starts_every_vault_that_is_due(self, vault: Vault) -> None:
        SyncPolicy.objects.filter(vault=make_vault("later")).update(next_sync_at=datetime.now(UTC) + timedelta(days=1))
        make_vault("photos")
        tasks.due_tick()
        assert set(Run.objects.values_list("vault__name", flat=True)) == {"docs", "photos"}


class TestCleanUp:
    def test_old_chunks_and_operations_go_and_the_run_with_its_budget_stays(self, vault: Vault) -> None:
        run = finished(vault, at=LONG_AGO)
        removed = cleanup.clean_up(older_than=timedelta(days=1), seconds=60)
        assert removed == cleanup.Removed(chunks=2, operations=1, notifications=0, finished=True)
        assert Run.objects.get(pk=run.pk).budget.count() == 7
        assert not Chunk.objects.filter(run=run).exists()

    def test_young_and_unfinished_runs_keep_everything(self, vault: Vault) -> None:
        finished(vault, at=datetime.now(UTC))
        create_run(make_vault("photos"), RunKind.SYNC, chunks=[])
        assert cleanup.clean_up(older_than=timedelta(days=1), seconds=60).chunks == 0
        assert Chunk.objects.count() == 3

    def test_what_does_not_fit_into_its_time_is_left(self, vault: Vault) -> None:
        finished(vault, at=LONG_AGO)
        assert not cleanup.clean_up(older_than=timedelta(days=1), seconds=0).finished
        assert Operation.objects.count() == 1

    def test_rows_go_in_batches(self, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cleanup, "BATCH", 1)
        for _ in range(3):
            finished(vault, at=LONG_AGO)
        assert cleanup.clean_up(older_than=timedelta(days=1), seconds=60).chunks == 6

    def test_a_cancelled_run_is_as_finished_as_any(self, vault: Vault) -> None:
        create_run(vault, RunKind.SYNC, chunks=[])
        queued = create_run(vault, RunKind.SYNC, chunks=[])
        request_cancel(queued.pk)
        Run.objects.filter(pk=queued.pk).update(finished_at=LONG_AGO)
        assert cleanup.clean_up(older_than=timedelta(days=1), seconds=60).chunks == 1

    def test_only_what_is_over_is_forgotten_of_what_was_told(self) -> None:
        now = datetime.now(UTC)
        for cause, resolved, seen in (
            ("over for long", LONG_AGO, None),
            ("over for long, and seen", LONG_AGO, LONG_AGO),
            ("over", now, LONG_AGO),
            ("silenced", None, LONG_AGO),
            ("open", None, None),
        ):
            row = Notification.objects.create(
                topic="t", severity="info", cause=cause, first_seen=LONG_AGO, resolved_at=resolved, acknowledged_at=seen
            )
            Delivery.objects.create(notification=row, channel="email")
        removed = cleanup.clean_up(older_than=timedelta(days=1), seconds=60)
        assert (removed.notifications, removed.finished) == (2, True)
        assert set(Notification.objects.values_list("cause", flat=True)) == {"over", "silenced", "open"}
        assert Delivery.objects.count() == 3


class TestSeeding:
    def test_migrate_seeds_every_tick_with_an_expiry_and_a_task_that_exists(self) -> None:
        app.loader.import_default_modules()
        rows = {row.task: row for row in PeriodicTask.objects.select_related("interval")}
        names = {"sync.due", "indexing.poll", "work.sweep", "budgets.notify", "budgets.prices", "sync.cleanup"}
        assert set(rows) == names <= set(app.tasks)
        for row in rows.values():
            assert row.interval is not None
            assert 0 < row.expire_seconds <= row.interval.schedule.run_every.total_seconds()
            assert (row.queue, row.enabled) == ("control", True)

    def test_what_an_operator_changed_stays(self) -> None:
        hourly = IntervalSchedule.objects.create(every=1, period="hours")
        PeriodicTask.objects.filter(task="sync.due").update(interval=hourly, enabled=False)
        call_command("migrate", verbosity=0)
        row = PeriodicTask.objects.get(task="sync.due")
        assert (row.interval, row.enabled) == (hourly, False)

    def test_a_missing_tick_comes_back_beside_the_others(self) -> None:
        PeriodicTask.objects.filter(task="work.sweep").delete()
        ticks.seed()
        ticks.seed()
        assert PeriodicTask.objects.filter(task="work.sweep").count() == 1
        assert IntervalSchedule.objects.filter(every=30, period="seconds").count() == 1

    def test_without_beat_installed_nothing_is_seeded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        PeriodicTask.objects.all().delete()
        monkeypatch.setattr(apps, "is_installed", lambda name: name != ticks.BEAT)
        ticks.seed()
        assert not PeriodicTask.objects.exists()
