"""The Celery application. Tasks register with `from vaulthalla.celery import app`."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import task_postrun, task_prerun, worker_process_init

from vaulthalla import embedded
from vaulthalla.startup import spare_the_collector

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vaulthalla.settings")
# Workers and beat are entry points of their own: they may be the first to need the servers.
embedded.ensure()

app = Celery("vaulthalla")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_process_init.connect
def prepare_process(**_: Any) -> None:
    """In each process of a worker's pool."""
    spare_the_collector()


@task_prerun.connect
@task_postrun.connect
def renew_connections(**_: Any) -> None:
    """Lets Django test the connection it keeps; without this a restarted database fails every later task."""
    from django.db import close_old_connections

    close_old_connections()
