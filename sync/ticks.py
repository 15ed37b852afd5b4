"""What beat does, as rows that operators edit in the admin: seeded once, never written over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.conf import settings

BEAT = "django_celery_beat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A task sent at a fixed interval. After `expires` a message that nobody took is worth nothing: the next comes."""

    name: str
    task: str
    every: timedelta
    expires: timedelta
    description: str


def ticks() -> tuple[Tick, ...]:
    """All there are. When a vault is due is on its policy: it needs no tick of its own."""
    due, sweep, day = timedelta(seconds=15), timedelta(seconds=settings.SWEEP_SECONDS), timedelta(days=1)
    return (
        Tick(
            name="Start due syncs",
            task="sync.due",
            every=due,
            expires=due,
            description="Starts the sync of each enabled vault whose time has come.",
        ),
        Tick(
            name="Poll event queues",
            task="indexing.poll",
            every=timedelta(seconds=60),
            expires=timedelta(seconds=60),
            description="Takes the bucket events that wait in each enabled vault's queue into its index.",
        ),
        Tick(
            name="Sweep",
            task="work.sweep",
            every=sweep,
            expires=sweep,
            description="Takes back what dead workers held, and wakes workers for what waits. Keep it below a minute.",
        ),
        Tick(
            name="Notify",
            task="budgets.notify",
            every=timedelta(seconds=60),
            expires=timedelta(seconds=60),
            description="Looks at limits, rates and price lists, and sends notifications that are open.",
        ),
        Tick(
            name="Refresh prices",
            task="budgets.prices",
            every=day,
            expires=timedelta(hours=1),
            description="Reads the public price lists of the buckets there are; where it cannot, the known ones stay.",
        ),
        Tick(
            name="Clean up",
            task="sync.cleanup",
            every=day,
            expires=timedelta(hours=1),
            description="Removes chunks and operations of runs that ended, and notifications that are over, for long"
            " (VAULTHALLA_HISTORY_DAYS).",
        ),
    )


def seed(using: str = "default", **_: Any) -> None:
    """Adds the ticks that are missing, by name; the receiver of post_migrate. Without beat installed, nothing."""
    if not apps.is_installed(BEAT):
        return
    from django_celery_beat.models import PeriodicTask

    known = set(PeriodicTask.objects.using(using).values_list("name", flat=True))
    for tick in ticks():
        if tick.name not in known:
            PeriodicTask.objects.using(using).get_or_create(name=tick.name, defaults=_row(tick, using))


def _row(tick: Tick, using: str) -> dict[str, Any]:
    from django_celery_beat.models import IntervalSchedule

    seconds, days = int(tick.every.total_seconds()), tick.every.days
    every = {"every": days, "period": "days"} if days else {"every": seconds, "period": "seconds"}
    intervals = IntervalSchedule.objects.using(using)
    return {
        "task": tick.task,
        # Nothing there forbids twins, so the first of them serves.
        "interval": intervals.filter(**every).first() or intervals.create(**every),
        "queue": "control",
        "expire_seconds": int(tick.expires.total_seconds()),
        "description": tick.description,
    }
