"""The settings of a worker process of the tests."""

from __future__ import annotations

from vaulthalla.settings import *  # noqa: F403

VH_HANDLERS = ("tests.integration.work.handlers",)
