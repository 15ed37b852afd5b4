from __future__ import annotations

from django.apps import AppConfig


class VaultsConfig(AppConfig):
    name = "vaulthalla.vaults"
    label = "vaults"
    default_auto_field = "django.db.models.BigAutoField"
