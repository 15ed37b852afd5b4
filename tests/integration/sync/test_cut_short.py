"""What a plan's writes and deletes end before its time: the statement agrees with the pure rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budgets.pricing import MINIMUMS
from budgets.reserve import unit_prices
from indexing.models import RemoteObject, Source
from sync import sql
from sync.models import Operation
from sync.prices import early_deletion, mark_cut_short, usages
from tests.unit.budgets.test_pricing import AWS
from vaulthalla.requests import RequestClass, Requests
from vaulthalla.vaults.models import ApiKey, SyncPolicy, Vault, VaultKind
from vaulthalla.work.models import Run, RunKind

pytestmark = pytest.mark.django_db

CLASSES = ["STANDARD", "INTELLIGENT_TIERING", *(name for provider, name in MINIMUMS if provider == "aws-s3")]
ENDING = {"upload": RequestClass.PUT, "delete_remote": RequestClass.DELETE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    action: str
    status: str
    storage_class: str
    size: int
    age: int


plans = st.lists(
    st.builds(
        Planned,
        action=st.sampled_from([*ENDING, "download", "keep_both", "copy"]),
        status=st.sampled_from(["pending", "done", "failed"]),
        storage_class=st.sampled_from(CLASSES),
        size=st.integers(0, 2**50) | st.integers(0, 300_000),
        age=st.integers(-100, 200 * 86_400),
    ),
    max_size=12,
)


@pytest.fixture
def run() -> Run:
    key = ApiKey.objects.create(name="key", provider="aws", access_key="access", secret="secret", region="us-east-1")
    vault = Vault.objects.create(
        name="photos", kind=VaultKind.S3, root="/photos", marker=uuid4(), bucket="bucket", api_key=key
    )
    SyncPolicy.objects.create(vault=vault)
    return Run.objects.create(vault=vault, kind=RunKind.SYNC)


def prepare(run: Run, planned: list[Planned]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        (now,) = cursor.fetchone()
    Operation.objects.filter(run=run).delete()
    RemoteObject.objects.filter(vault=run.vault).delete()
    for ordinal, one in enumerate(planned):
        RemoteObject.objects.create(
            vault=run.vault,
            key=str(ordinal),
            size=one.size,
            etag="e",
            last_modified=now - timedelta(seconds=one.age),
            storage_class=one.storage_class,
            source=Source.LIST,
            observed_at=now,
        )
        Operation.objects.create(
            run=run,
            ordinal=ordinal,
            path=str(ordinal),
            action=one.action,
            status=one.status,
            planned={"remote": {"storage_class": one.storage_class}},
        )


def expected(planned: list[Planned], statuses: set[str]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for one in planned:
        minimum = MINIMUMS.get(("aws-s3", one.storage_class))
        if minimum and one.action in ENDING and one.status in statuses:
            found[one.action, one.storage_class] += minimum.cut_short(one.size, one.age)
    return +found


def told(run: Run, *, done: bool = False) -> dict[tuple[str, str], int]:
    return {
        (action, name): amount
        for action in ENDING
        for name, amount in sql.cut_short(run.pk, action, done=done, most=100)
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(planned=plans)
def test_the_statement_is_the_rule(run: Run, planned: list[Planned]) -> None:
    assert run.vault is not None
    with transaction.atomic():
        prepare(run, planned)
        mark_cut_short(run.pk, run.vault)
        for done, statuses in ((False, {"pending", "done"}), (True, {"done"})):
            assert told(run, done=done) == expected(planned, statuses)


def test_a_new_object_at_the_place_of_an_old_one_ends_nothing(run: Run) -> None:
    assert run.vault is not None
    prepare(run, [Planned(action="upload", status="pending", storage_class="GLACIER_IR", size=5, age=1)])
    RemoteObject.objects.update(tombstone=True)
    mark_cut_short(run.pk, run.vault)
    assert told(run) == {}


@pytest.mark.parametrize("action", ["converge", "conflict", "download", "leave", "delete_local"])
def test_what_came_to_something_else_ended_nothing(run: Run, action: str) -> None:
    assert run.vault is not None
    prepare(run, [Planned(action="upload", status="pending", storage_class="GLACIER_IR", size=5, age=1)])
    mark_cut_short(run.pk, run.vault)
    assert told(run)
    Operation.objects.update(action=action, status="done")
    assert told(run, done=True) == {}
    done = usages(run.pk, run.vault, Requests({RequestClass.PUT: 1}), over=True)
    assert early_deletion(AWS, done).amount == 0


def test_a_request_limit_lets_the_dearest_through(run: Run) -> None:
    """Whichever objects end first: what is set aside for as many requests suffices."""
    assert run.vault is not None
    sizes = [2**20] * 5 + [2**40] + [2**20] * 4
    prepare(
        run,
        [Planned(action="delete_remote", status="pending", storage_class="DEEP_ARCHIVE", size=s, age=0) for s in sizes],
    )
    mark_cut_short(run.pk, run.vault)
    needs, within = Requests({RequestClass.DELETE: 10}), Requests({RequestClass.DELETE: 2})
    planned = usages(run.pk, run.vault, needs, within=within)
    each = unit_prices(AWS, "STANDARD", planned, ahead=within)[RequestClass.DELETE]
    assert each is not None
    dearest = early_deletion(AWS, planned).amount
    assert dearest == Decimal("6.08256") + Decimal("0.0000058")
    assert 0 <= 2 * each - dearest <= Decimal("0.00000002")


def test_what_is_set_aside_pays_for_what_is_ended(run: Run) -> None:
    """Spread over all requests of the class, rounded up: never less than the price."""
    assert run.vault is not None
    deletes = [Planned(action="delete_remote", status="pending", storage_class="GLACIER_IR", size=2**30, age=0)] * 3
    prepare(run, [*deletes, Planned(action="upload", status="pending", storage_class="STANDARD_IA", size=1, age=0)])
    mark_cut_short(run.pk, run.vault)
    needs = Requests({RequestClass.DELETE: 3, RequestClass.PUT: 4})
    planned = usages(run.pk, run.vault, needs)
    prices = unit_prices(AWS, "STANDARD", planned, ahead=needs)
    assert prices[RequestClass.DELETE] == Decimal("0.012")
    # 128 KB of STANDARD_IA for a month, over four PUTs, and a PUT.
    assert prices[RequestClass.PUT] == Decimal("0.00000039") + Decimal("0.000005")
    assert early_deletion(AWS, planned).amount == 3 * Decimal("0.012") + Decimal("0.00000153")
