"""The truth table of price policies."""

from __future__ import annotations

import ast
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from budgets import price_policy
from budgets.catalog_builtin import builtin
from budgets.price_policy import Decision, Issue, Mode, Policy, Quote, Scope, Window, evaluate
from budgets.pricing import Catalog, Usage, price
from vaulthalla.requests import RequestClass as R

POLICY = Policy(id=1, scope=Scope.GLOBAL, mode=Mode.ENFORCE, max_daily=Decimal("1.00"), max_catalog_age=100)
QUOTE = Quote(amount=Decimal("0.40"), currency="USD", age=100)


def judged(
    policy: Policy = POLICY, quote: Quote = QUOTE, *, used: str = "0", window: Window = Window.DAILY
) -> Decision:
    return evaluate([policy], quote, {(policy.id, window): Decimal(used)})


@pytest.mark.parametrize(
    ("mode", "used", "result"),
    [
        (Mode.ENFORCE, "0.60", "pass"),  # what equals the limit passes
        (Mode.ENFORCE, "0.60000001", "fail"),
        (Mode.WARN, "0.60000001", "warn"),
        (Mode.REPORT, "0.60000001", "pass"),
        (Mode.OFF, "5", "pass"),
    ],
)
def test_only_enforce_blocks_and_only_above_the_limit(mode: Mode, used: str, result: str) -> None:
    decision = judged(replace(POLICY, mode=mode), used=used)
    assert (decision.result, decision.allowed) == (result, result != "fail")
    assert len(decision.checks) == (0 if mode is Mode.OFF else 1)


@pytest.mark.parametrize(
    ("quote", "policy", "issue"),
    [
        (replace(QUOTE, supported=False, amount=None), POLICY, Issue.UNSUPPORTED),
        (replace(QUOTE, amount=None), POLICY, Issue.UNKNOWN),
        (replace(QUOTE, verified=False), replace(POLICY, require_verified_catalog=True), Issue.UNVERIFIED),
        (replace(QUOTE, verified=False), POLICY, None),
        (replace(QUOTE, age=101), POLICY, Issue.STALE),
        (replace(QUOTE, age=101), replace(POLICY, allow_stale_catalog=True), None),
        (replace(QUOTE, age=10**9), replace(POLICY, max_catalog_age=None), None),
        (replace(QUOTE, age=None), POLICY, None),
        (replace(QUOTE, currency="EUR"), POLICY, Issue.CURRENCY),
        (QUOTE, POLICY, None),
    ],
)
def test_what_cannot_be_judged_blocks_under_enforce_alone(quote: Quote, policy: Policy, issue: Issue | None) -> None:
    decision = judged(policy, quote)
    assert [found for _, found in decision.issues] == ([issue] if issue else [])
    assert decision.result == ("fail" if issue else "pass")
    for mode in (Mode.REPORT, Mode.WARN):
        milder = judged(replace(policy, mode=mode), quote)
        assert milder.allowed
        assert (milder.result, milder.checks == ()) == (("warn", True) if issue else ("pass", False))


AWS, R2, MINIO = (
    next(prices.catalog for prices in builtin() if prices.catalog.provider == name)
    for name in ("aws-s3", "cloudflare-r2", "minio")
)
# The list that comes while a run is under way: ten times as dear.
NEW = replace(AWS, version="new", rates=tuple(replace(rate, price=rate.price * 10) for rate in AWS.rates))
PUTS = Usage(storage_class="STANDARD", requests={R.PUT: 1000})  # 0.005 USD
NOTHING = replace(POLICY, max_daily=Decimal(0))


