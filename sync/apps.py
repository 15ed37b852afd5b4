from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class SyncConfig(AppConfig):
    name = "sync"
    label = "sync"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from sync.ticks import seed

        # The last of our apps: beat's own tables are there by then.
        post_migrate.connect(seed, sender=self)
