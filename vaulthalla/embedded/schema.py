"""The embedded database follows the installed version: its migrations are applied by the first command."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from vaulthalla.embedded.home import Layout
from vaulthalla.errors import VaulthallaError

OWN_APPS = ("vaulthalla/vaults", "vaulthalla/work", "budgets", "indexing", "sync")
FOREIGN_PACKAGES = ("django", "django_celery_beat")


def is_current(layout: Layout) -> bool:
    """Whether the migrations that were applied last are the ones installed."""
    try:
        return (layout.state / "schema").read_text() == digest()
    except FileNotFoundError:
        return False


def digest() -> str:
    """Changes with any migration of ours and with the versions of the packages that bring their own."""
    whole = hashlib.sha256()
    for name, content in _inputs():
        whole.update(name.encode() + b"\0" + content + b"\0")
    return whole.hexdigest()


def apply(layout: Layout, database_url: str) -> None:
    """Runs `migrate` with the full settings (the command's own are slim) and records what was applied."""
    answer = subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--no-input", "--verbosity=0"],
        env={
            **os.environ,
            "DATABASE_URL": database_url,
            "DJANGO_SETTINGS_MODULE": "vaulthalla.settings",
            "PYTHONPATH": os.pathsep.join([str(_project()), *sys.path]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise VaulthallaError(f"The embedded database could not be migrated: {reason}", code="migration_failed")
    (layout.state / "schema").write_text(digest())


def _inputs() -> Iterator[tuple[str, bytes]]:
    for app in OWN_APPS:
        for path in sorted((_project() / app / "migrations").glob("0*.py")):
            yield f"{app}/{path.name}", path.read_bytes()
    for package in FOREIGN_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            # Its folder's name carries no version, but the metadata directories beside it do.
            for path in sorted(Path(spec.origin).parents[1].glob(f"{package}-*.dist-info")):
                yield path.name, b""


def _project() -> Path:
    return Path(__file__).resolve().parents[2]
