"""What holds of prices, policies and shares whatever the numbers are; exact arithmetic is compared with fractions."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from budgets.price_policy import Mode, Policy, Quote, Scope, Window, evaluate
from budgets.pricing import Catalog, Charge, Rate, Unit, Usage, money, month_price, price, rounded, unit_price
from budgets.share import affordable, shares, unpaid
from budgets.sql import Line
from tests.unit.budgets.test_pricing import R2
from vaulthalla.requests import RequestClass, Requests

CLASSES = ("STANDARD", "STANDARD_IA", "GLACIER")
EIGHTH = Fraction(1, 10**8)

amounts = st.decimals(min_value=0, max_value=10**11, places=8, allow_nan=False, allow_infinity=False)
small = st.decimals(min_value=0, max_value=2, places=2, allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=0, max_value=2**63 - 1)


# --- policies ---

limits = st.none() | small
policies = st.builds(
    Policy,
    id=st.integers(min_value=1, max_value=6),
    scope=st.sampled_from(Scope),
    mode=st.sampled_from(Mode),
    currency=st.sampled_from(("USD", "USD", "EUR")),
    max_run=limits,
    max_daily=limits,
    max_monthly=limits,
    max_catalog_age=st.none() | st.integers(min_value=1, max_value=5),
    allow_stale_catalog=st.booleans(),
    require_verified_catalog=st.booleans(),
)
sets = st.lists(policies, max_size=5, unique_by=lambda policy: policy.id)
quotes = st.builds(
    Quote,
    amount=small | st.none(),
    currency=st.just("USD"),
    supported=st.booleans() | st.just(True),
    verified=st.booleans(),
    age=st.none() | st.integers(min_value=0, max_value=6),
)
Used = Mapping[tuple[int, Window], Decimal]
used = st.dictionaries(st.tuples(st.integers(min_value=1, max_value=6), st.sampled_from(Window)), small)
tolerated = st.frozensets(st.integers(min_value=1, max_value=6))


def fits(policy: Policy, quote: Quote, before: Used) -> bool:
    """Said once more, in other words: the price can be judged, and no window is passed by it."""
    if quote.amount is None or not quote.supported or policy.currency != quote.currency:
        return False
    if policy.require_verified_catalog and not quote.verified:
        return False
    limit = policy.max_catalog_age
    if limit is not None and quote.age is not None and quote.age > limit and not policy.allow_stale_catalog:
        return False
    own = {Window.RUN: policy.max_run, Window.DAILY: policy.max_daily, Window.MONTHLY: policy.max_monthly}
    return all(most is None or before.get((policy.id, name), 0) + quote.amount <= most for name, most in own.items())


@given(sets, quotes, used)
def test_it_is_allowed_exactly_when_every_enforcing_policy_is_kept(
    some: list[Policy], quote: Quote, before: Used
) -> None:
    enforcing = [policy for policy in some if policy.mode is Mode.ENFORCE]
    decision = evaluate(some, quote, before)
    assert decision.allowed is all(fits(policy, quote, before) for policy in enforcing)
    told = {policy.id for policy, _ in decision.issues} | decision.blocking_policies
    assert told == {policy.id for policy in enforcing if not fits(policy, quote, before)}
    assert (decision.reason == "") is decision.allowed


@given(sets, quotes, used, st.randoms())
def test_the_order_of_policies_makes_no_difference(
    some: list[Policy], quote: Quote, before: Used, chance: random.Random
) -> None:
    shuffled = list(some)
    chance.shuffle(shuffled)
    assert evaluate(shuffled, quote, before) == evaluate(some, quote, before)


@given(sets, quotes, used, policies)
def test_one_policy_more_never_allows_more(some: list[Policy], quote: Quote, before: Used, one: Policy) -> None:
    others = [policy for policy in some if policy.id != one.id]
    assert evaluate(others, quote, before).allowed or not evaluate([*others, one], quote, before).allowed


@given(sets, quotes, used, small)
def test_asking_for_more_or_having_spent_more_never_helps(
    some: list[Policy], quote: Quote, before: Used, extra: Decimal
) -> None:
    dearer = replace(quote, amount=None if quote.amount is None else quote.amount + extra)
    spent = {(policy.id, name): before.get((policy.id, name), Decimal(0)) + extra for policy in some for name in Window}
    if not evaluate(some, quote, before).allowed:
        assert not evaluate(some, dearer, before).allowed
        assert not evaluate(some, quote, spent).allowed


@given(sets, quotes, used)
def test_milder_modes_allow_everything(some: list[Policy], quote: Quote, before: Used) -> None:
    for mode in (Mode.OFF, Mode.REPORT, Mode.WARN):
        assert evaluate([replace(policy, mode=mode) for policy in some], quote, before).allowed


@given(sets, quotes, used, tolerated)
def test_an_override_lifts_limits_of_what_it_names_and_nothing_else(
    some: list[Policy], quote: Quote, before: Used, named: frozenset[int]
) -> None:
    plain, lifted = evaluate(some, quote, before), evaluate(some, quote, before, tolerated=named)
    assert lifted.blocking_policies == plain.blocking_policies - named
    assert (lifted.issues, lifted.checks) == (plain.issues, plain.checks)
    assert evaluate(some, quote, before, tolerated=plain.blocking_policies).allowed is not bool(plain.issues)


enforced = policies.map(lambda policy: replace(policy, mode=Mode.ENFORCE, currency="USD", max_catalog_age=None))
enforced = enforced.map(lambda policy: replace(policy, require_verified_catalog=False))


@given(st.lists(enforced, min_size=1, max_size=5, unique_by=lambda policy: policy.id), small, used)
def test_the_remedy_suffices_and_nothing_less_does(some: list[Policy], amount: Decimal, before: Used) -> None:
    """Each limit that blocks, raised to exactly what is needed."""
    quote = Quote(amount=amount, currency="USD")
    decision = evaluate(some, quote, before)
    assume(decision.blocking)
    field = {Window.RUN: "max_run", Window.DAILY: "max_daily", Window.MONTHLY: "max_monthly"}
    by_id = {policy.id: policy for policy in some}
    for check in decision.blocking:
        by_id[check.policy.id] = replace(by_id[check.policy.id], **{field[check.window]: check.needed})
    assert evaluate(by_id.values(), quote, before).allowed
    one = decision.blocking[0]
    less = replace(by_id[one.policy.id], **{field[one.window]: one.needed - Decimal("0.00000001")})
    assert not evaluate([*(p for p in by_id.values() if p.id != less.id), less], quote, before).allowed


# --- prices ---

BYTES = (Charge.EGRESS, Charge.RETRIEVAL)


@st.composite
def catalogs(draw: st.DrawFn, *, whole: bool = False) -> Catalog:
    """Any rates; `whole`: none is missing."""
    rates = []
    for charge in Charge:
        units = (Unit.GB, Unit.GIB) if charge in BYTES else (Unit.THOUSAND, Unit.MILLION)
        for name in ("*", *CLASSES):
            if (whole and name == "*") or draw(st.booleans()):
                unit = draw(st.sampled_from(units))
                rates.append(Rate(storage_class=name, charge=charge, unit=unit, price=draw(amounts)))
    return Catalog(provider="p", region="r", currency="USD", version="1", rates=tuple(rates))


requests = st.dictionaries(st.sampled_from(RequestClass), counts)
usages = st.builds(Usage, storage_class=st.sampled_from(CLASSES), requests=requests, copied_bytes=counts)


def exactly(catalog: Catalog, some: list[Usage]) -> Fraction:
    """The price in fractions, from the quantities alone."""
    sizes = {Unit.THOUSAND: 1_000, Unit.MILLION: 10**6, Unit.GB: 10**9, Unit.GIB: 2**30}
    total = Fraction(0)
    for usage in some:
        for charge, quantity in usage.quantities():
            rate = catalog.rate(usage.storage_class, charge)
            if quantity and rate:
                total += Fraction(rate.price) * quantity / sizes[rate.unit]
    return total


@given(catalogs(whole=True), st.lists(usages, max_size=4))
def test_a_price_is_the_exact_one_rounded_once(catalog: Catalog, some: list[Usage]) -> None:
    found = price(catalog, some).amount
    assert found is not None
    assert abs(Fraction(found) - exactly(catalog, some)) <= EIGHTH / 2
    assert found == rounded(found)


@given(catalogs(), st.lists(usages, max_size=4))
def test_a_price_is_unknown_exactly_when_a_part_of_it_is(catalog: Catalog, some: list[Usage]) -> None:
    missing = any(
        quantity and catalog.rate(usage.storage_class, charge) is None
        for usage in some
        for charge, quantity in usage.quantities()
    )
    found = price(catalog, some)
    assert ((found.amount is None), bool(found.unknowns)) == (missing, missing)


@given(catalogs(whole=True), st.sampled_from(CLASSES), requests, st.integers(min_value=1, max_value=5))
def test_using_it_in_parts_costs_the_same(
    catalog: Catalog, storage_class: str, whole: dict[RequestClass, int], parts: int
) -> None:
    pieces = [
        Usage(
            storage_class=storage_class,
            requests={name: count // parts + (number < count % parts) for name, count in whole.items()},
        )
        for number in range(parts)
    ]
    assert price(catalog, pieces) == price(catalog, [Usage(storage_class=storage_class, requests=whole)])


@given(catalogs(whole=True), st.lists(usages, min_size=1, max_size=4))
def test_what_is_reserved_by_the_dearest_class_suffices(catalog: Catalog, some: list[Usage]) -> None:
    """The sum of unit prices is never below the price class by class; copied bytes are priced apart."""
    plain = [replace(usage, copied_bytes=0) for usage in some]
    reserved = Fraction(0)
    for name in RequestClass:
        each = unit_price(catalog, {usage.storage_class for usage in plain}, name)
        assert each is not None
        reserved += Fraction(each) * sum(usage.requests.get(name, 0) for usage in plain)
    # A byte's price in GiB does not end within sixty digits.
    assert reserved >= exactly(catalog, plain) * (1 - Fraction(1, 10**30))


@given(st.lists(usages, max_size=4), usages)
def test_a_rounded_month_is_never_cheaper_and_grows_with_use(some: list[Usage], one: Usage) -> None:
    known = [replace(usage, storage_class=usage.storage_class.replace("GLACIER", "STANDARD")) for usage in some]
    more = [*known, replace(one, storage_class="STANDARD_IA")]
    month, marginal, grown = month_price(R2, known), price(R2, known), month_price(R2, more)
    assert month.amount is not None
    assert marginal.amount is not None
    assert grown.amount is not None
    assert marginal.amount <= month.amount <= grown.amount


@given(st.lists(usages, max_size=6), st.randoms())
def test_a_month_knows_no_order(some: list[Usage], chance: random.Random) -> None:
    known = [replace(usage, storage_class=usage.storage_class.replace("GLACIER", "STANDARD")) for usage in some]
    shuffled = list(known)
    chance.shuffle(shuffled)
    assert month_price(R2, shuffled) == month_price(R2, known)


@given(st.decimals(min_value=-(10**20), max_value=10**20, allow_nan=False, allow_infinity=False))
def test_money_reads_back_as_it_was(amount: Decimal) -> None:
    text = money(amount)
    assert re.fullmatch(r"-?[0-9]+\.[0-9]{2,8}", text)
    assert Decimal(text) == rounded(amount)


# --- shares ---


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """As the database allows them: within the limit, and within what is paid for."""
    took = [draw(st.integers(min_value=0, max_value=50)) for _ in range(3)]
    limit = draw(st.none() | st.integers(min_value=sum(took), max_value=sum(took) + 50))
    reserved = draw(st.none() | st.integers(min_value=sum(took), max_value=sum(took) + 50))
    return Line(limit=limit, used=took[0], held=took[1], lost=took[2], reserved=reserved)


needs = st.dictionaries(st.sampled_from(RequestClass), st.integers(min_value=0, max_value=60)).map(Requests)


@given(st.fixed_dictionaries(dict.fromkeys(RequestClass, lines())), needs, needs, st.integers(0, 9))
def test_a_share_is_within_the_limit_and_enough_to_begin_with(
    some: dict[RequestClass, Line], need: Requests, least: Requests, workers: int
) -> None:
    granted, refused = shares(some, need=need, at_least=least, workers=workers)
    for name, line in some.items():
        left = line.remaining
        assert (name in refused) is (left is not None and least[name] > left)
        if name not in refused:
            assert least[name] <= granted[name] <= max(need[name], least[name])
            assert left is None or granted[name] <= left
    kept = Requests({name: count for name, count in granted.items() if name not in refused})
    paid = affordable(some, kept, at_least=least)
    for name, count in paid.items():
        assert min(least[name], kept[name]) <= count <= kept[name]
        # Only what it cannot begin without is still to be paid for.
        assert unpaid(some, paid)[name] == 0 or count == least[name]
