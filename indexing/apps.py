from __future__ import annotations

from django.apps import AppConfig


class IndexingConfig(AppConfig):
    name = "indexing"
    label = "indexing"
    default_auto_field = "django.db.models.BigAutoField"
