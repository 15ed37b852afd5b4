"""`vh pricing budget|override|report …`: parse, call, print."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from budgets.commands import pricing_app
from vaulthalla.cliroot import command, group
from vaulthalla.console import Console
from vaulthalla.errors import Refused

budget_app = group("What may be spent, in money.")
override_app = group("Leave for one run to pass price policies, once.")
pricing_app.add_typer(budget_app, name="budget")
pricing_app.add_typer(budget_app, name="budgets", hidden=True)
pricing_app.add_typer(override_app, name="override")
pricing_app.add_typer(override_app, name="overrides", hidden=True)

OPTIONS: dict[str, Any] = {
    "mode": Annotated[str | None, typer.Option("--mode", help="off, report, warn or enforce.")],
    "currency": Annotated[str | None, typer.Option("--currency", help="Of the limits: USD.")],
    "max_run": Annotated[str | None, typer.Option("--max-run", metavar="AMOUNT", help="Per run; none clears it.")],
    "max_daily": Annotated[str | None, typer.Option("--max-daily", metavar="AMOUNT", help="Per UTC day.")],
    "max_monthly": Annotated[str | None, typer.Option("--max-monthly", metavar="AMOUNT", help="Per UTC month.")],
    "max_catalog_age": Annotated[
        str | None, typer.Option("--max-catalog-age", metavar="AGE", help="Older price lists are stale: 43200, 30d.")
    ],
    "allow_stale_catalog": Annotated[
        bool | None, typer.Option("--allow-stale-catalog/--no-allow-stale-catalog", help="Decide by stale prices too.")
    ],
    "require_verified_catalog": Annotated[
        bool | None,
        typer.Option(
            "--require-verified-catalog/--no-require-verified-catalog", help="Only by lists that lack no price."
        ),
    ],
}
NAMED = tuple(f"--{name.replace('_', '-')}" for name in OPTIONS)
VaultName = Annotated[str, typer.Argument(metavar="VAULT", help="Name or id of a vault with a bucket.")]
ProviderKey = Annotated[str, typer.Argument(metavar="PROVIDER", help="aws-s3, cloudflare-r2, …")]
By = Annotated[str | None, typer.Option("--by", help="Who says so; by default the user of this system.")]
Number = Annotated[str, typer.Argument(metavar="ID", help="Of an override.")]


def _set(console: Console, scope: str, name: str | None, policy: dict[str, Any]) -> None:
    from budgets.policies import as_json, set_policy, text
    from budgets.price_policy import Scope

    if not policy:
        raise Refused(
            f"There is nothing to set: name {', '.join(NAMED[:-1])} or {NAMED[-1]}.",
            code="invalid_value",
            remedy=f"See `vh pricing budget set-{scope} --help`.",
        )
    found = as_json(set_policy(Scope(scope), name, policy))
    console.result(found, lambda value: text({"policies": [value]}))


def _disable(console: Console, scope: str, name: str | None) -> None:
    from budgets.policies import as_json, disable, text
    from budgets.price_policy import Scope

    found = as_json(disable(Scope(scope), name))
    console.result(found, lambda value: text({"policies": [value]}))


@command(budget_app, "list", "ls", example="vh pricing budget list")
def list_(console: Console) -> None:
    """Show the price policies."""
    from budgets.policies import listing, text

    console.result({"policies": listing()}, text)


@command(
    budget_app,
    "set-global",
    example="vh pricing budget set-global --mode enforce --max-monthly 50",
    expand={"policy": OPTIONS},
)
def set_global(console: Console, *, policy: dict[str, Any]) -> None:
    """Limit what all vaults spend together; what is not named stays."""
    _set(console, "global", None, policy)


@command(
    budget_app,
    "set-provider",
    example="vh pricing budget set-provider aws-s3 --max-daily 2",
    expand={"policy": OPTIONS},
)
def set_provider(console: Console, *, provider: ProviderKey, policy: dict[str, Any]) -> None:
    """Limit what a provider's vaults spend together."""
    _set(console, "provider", provider, policy)


@command(
    budget_app,
    "set-vault",
    example="vh pricing budget set-vault archive --mode enforce --max-run 0.10",
    expand={"policy": OPTIONS},
)
def set_vault(console: Console, *, vault: VaultName, policy: dict[str, Any]) -> None:
    """Limit what one vault spends."""
    _set(console, "vault", vault, policy)


