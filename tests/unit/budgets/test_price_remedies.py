"""What lets a run go on that a price policy stopped."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from budgets.price_policy import Mode, Policy, Quote, Scope, Window, evaluate
from budgets.price_remedies import remedy

POLICY = Policy(id=1, scope=Scope.GLOBAL, mode=Mode.ENFORCE, max_daily=Decimal(1), max_catalog_age=100)
MINE = replace(POLICY, id=2, scope=Scope.VAULT, target="7", max_run=Decimal("0.1"))
QUOTE = Quote(amount=Decimal("0.40"), currency="USD", age=100)
REFRESH = "vh pricing catalog refresh --provider aws-s3"


@pytest.mark.parametrize(
    ("policies", "quote", "provider", "expected"),
    [
        ([POLICY], QUOTE, "aws-s3", ""),
        ([MINE], QUOTE, "aws-s3", "vh pricing budget set-vault 'my vault' --max-run 0.4"),
        (
            [POLICY],
            replace(QUOTE, age=101),
            "aws-s3",
            f"{REFRESH}\n# or: vh pricing budget set-global --allow-stale-catalog",
        ),
        # Nothing can be refreshed there, and every policy that blocks is named.
        (
            [POLICY, MINE],
            replace(QUOTE, age=101),
            "cloudflare-r2",
            "vh pricing budget set-global --allow-stale-catalog"
            " && vh pricing budget set-vault 'my vault' --allow-stale-catalog",
        ),
        (
            [POLICY, replace(MINE, allow_stale_catalog=True)],
            replace(QUOTE, age=101),
            "aws-s3",
            f"{REFRESH} && vh pricing budget set-vault 'my vault' --max-run 0.4\n# or: vh pricing budget set-global"
            " --allow-stale-catalog && vh pricing budget set-vault 'my vault' --max-run 0.4",
        ),
        ([POLICY], replace(QUOTE, currency="EUR"), "wasabi", "vh pricing budget set-global --currency EUR"),
        (
            [replace(POLICY, require_verified_catalog=True)],
            replace(QUOTE, verified=False),
            "aws-s3",
            "vh pricing budget set-global --no-require-verified-catalog",
        ),
        (
            [POLICY, MINE],
            replace(QUOTE, amount=None),
            "aws-s3",
            f"{REFRESH}\n# or: vh pricing budget set-global --mode warn"
            " && vh pricing budget set-vault 'my vault' --mode warn",
        ),
        (
            [POLICY],
            replace(QUOTE, amount=None, supported=False),
            "storj",
            "vh pricing budget set-global --mode warn\n# or: vh pricing catalog import FILE",
        ),
    ],
)
def test_the_narrowest_command(policies: list[Policy], quote: Quote, provider: str, expected: str) -> None:
    assert remedy(evaluate(policies, quote, {}), "my vault", provider) == expected


def test_a_day_pays_for_the_look_of_the_next_run_too() -> None:
    policy = replace(MINE, max_run=Decimal(0), max_monthly=Decimal("0.2"))
    decision = evaluate([policy], QUOTE, {(2, Window.DAILY): Decimal("0.9"), (2, Window.MONTHLY): Decimal("0.9")})
    assert remedy(decision, "v", "aws-s3", again=Decimal("0.000000001")) == (
        "vh pricing budget set-vault v --max-monthly 1.30000001 --max-daily 1.30000001 --max-run 0.4"
    )
