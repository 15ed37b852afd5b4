from __future__ import annotations

from django.apps import AppConfig


class VaultsConfig(AppConfig):
    name = "vaulthalla.vaults"
    label = "vaults"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        import vaulthalla.checks  # noqa: F401 - registers the system checks