@command(budget_app, "disable-global", example="vh pricing budget disable-global")
def disable_global(console: Console) -> None:
    """Turn the global policy off; its limits stay."""
    _disable(console, "global", None)


@command(budget_app, "disable-provider", example="vh pricing budget disable-provider aws-s3")
def disable_provider(console: Console, *, provider: ProviderKey) -> None:
    """Turn a provider's policy off."""
    _disable(console, "provider", provider)


@command(budget_app, "disable-vault", example="vh pricing budget disable-vault archive")
def disable_vault(console: Console, *, vault: VaultName) -> None:
    """Turn a vault's policy off."""
    _disable(console, "vault", vault)


@command(budget_app, "status", example="vh pricing budget status")
def status(console: Console) -> None:
    """Show each policy's windows and the newest entries of the ledger."""
    from budgets.ledger import entries, entries_text, status_text
    from budgets.ledger import status as windows

    found = {"status": windows(), "entries": entries(20)}
    console.result(found, lambda value: f"{status_text(value)}\n\n{entries_text(value)}")


@command(budget_app, "ledger", example="vh pricing budget ledger --limit 100 --csv")
def ledger(
    console: Console,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many, the newest first: at most 1000.")] = 50,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, with a header.")] = False,
) -> None:
    """Show what was reserved, spent, lost and released."""
    from budgets.ledger import as_csv, entries, entries_text

    found = entries(limit)
    if csv:
        console.result(as_csv(found), as_csv(found)) if not console.json else console.result({"csv": as_csv(found)})
        return
    console.result({"entries": found}, entries_text)


@command(pricing_app, "report", example="vh pricing report --month 2026-11")
def report(
    console: Console,
    *,
    month: Annotated[str | None, typer.Option("--month", metavar="YYYY-MM", help="This month by default.")] = None,
) -> None:
    """Show what a month cost by vault, class and operation, and what it will come to."""
    from budgets.ledger import month_of, report_text
    from budgets.ledger import report as of_month

    console.result(of_month(month_of(month)), report_text)


@command(override_app, "request", example='vh pricing override request archive --policy 3 --reason "first upload"')
def request(
    console: Console,
    *,
    vault: VaultName,
    policy: Annotated[list[int], typer.Option("--policy", help="Id of a policy to pass; repeat it for each.")],
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    ttl: Annotated[str, typer.Option("--ttl", help="How long it holds: 1m to 2h.")] = "30m",
    by: By = None,
) -> None:
    """Ask for leave to pass exactly these policies with one run."""
    from datetime import timedelta

    from budgets import overrides
    from vaulthalla.units import duration
    from vaulthalla.vaults.lookup import vault_by_name

    lasting = timedelta(seconds=int(duration(ttl, option="--ttl")))
    found = overrides.request(vault_by_name(vault), policy, reason=reason, by=by, ttl=lasting)
    found.refresh_from_db()
    _tell(console, overrides.as_json(found))


def _tell(console: Console, found: dict[str, Any]) -> None:
    from vaulthalla.console import fields

    console.result(found, lambda value: fields((name, _cell(one)) for name, one in value.items()))


def _cell(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value


def _decide(console: Console, number: str, status: str, by: str | None) -> None:
    from budgets import overrides
    from budgets.models import OverrideStatus

    found = overrides.decide(number, OverrideStatus(status), by=by)
    _tell(console, overrides.as_json(found))


@command(override_app, "approve", example="vh pricing override approve 7 --by maria")
def approve(console: Console, *, number: Number, by: By = None) -> None:
    """Grant it; not by who requested it, unless a superuser."""
    _decide(console, number, "approved", by)


@command(override_app, "deny", example="vh pricing override deny 7")
def deny(console: Console, *, number: Number, by: By = None) -> None:
    """Refuse it."""
    _decide(console, number, "denied", by)


@command(override_app, "cancel", example="vh pricing override cancel 7")
def cancel(console: Console, *, number: Number, by: By = None) -> None:
    """Withdraw it, approved or not."""
    _decide(console, number, "cancelled", by)


@command(override_app, "list", "ls", example="vh pricing override list")
def override_list(console: Console) -> None:
    """Show who asked for what, who decided, and which run used it."""
    from budgets.overrides import listing
    from vaulthalla.console import table

    columns = ("id", "vault", "policies", "status", "requested_by", "decided_by", "run", "expires_at", "reason")
    console.result(
        {"overrides": listing()},
        lambda value: table(
            [name.upper() for name in columns], [[_cell(o[name]) for name in columns] for o in value["overrides"]]
        ),
    )
