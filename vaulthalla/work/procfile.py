"""`vh up`: the processes of the Procfile in one terminal."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from pathlib import Path

from vaulthalla import env
from vaulthalla.errors import DETACHED, Refused

PROCFILE = Path(__file__).resolve().parents[2] / "Procfile"
ADMIN = "admin"


def prepare() -> dict[str, str] | None:
    """Servers and schema in place; the first administrator, when there is no account at all."""
    # The admin's accounts exist only in the full settings.
    os.environ["DJANGO_SETTINGS_MODULE"] = "vaulthalla.settings"
    from vaulthalla.startup import setup

    setup()
    from django.contrib.auth import get_user_model
    from django.db import transaction

    users = get_user_model()
    with transaction.atomic():
        if users.objects.exists():
            return None
        password = secrets.token_urlsafe(18)
        users.objects.create_superuser(ADMIN, password=password)
    return {"user": ADMIN, "password": password}


def address() -> str:
    return f"http://{env.text('VAULTHALLA_BIND', '127.0.0.1:8000')}/admin/"


class Manager:
    """honcho, with patience for workers that put back what they cannot finish."""

    def run(self) -> int:
        """Returns when all processes have ended: 0 after Ctrl-C or TERM, else what the first of them returned."""
        import honcho.manager
        from django.conf import settings
        from honcho.environ import parse_procfile

        if not PROCFILE.is_file():
            raise Refused(f"{PROCFILE} is missing.", code="misconfigured", remedy="Run vh from its checkout.")
        # Its five seconds would kill a worker in the middle of a chunk.
        honcho.manager.KILL_WAIT = settings.PLATFORM_GRACE_SECONDS
        manager = honcho.manager.Manager()
        for name, line in parse_procfile(PROCFILE.read_text()).processes.items():
            manager.add_process(name, line, env=self._environment(), cwd=str(PROCFILE.parent))
        manager.loop()
        stopped = manager.returncode in (DETACHED, 128 + signal.SIGTERM)
        return 0 if stopped else int(manager.returncode or 0) and 1

    def _environment(self) -> dict[str, str]:
        # The programs of this environment, whatever the shell's PATH.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
