"""Django for a command: set up late, so that `vh --help` costs nothing."""

from __future__ import annotations

import os


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
