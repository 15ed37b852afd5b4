from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class BudgetsConfig(AppConfig):
    name = "budgets"
    label = "budgets"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        post_migrate.connect(seed_price_lists, sender=self)


def seed_price_lists(**_: Any) -> None:
    """Commands that migrate nothing need not load this."""
    from budgets.catalog import seed

    seed()
