"""PostgreSQL and Valkey for a machine that has none: real servers on unix sockets, private to one home.

Any command may start them, all share them, `vh down` stops them, and after a crash or `kill -9` the next
command recovers. `DATABASE_URL` and `REDIS_URL` each replace the server they name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from vaulthalla.embedded import schema
from vaulthalla.embedded.home import Layout, home_directory, locked, recorded_layout, settled_layout, tentative_layout
from vaulthalla.embedded.postgres import PostgreSQL
from vaulthalla.embedded.valkey import Valkey

__all__ = ["Servers", "down", "ensure", "home_directory", "status", "urls"]


class Servers(NamedTuple):
    """Where the database and the broker are."""

    database_url: str
    redis_url: str


def urls() -> Servers:
    """The addresses, without starting anything."""
    layout = recorded_layout(home_directory()) or tentative_layout(home_directory())
    return Servers(_override("DATABASE_URL") or PostgreSQL(layout).url, _override("REDIS_URL") or Valkey(layout).url)


def ensure(*, migrate: bool = True) -> Servers:
    """Both servers running, and the embedded database at this version's schema.

    Costs about a millisecond when they already are.
    """
    external = Servers(_override("DATABASE_URL"), _override("REDIS_URL"))
    if all(external):
        return external
    home = home_directory()
    layout = recorded_layout(home)
    if layout is None or not _ready(layout, external, migrate=migrate):
        layout = _start(home, external, migrate=migrate)
    return Servers(
        external.database_url or PostgreSQL(layout).url,
        external.redis_url or Valkey(layout).url,
    )


def down() -> list[str]:
    """Stops what runs; returns the names of what was stopped. Never raises because nothing runs."""
    home = home_directory()
    if recorded_layout(home) is None:
        return []
    with locked(home):
        layout = recorded_layout(home)
        servers: list[PostgreSQL | Valkey] = [PostgreSQL(layout), Valkey(layout)] if layout else []
        return [server.name for server in servers if server.stop()]


def status() -> dict[str, Any]:
    """What runs, for people and scripts; never a password."""
    home = home_directory()
    layout = recorded_layout(home)
    return {
        "home": str(home),
        "state": str(layout.state) if layout else None,
        "postgresql": _describe(_override("DATABASE_URL"), PostgreSQL(layout) if layout else None),
        "valkey": _describe(_override("REDIS_URL"), Valkey(layout) if layout else None),
    }


def _override(name: str) -> str:
    return os.environ.get(name, "").strip()


def _ready(layout: Layout, external: Servers, *, migrate: bool) -> bool:
    if not external.redis_url and not Valkey(layout).ready():
        return False
    if external.database_url:
        return True
    return PostgreSQL(layout).ready() and (not migrate or schema.is_current(layout))


def _start(home: Path, external: Servers, *, migrate: bool) -> Layout:
    with locked(home):
        layout = settled_layout(home)
        postgres, valkey = PostgreSQL(layout), Valkey(layout)
        if not external.redis_url and not valkey.ready():
            valkey.start()
        if not external.database_url:
            if not postgres.ready():
                postgres.start()
            if migrate and not schema.is_current(layout):
                schema.apply(layout, postgres.url)
        return layout


def _describe(override: str, server: PostgreSQL | Valkey | None) -> dict[str, Any]:
    if override:
        return {"embedded": False, "url": _without_password(override)}
    if server is None:
        return {"embedded": True, "running": False, "pid": None}
    return {"embedded": True, "running": server.ready(), "pid": server.pid(), "url": server.url}


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{credentials.partition(':')[0]}{at}{place}"
