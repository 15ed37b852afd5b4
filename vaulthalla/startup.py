"""Django for a command: set up late, so that `vh --help` costs nothing."""

from __future__ import annotations

import gc
import os

COLLECT_AFTER = 20_000


def setup(*, start: bool = True) -> None:
    """Django with the slim settings, on running servers. Does nothing where Django is set up already.

    Without `start` it takes the servers as they are.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vaulthalla.settings_cli")
    from vaulthalla import embedded

    if start:
        embedded.ensure()
    import django
    from django.apps import apps

    if not apps.ready:
        django.setup()
    spare_the_collector()


def leave_quickly() -> None:
    """At the very end: the last collection would take modules apart for a quarter of a second, for nothing."""
    gc.freeze()


def spare_the_collector() -> None:
    """What is loaded now stays, so no collection needs to look at it; and rows by the thousand are no garbage.

    With Python's own thresholds a process that moves small objects spends a tenth of its time collecting.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)
