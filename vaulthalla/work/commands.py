"""`vh status`, `vh up` and `vh down`: what runs on this host."""

from __future__ import annotations

from typing import Any

import typer

from vaulthalla.cliroot import command, root
from vaulthalla.console import Console, fields


def register(root: typer.Typer) -> None:
    """The commands here belong to `vh` itself."""


@command(root, "status", example="vh status --json", database=False)
def status(console: Console) -> None:
    """Show the servers and what waits to be done. Starts nothing."""
    from vaulthalla import embedded
    from vaulthalla.work.servers import reachable, waiting

    found = reachable(embedded.status())
    found["work"] = waiting() if found["postgresql"]["running"] else None
    console.result(found, _status_text)


@command(root, "down", example="vh down", database=False)
def down(console: Console) -> None:
    """Stop the embedded servers. The next command starts them again."""
    from vaulthalla import embedded

    stopped = embedded.down()
    console.result({"stopped": stopped}, f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")


@command(root, "up", example="vh up", database=False)
def up(console: Console) -> int:
    """Run web, beat and workers in this terminal.

    There is one worker per queue. Ctrl-C stops them; what they cannot finish in time goes back to its queue.
    VAULTHALLA_BIND is the web's address (127.0.0.1:8000); VAULTHALLA_CONTROL, _INDEX and _TRANSFER are the numbers
    of processes per queue. The first time, an administrator is made and its password shown, once.
    """
    from vaulthalla.work.procfile import Manager, address, prepare

    admin = prepare()
    console.result({"url": address(), "admin": admin}, _up_text)
    return Manager().run()


def _status_text(found: dict[str, Any]) -> str:
    lines: list[tuple[str, Any]] = [("Home", found["home"])]
    for name in ("postgresql", "valkey"):
        server = found[name]
        state = "running" if server["running"] else "stopped" if server["embedded"] else "does not answer"
        kind = (
            f"embedded, pid {server['pid']}"
            if server.get("pid")
            else "embedded"
            if server["embedded"]
            else server["url"]
        )
        lines.append((name.replace("postgresql", "PostgreSQL").replace("valkey", "Valkey"), f"{state} ({kind})"))
    work = found["work"] or {}
    names = {"runs_active": "Active runs", "runs_queued": "Queued runs", "chunks_pending": "Chunks waiting"}
    lines += [(text, work[name]) for name, text in names.items() if name in work]
    if work.get("oldest_pending_seconds") is not None:
        lines.append(("Longest wait", f"{work['oldest_pending_seconds']} s"))
    return fields(lines)


def _up_text(value: dict[str, Any]) -> str:
    if not value["admin"]:
        return f"The admin is at {value['url']}"
    login = f"{value['admin']['user']} / {value['admin']['password']}"
    return f"The admin is at {value['url']}\nIts first account, shown only now: {login}"
