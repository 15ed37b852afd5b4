"""`vh notifications …`: parse, call, print."""

from __future__ import annotations

from typing import Annotated

import typer

from vaulthalla.cliroot import command, group
from vaulthalla.console import Console

notifications_app = group("What somebody should know of: blocked runs, limits that are used up, requests.")
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="Notifications, by id.")]


@command(notifications_app, "list", "ls", example="vh notifications list --all")
def list_(
    console: Console,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Also what is seen to or over; the newest 500.")] = False,
) -> None:
    """List what is open: one line per cause, however often it was found."""
    from budgets.notices import listing, text

    console.result({"notifications": listing(every=all_)}, text)


@command(notifications_app, "info", "show", "get", example="vh notifications info 7")
def info(console: Console, *, number: Annotated[str, typer.Argument(metavar="ID", help="Of a notification.")]) -> None:
    """Show one with what helps, and what came of sending it."""
    from budgets.notices import info_text, one, with_deliveries

    console.result(with_deliveries(one(number)), info_text)


@command(notifications_app, "ack", "acknowledge", example="vh notifications ack 7 --by maria")
def ack(
    console: Console,
    *,
    ids: Ids = None,
    all_: Annotated[bool, typer.Option("--all", help="Everything that is open.")] = False,
    by: Annotated[str | None, typer.Option("--by", help="Who says so; by default the user of this system.")] = None,
) -> None:
    """Say that it is seen to: it is sent no more, and the same cause stays silent until it is over."""
    from budgets.notices import acknowledge, as_json, text

    seen = acknowledge(ids or [], every=all_, by=by)
    console.result({"notifications": [as_json(row) for row in seen]}, text)


@command(notifications_app, "test", example="vh notifications test --channel webhook")
def try_out(
    console: Console,
    *,
    channel: Annotated[str | None, typer.Option("--channel", help="Only this one: email or webhook.")] = None,
) -> int:
    """Send a message that tells of nothing over each channel that is set up; 1 if one did not arrive."""
    from budgets.deliver import try_out, wanted

    found = try_out(wanted(channel))
    console.result(
        {"channels": found},
        "\n".join(f"{one['channel']}: {'delivered' if one['delivered'] else one['error']}" for one in found),
    )
    return 0 if all(one["delivered"] for one in found) else 1


@command(notifications_app, "send", example="vh notifications send")
def send(console: Console) -> int:
    """Look at policies and price lists and send what is open, as beat does every minute; 1 if one did not arrive."""
    from budgets.deliver import look_and_send

    sent = look_and_send(seconds=60)
    console.result(
        {"delivered": sent.delivered, "failed": sent.failed},
        f"{sent.delivered} delivered, {sent.failed} failed.",
    )
    return 1 if sent.failed else 0
