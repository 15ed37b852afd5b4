"""System checks: the time limits are in an order in which nothing is done twice or killed half-way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register


def chains() -> tuple[tuple[tuple[str, float], ...], ...]:
    """Named durations, each chain strictly increasing."""
    transport = settings.CELERY_BROKER_TRANSPORT_OPTIONS
    chunk = ("CHUNK_SECONDS", settings.CHUNK_SECONDS)
    request = ("REQUEST_SECONDS", settings.REQUEST_SECONDS)
    hard = ("CELERY_TASK_TIME_LIMIT", settings.CELERY_TASK_TIME_LIMIT)
    lease = ("LEASE_SECONDS", settings.LEASE_SECONDS)
    return (
        # A deploy finds every chunk finished, or its message put back, before the platform kills.
        (
            chunk,
            ("CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT", settings.CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT),
            ("PLATFORM_GRACE_SECONDS", settings.PLATFORM_GRACE_SECONDS),
        ),
        # A task is over, one way or another, before its message is delivered again.
        (
            chunk,
            ("CELERY_TASK_SOFT_TIME_LIMIT", settings.CELERY_TASK_SOFT_TIME_LIMIT),
            hard,
            ("visibility_timeout", transport["visibility_timeout"]),
        ),
        # Nobody is killed in the middle of a request that is still allowed to run.
        (request, hard),
        # A lease outlives the longest request that may begin under it, and several renewals.
        (
            request,
            ("LEASE_SECONDS - LEASE_MARGIN_SECONDS", settings.LEASE_SECONDS - settings.LEASE_MARGIN_SECONDS),
            lease,
        ),
        (("LEASE_RENEW_SECONDS", settings.LEASE_RENEW_SECONDS), ("LEASE_SECONDS / 3", settings.LEASE_SECONDS / 3)),
        (("SWEEP_SECONDS", settings.SWEEP_SECONDS), lease),
    )


@register
def time_limits_are_in_order(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """E001 for each pair that is out of order, E002 when Celery's three visibility timeouts differ."""
    return [*_disorder(), *_visibility()]


def _disorder() -> Iterator[CheckMessage]:
    for chain in chains():
        for (shorter, low), (longer, high) in pairwise(chain):
            if low >= high:
                yield Error(
                    f"{shorter} ({low:g} s) must be less than {longer} ({high:g} s).",
                    hint="The order is what keeps work from being done twice or killed half-way.",
                    id="vaulthalla.E001",
                )


def _visibility() -> Iterator[CheckMessage]:
    places = {
        settings.CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"],
        settings.CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS["visibility_timeout"],
        settings.CELERY_VISIBILITY_TIMEOUT,
    }
    if len(places) > 1:
        yield Error(f"The visibility timeouts differ: {sorted(places)}; the shortest wins.", id="vaulthalla.E002")


@register(Tags.security, deploy=True)
def keys_are_shared(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """W001: an external database is read by several hosts, which must all decrypt what one of them stored."""
    from vaulthalla import env

    if not env.text("DATABASE_URL") or (env.text("SECRET_KEY") and env.text("SALT_KEY")):
        return []
    return [
        Warning(
            "DATABASE_URL is set, but SECRET_KEY or SALT_KEY comes from this host's home.",
            hint="Set both in the environment of every process that uses this database.",
            id="vaulthalla.W001",
        )
    ]
