"""API keys through the command line: kept encrypted, never shown, checked before anything is stored."""

from __future__ import annotations

import io

import pytest
from django.db import connection

from tests.integration.vaulthalla.conftest import Vh
from tests.support.servers import ACCESS_KEY, S3Server, free_port
from vaulthalla import cli
from vaulthalla.vaults.models import ApiKey

SECRET = "do-not-show-this"
MINIO = ("--provider", "minio", "--endpoint", "http://127.0.0.1:9000", "--access", "AK", "--no-verify")


def test_a_key_is_stored_encrypted_and_told_without_its_secret(vh: Vh) -> None:
    made = vh("api-key", "create", "k", *MINIO, "--secret", SECRET)
    assert made.code == 0
    for answer in (made, vh("api-key", "info", "k"), vh("api-key", "list"), vh("api-key", "show", made.value["id"])):
        assert SECRET not in str(answer)
    assert ApiKey.objects.get().secret == SECRET
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM vaults_apikey")
        assert SECRET not in cursor.fetchone()[0]


def test_the_secret_comes_from_stdin_or_the_environment(vh: Vh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{SECRET}\n"))
    assert vh("api-key", "create", "a", *MINIO, "--secret-stdin").code == 0
    monkeypatch.setenv("VH_SECRET_ACCESS_KEY", SECRET)
    assert vh("api-key", "create", "b", *MINIO).code == 0
    assert {key.secret for key in ApiKey.objects.all()} == {SECRET}


def test_the_default_chain_needs_no_credentials(vh: Vh) -> None:
    made = vh("api-key", "create", "k", "--provider", "aws", "--from-environment", "--no-verify")
    assert made.value["from_environment"] is True
    assert (made.value["access_key"], made.value["region"], made.value["endpoint"]) == ("", "us-east-1", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--provider", "azure", "--access", "a", "--secret", "b"), "--provider"),
        (("--provider", "minio", "--access", "a", "--secret", "b"), "--endpoint"),
        (("--provider", "minio", "--endpoint", "host:9000", "--access", "a", "--secret", "b"), "--endpoint"),
        (("--provider", "minio", "--endpoint", "http://u:p@h", "--access", "a", "--secret", "b"), "--endpoint"),
        (("--provider", "minio", "--endpoint", "http://h/bucket", "--access", "a", "--secret", "b"), "--endpoint"),
        (("--provider", "minio", "--endpoint", "http://h:99999", "--access", "a", "--secret", "b"), "--endpoint"),
        (("--provider", "aws", "--secret", "b"), "--access"),
        (("--provider", "aws", "--access", "a"), "--secret"),
        (("--provider", "aws", "--access", "a b", "--secret", "b"), "--access"),
        (("--provider", "aws", "--access", "a", "--secret", "b", "--region", "eu west"), "--region"),
        (("--provider", "aws", "--access", "a", "--secret", "b", "--from-environment"), "--from-environment"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_stored(vh: Vh, arguments: tuple[str, ...], said: str) -> None:
    answer = vh("api-key", "create", "k", *arguments, "--no-verify")
    assert (answer.code, answer.value) == (2, None)
    assert said in answer.error["message"]
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("name", ["", "a/b", " a", "x" * 101, "a\n"])
def test_names_that_cannot_be_are_refused(vh: Vh, name: str) -> None:
    assert vh("api-key", "create", name, *MINIO, "--secret", "b").code == 2
    assert not ApiKey.objects.exists()


def test_a_name_is_used_once(vh: Vh) -> None:
    vh("api-key", "create", "k", *MINIO, "--secret", "b")
    again = vh("api-key", "create", "k", *MINIO, "--secret", "b")
    assert (again.code, again.error["code"]) == (2, "exists")


def test_deleting_asks_and_an_unknown_key_is_not_found(vh: Vh) -> None:
    vh("api-key", "create", "k", *MINIO, "--secret", "b")
    assert vh("api-key", "delete", "k").error["code"] == "confirmation_needed"
    assert ApiKey.objects.exists()
    assert vh("api-key", "rm", "k", "--yes").code == 0
    assert vh("api-key", "delete", "k", "--yes").error["code"] == "not_found"


@pytest.mark.django_db(transaction=True)
def test_a_key_is_checked_with_one_request_before_it_is_stored(vh: Vh) -> None:
    with S3Server("roto") as server:
        given = ("--provider", "other", "--region", "us-east-1", "--access", ACCESS_KEY, "--secret", SECRET)
        assert vh("api-key", "create", "good", *given, "--endpoint", server.endpoint).code == 0
    refused = vh("api-key", "create", "bad", *given, "--endpoint", f"http://127.0.0.1:{free_port()}")
    assert refused.code == 2
    assert "127.0.0.1" in refused.error["message"]
    assert [key.name for key in ApiKey.objects.all()] == ["good"]


def test_people_read_tables(vh: Vh, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["api-key", "list"]) == 0
    assert capsys.readouterr().out == "There are no API keys.\n"
    vh("api-key", "create", "k", *MINIO, "--secret", SECRET)
    assert cli.run(["api-key", "list"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["ID", "NAME", "PROVIDER"]
    assert "http://127.0.0.1:9000" in row