@pytest.mark.parametrize(
    ("catalog", "usage", "policy", "result"),
    [
        (AWS, PUTS, replace(POLICY, max_daily=Decimal("0.005")), "pass"),
        (AWS, PUTS, replace(POLICY, max_daily=Decimal("0.00499999")), "fail"),
        # What costs nothing fits where nothing may be spent.
        (AWS, replace(PUTS, requests={R.DELETE: 10**9}), NOTHING, "pass"),
        (R2, replace(PUTS, requests={R.DELETE: 1, R.DOWNLOAD_BYTES: 10**15}), NOTHING, "pass"),
        (MINIO, replace(PUTS, storage_class="ANYTHING"), NOTHING, "pass"),
        (AWS, replace(PUTS, requests={R.PUT: 1, R.DELETE: 1}), NOTHING, "fail"),
        # A class that is not listed is unknown, unless nothing of it is asked, or only what costs the same in all.
        (AWS, replace(PUTS, storage_class="UNHEARD_OF"), POLICY, Issue.UNKNOWN),
        (AWS, replace(PUTS, storage_class="UNHEARD_OF", requests={R.PUT: 0}), POLICY, "pass"),
        (AWS, replace(PUTS, storage_class="UNHEARD_OF", requests={R.LIST: 1, R.DELETE: 1}), POLICY, "pass"),
        # However small the unknown part, however large the limit.
        (
            AWS,
            replace(PUTS, storage_class="UNHEARD_OF", requests={R.GET: 1}),
            replace(POLICY, max_daily=None),
            Issue.UNKNOWN,
        ),
        (replace(AWS, currency="EUR"), PUTS, POLICY, Issue.CURRENCY),
        (replace(AWS, currency="EUR"), PUTS, replace(POLICY, currency="EUR"), "pass"),
        # Free is free in any currency, but nobody says so of a list that is in another one.
        (replace(AWS, currency="EUR"), replace(PUTS, requests={R.DELETE: 1}), POLICY, Issue.CURRENCY),
        # Which list is asked makes the verdict: that a run keeps the one it began with is not decided here.
        (AWS, PUTS, replace(POLICY, max_daily=Decimal("0.01")), "pass"),
        (NEW, PUTS, replace(POLICY, max_daily=Decimal("0.01")), "fail"),
    ],
)
def test_from_a_price_list_to_a_verdict(catalog: Catalog, usage: Usage, policy: Policy, result: str) -> None:
    found = price(catalog, [usage])
    decision = judged(policy, Quote(amount=found.amount, currency=catalog.currency, unknowns=found.unknowns, age=0))
    issues = [issue for _, issue in decision.issues]
    assert (issues[0] if issues else decision.result) == result
    assert decision.unknowns == found.unknowns
    assert decision.allowed is (result == "pass")


def test_nothing_is_asked_of_a_free_price_and_zero_may_be_the_limit() -> None:
    free = replace(QUOTE, amount=Decimal(0))
    assert judged(replace(POLICY, max_daily=Decimal(0)), free).result == "pass"
    assert judged(replace(POLICY, max_daily=Decimal(0))).result == "fail"


def test_a_policy_without_limits_tells_what_is_spent() -> None:
    check = judged(replace(POLICY, max_daily=None)).checks[0]
    assert (check.window, check.limit, check.exceeded) == (Window.RUN, None, False)
    assert (check.as_json()["requested"], check.as_json()["remaining_before"]) == ("0.40", None)


def test_every_policy_must_agree_and_the_longest_window_is_told() -> None:
    first = replace(POLICY, id=3, max_run=Decimal("0.1"))
    second = replace(POLICY, id=2, scope=Scope.VAULT, max_daily=None, max_monthly=Decimal("0.3"))
    third = replace(POLICY, id=4, scope=Scope.PROVIDER, max_daily=Decimal(9))
    decision = evaluate([first, second, third], QUOTE, {(3, Window.DAILY): Decimal("0.7")})
    assert decision.blocking_policies == {2, 3}
    assert [(c.policy.id, c.window.value) for c in decision.blocking] == [
        (2, "monthly"),
        (3, "daily"),
        (3, "per_run"),
    ]
    assert decision.reason == "S3 price budget exceeded for monthly vault policy 2"
    assert decision.as_json()["primary_blocking_window"] == "monthly"
    assert decision.as_json()["blocking_policy_ids"] == ["2", "3"]


def test_an_override_tolerates_what_it_names_and_no_more() -> None:
    other = replace(POLICY, id=2)
    used = {(n, Window.DAILY): Decimal(1) for n in (1, 2)}
    assert evaluate([POLICY, other], QUOTE, used, tolerated=frozenset({1})).blocking_policies == {2}
    both = evaluate([POLICY, other], QUOTE, used, tolerated=frozenset({1, 2}))
    assert (both.result, "override" in both.warnings[0]) == ("warn", True)
    stale = evaluate([POLICY], replace(QUOTE, age=10**9), {}, tolerated=frozenset({1}))
    assert not stale.allowed


def test_the_limit_that_would_do_is_exact() -> None:
    check = judged(used="0.84000001").checks[0]
    assert (check.needed, check.remaining) == (Decimal("1.24000001"), Decimal("0.15999999"))


@pytest.mark.parametrize(
    "name",
    [
        "amounts",
        "bill_compare",
        "bill_read",
        "class_use",
        "ledger",
        "models",
        "overrides",
        "policies",
        "price_policy",
        "pricing",
        "reserve",
        "sql",
    ],
)
def test_no_float_takes_part_in_money(name: str) -> None:
    source = Path(price_policy.__file__).with_name(f"{name}.py").read_text()
    for node in ast.walk(ast.parse(source)):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), ast.dump(node)
        assert not (isinstance(node, ast.Name) and node.id == "float"), ast.dump(node)
        assert not (isinstance(node, ast.Attribute) and node.attr in ("FloatField", "to_float")), ast.dump(node)
        is_division = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        assert not is_division or "Decimal" in ast.dump(node), ast.dump(node)
