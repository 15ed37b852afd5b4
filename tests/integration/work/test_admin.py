"""Operators see runs, chunks and budgets, and change nothing but their minds."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from vaulthalla.vaults.models import Vault
from vaulthalla.work.engine import NewChunk, Phase, create_run
from vaulthalla.work.models import Queue, Run, RunKind


@pytest.fixture
def operator(client: Client, vault: Vault) -> Client:
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.mark.parametrize("page", ["work/run", "work/chunk", "budgets/runbudget", "budgets/allotment"])
def test_every_list_opens_and_nothing_can_be_added(operator: Client, vault: Vault, page: str) -> None:
    create_run(vault, RunKind.SYNC, chunks=[NewChunk("scan", Phase.SCAN, Queue.TRANSFER)])
    assert operator.get(f"/admin/{page}/").status_code == 200
    assert operator.get(f"/admin/{page}/add/").status_code == 403


def test_a_run_is_cancelled_from_its_list(operator: Client, vault: Vault) -> None:
    run = create_run(vault, RunKind.SYNC, chunks=[NewChunk("scan", Phase.SCAN, Queue.TRANSFER)])
    answer = operator.post("/admin/work/run/", {"action": "cancel", "_selected_action": [run.pk]}, follow=True)
    assert b"1 runs are asked to stop" in answer.content
    assert Run.objects.get(pk=run.pk).cancel_requested
