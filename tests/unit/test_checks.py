"""The order of time limits is proved at start."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings

from vaulthalla.checks import keys_are_shared, time_limits_are_in_order


def test_the_shipped_settings_are_in_order() -> None:
    assert time_limits_are_in_order(None) == []


@pytest.mark.parametrize(
    "setting",
    [
        {"CHUNK_SECONDS": 20},
        {"CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT": 30},
        {"PLATFORM_GRACE_SECONDS": 20},
        {"CELERY_TASK_SOFT_TIME_LIMIT": 21_660},
        {"CELERY_TASK_TIME_LIMIT": 21_720},
        {"REQUEST_SECONDS": 50},
        {"LEASE_RENEW_SECONDS": 20},
        {"SWEEP_SECONDS": 60},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_each_limit_out_of_order_is_an_error(setting: dict[str, Any]) -> None:
    with override_settings(**setting):
        assert {message.id for message in time_limits_are_in_order(None)} == {"vaulthalla.E001"}


def test_visibility_timeouts_that_differ_are_an_error() -> None:
    with override_settings(CELERY_VISIBILITY_TIMEOUT=1000):
        assert [message.id for message in time_limits_are_in_order(None)] == ["vaulthalla.E002"]


@pytest.mark.parametrize(
    ("environment", "warned"),
    [
        ({}, False),
        ({"DATABASE_URL": "postgres://a@b/c"}, True),
        ({"DATABASE_URL": "postgres://a@b/c", "SECRET_KEY": "s"}, True),
        ({"DATABASE_URL": "postgres://a@b/c", "SECRET_KEY": "s", "SALT_KEY": "t"}, False),
    ],
)
def test_keys_of_one_host_are_not_enough_for_a_shared_database(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], warned: bool
) -> None:
    for name in ("DATABASE_URL", "SECRET_KEY", "SALT_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert bool(keys_are_shared(None)) is warned
