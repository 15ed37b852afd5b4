"""The narrowest commands that let a run go on which price policies stopped: pure."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from shlex import quote

from budgets.price_policy import Check, Decision, Issue, Policy, Scope, Window
from budgets.pricing import CENT, EXACT
from vaulthalla.remedies import OR

# Whose price lists can be read by a program, without credentials.
READABLE = ("aws-s3",)


def remedy(decision: Decision, vault: str, provider: str, *, again: Decimal = Decimal(0)) -> str:
    """Of all policies that block, so that none is left; `again`: what the next run spends before it comes this far.

    Where a price cannot be judged there may be another way, which follows as a comment.
    """
    ways = [_issue_ways(policy, issue, vault, provider, decision.currency) for policy, issue in decision.issues]
    by_policy: dict[int, list[Check]] = {}
    for check in decision.blocking:
        by_policy.setdefault(check.policy.id, []).append(check)
    raised = [_raise(checks, vault, again) for checks in by_policy.values()]
    either = (" && ".join(dict.fromkeys([*(way[number] for way in ways), *raised])) for number in (0, -1))
    return OR.join(dict.fromkeys(either))


def _raise(checks: list[Check], vault: str, again: Decimal) -> str:
    # A run's own window begins anew with the next run; that of a day or a month has paid for this one.
    needed = {c.window: c.needed if c.window is Window.RUN else EXACT.add(c.needed, again) for c in checks}
    options = " ".join(f"{window.option} {_up(amount)}" for window, amount in needed.items())
    return f"{_setter(checks[0].policy, vault)} {options}"


def _setter(policy: Policy, vault: str) -> str:
    target = {Scope.GLOBAL: "", Scope.PROVIDER: f" {policy.target}", Scope.VAULT: f" {quote(vault)}"}[policy.scope]
    return f"vh pricing budget set-{policy.scope.value}{target}"


def _issue_ways(policy: Policy, issue: Issue, vault: str, provider: str, currency: str) -> tuple[str, ...]:
    """One way or two. Newer prices come before a policy that asks for less."""
    setter, readable = _setter(policy, vault), provider in READABLE
    refresh = f"vh pricing catalog refresh --provider {provider}"
    match issue:
        case Issue.STALE:
            leave = f"{setter} --allow-stale-catalog"
            return (refresh, leave) if readable else (leave,)
        case Issue.UNVERIFIED:
            return (f"{setter} --no-require-verified-catalog",)
        case Issue.CURRENCY:
            return (f"{setter} --currency {currency}",)
        case Issue.UNKNOWN | Issue.UNSUPPORTED:
            leave = f"{setter} --mode warn"
            return (refresh, leave) if readable else (leave, "vh pricing catalog import FILE")


def _up(amount: Decimal) -> str:
    """Rounded up: a limit of just as much passes."""
    return f"{amount.quantize(CENT, rounding=ROUND_CEILING, context=EXACT).normalize(EXACT):f}"
