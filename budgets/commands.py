"""`vh pricing …`: parse, call, print; and where the commands of this app are mounted."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from budgets.notification_commands import notifications_app
from vaulthalla.cliroot import command, group
from vaulthalla.console import Console

pricing_app = group("What requests and bytes cost.")
catalog_app = group("The price lists that plans and runs are priced by.")
pricing_app.add_typer(catalog_app, name="catalog")

OnlyProvider = Annotated[str | None, typer.Option("--provider", help="Only this one: aws-s3, cloudflare-r2, …")]
OnlyRegion = Annotated[str | None, typer.Option("--region", help="Only this region.")]
File = Annotated[str, typer.Argument(metavar="FILE", help="JSON: our format, or Amazon's price list of a region.")]


def register(root: typer.Typer) -> None:
    # Its commands attach themselves to the group above.
    import_module("budgets.budget_commands")
    import_module("budgets.bill_commands")
    root.add_typer(pricing_app, name="pricing")
    root.add_typer(pricing_app, name="price", hidden=True)
    root.add_typer(notifications_app, name="notifications")
    root.add_typer(notifications_app, name="notification", hidden=True)


@command(catalog_app, "show", "list", "ls", example="vh pricing catalog show --provider aws-s3")
def show(console: Console, *, provider: OnlyProvider = None, region: OnlyRegion = None) -> None:
    """Show the prices that hold now, with their version, source and age."""
    from budgets.catalog_show import current, current_text

    console.result({"lists": current(provider=provider, region=region)}, current_text)


@command(catalog_app, "import", example="vh pricing catalog import prices.json")
def import_(console: Console, *, file: File) -> None:
    """Store a price list from a file as a new version; a malformed one changes nothing."""
    from budgets.catalog import store
    from budgets.catalog_refresh import read_any
    from budgets.catalog_show import imported, imported_text, read_file

    prices = read_any(read_file(file))
    console.result(imported(prices, stored=store(prices)), imported_text)


@command(catalog_app, "verify", example="vh pricing catalog verify prices.json")
def verify(
    console: Console,
    *,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="A list to look at without storing it.")] = None,
) -> int:
    """Say whether price lists are fresh and which prices they lack; 1 if one of those in use is stale."""
    from budgets.catalog_refresh import read_any
    from budgets.catalog_show import read_file, verified_file, verified_lists, verified_text

    found = verified_file(read_any(read_file(file))) if file else verified_lists()
    console.result(found, verified_text)
    return 0 if found["ok"] else 1


@command(catalog_app, "refresh", example="vh pricing catalog refresh --region eu-central-1")
def refresh(console: Console, *, provider: OnlyProvider = None, region: OnlyRegion = None) -> int:
    """Read the providers' public price lists for the regions in use. On any failure the known version stays."""
    from dataclasses import asdict

    from budgets.catalog_refresh import refresh as refresh_one
    from budgets.catalog_show import wanted

    came = [refresh_one(*pair) for pair in wanted(provider, region)]
    console.result({"lists": [asdict(one) for one in came]}, "\n".join(one.text for one in came))
    return 1 if any(one.result == "failed" for one in came) else 0
