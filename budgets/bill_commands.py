"""`vh pricing bill …`: parse, call, print."""

from __future__ import annotations

from typing import Annotated

import typer

from budgets.commands import pricing_app
from vaulthalla.cliroot import command, group
from vaulthalla.console import Console

bill_app = group("What the provider says was asked of it, beside what was counted here.")
pricing_app.add_typer(bill_app, name="bill")
pricing_app.add_typer(bill_app, name="bills", hidden=True)


@command(bill_app, "import", example="vh pricing bill import --format aws-cur --file report-00001.csv.gz")
def import_(
    console: Console,
    *,
    file: Annotated[
        list[str],
        typer.Option("--file", metavar="FILE", help="Plain or gzipped; repeat it for the parts of one report."),
    ],
    report: Annotated[str, typer.Option("--format", help="aws-cur, storage-lens or r2-analytics.")],
    provider: Annotated[
        str | None, typer.Option("--provider", help="Whose it is; by default the format's own.")
    ] = None,
) -> None:
    """Store a usage report; the same period again replaces it, and a malformed file changes nothing."""
    from budgets.bills import import_bill, imported_text

    console.result(import_bill(file, report, provider), imported_text)


@command(bill_app, "compare", example="vh pricing bill compare --month 2026-11")
def compare(
    console: Console,
    *,
    month: Annotated[str | None, typer.Option("--month", metavar="YYYY-MM", help="This month by default.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, with a header.")] = False,
) -> None:
    """Show our count beside the provider's, bucket by bucket and class by class, with the drift."""
    from budgets.bill_report import as_csv, comparison, text
    from budgets.ledger import month_of

    found = comparison(month_of(month))
    if csv and not console.json:
        console.result(as_csv(found), as_csv(found))
        return
    console.result(found, text)
