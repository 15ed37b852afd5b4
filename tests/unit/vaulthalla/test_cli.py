"""Whatever goes wrong in a command ends as one message, one JSON document and one exit code."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated

import pytest
import typer
from django.core.exceptions import ValidationError
from django.db import OperationalError, ProgrammingError
from typer.main import get_command

from vaulthalla import cli
from vaulthalla.cliroot import command, group
from vaulthalla.console import Console
from vaulthalla.errors import NotFound, Refused, Stall, StallCode, VaulthallaError
from vaulthalla.stores.base import AccessDenied


@pytest.mark.parametrize(
    ("error", "exit_code", "code", "said"),
    [
        (VaulthallaError("It broke.", remedy="Mend it."), 1, "failed", "It broke."),
        (Refused("No.", code="nope"), 2, "nope", "No."),
        (NotFound("Gone."), 2, "not_found", "Gone."),
        (Stall(StallCode.BUDGET_LIST, "Spent.", remedy="vh x"), 3, "budget_list", "Spent."),
        (OperationalError("connection failed\nmore"), 1, "database_unavailable", "connection failed"),
        (ProgrammingError('relation "x" does not exist'), 1, "database_outdated", "schema"),
        (AccessDenied("Denied."), 1, "access_denied", "Denied."),
        (ValidationError({"name": "Too long."}), 2, "invalid_value", "name: Too long."),
        (FileNotFoundError(2, "No such file", "x.csv"), 1, "os_error", "x.csv: No such file"),
        (RuntimeError("boom\ntrace"), 1, "unexpected", "RuntimeError: boom"),
        (ZeroDivisionError(), 1, "unexpected", "ZeroDivisionError: no message"),
    ],
)
def test_errors_are_told(
    capsys: pytest.CaptureFixture[str], error: Exception, exit_code: int, code: str, said: str
) -> None:
    assert cli.report(error, json=True) == exit_code
    captured = capsys.readouterr()
    told = json.loads(captured.err)["error"]
    assert captured.out == ""
    assert set(told) == {"code", "message", "remedy"}
    assert told["code"] == code
    assert said in told["message"]
    assert cli.report(error, json=False) == exit_code
    assert said in capsys.readouterr().err


def test_a_traceback_is_shown_only_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VAULTHALLA_LOG_LEVEL", raising=False)
    cli.report(RuntimeError("boom"), json=False)
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("VAULTHALLA_LOG_LEVEL", "DEBUG")
    cli.report(_raised(RuntimeError("boom")), json=False)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["vault", "nope"], ["vault", "info"], ["vault", "info", "a", "--nope"], ["api-key", "create"]],
)
def test_usage_errors_are_exit_2_in_both_forms(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.run(arguments) == 2
    assert "Usage: vh" in capsys.readouterr().err
    assert cli.run([*arguments, "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["error"]["code"] == "usage"


def test_every_command_has_an_example_and_json() -> None:
    for path, found in _commands():
        assert "Example: vh " in (found.epilog or ""), path
        assert any("--json" in parameter.opts for parameter in found.params), path
        assert found.help, path


def test_a_command_returns_its_exit_code_and_gets_its_console(capsys: pytest.CaptureFixture[str]) -> None:
    app = group("Test.")

    @command(app, "say", "tell", example="vh say", database=False)
    def say(console: Console, *, code: int = 0) -> int:
        """Say."""
        console.result({"code": code}, "said")
        return code

    @command(app, "other", example="vh other", database=False)
    def other(console: Console) -> None:
        """Do something else."""

    run = get_command(app).main
    assert run(["say", "--code", "3"], standalone_mode=False) == 3
    assert capsys.readouterr().out == "said\n"
    assert run(["tell", "--json"], standalone_mode=False) == 0
    assert json.loads(capsys.readouterr().out) == {"code": 0}


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        (["photos"], "run photos False"),
        (["photos", "--fast"], "run photos True"),
        (["--fast", "photos"], "run photos True"),
        (["info", "photos"], "info photos"),
        (["run", "info"], "run info False"),
        (["--", "info"], "info"),
    ],
)
def test_a_first_word_that_is_no_command_is_the_vault(
    capsys: pytest.CaptureFixture[str], arguments: list[str], ran: str
) -> None:
    app = group("Test.", default=True)

    @command(app, "run", example="vh x", hidden=True, database=False)
    def run(console: Console, vault: str, *, fast: bool = False) -> None:
        """Sync."""
        console.result(None, f"run {vault} {fast}")

    @command(app, "info", example="vh x", database=False)
    def info(console: Console, vault: Annotated[str, typer.Argument()] = "") -> None:
        """Show."""
        console.result(None, f"info {vault}".strip())

    get_command(app).main(arguments, standalone_mode=False)
    assert capsys.readouterr().out.strip() == ran


def test_the_default_command_is_not_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["vault", "sync", "--help"]) == 0
    assert "\n  run " not in capsys.readouterr().out


def test_help_is_quick_and_imports_no_django() -> None:
    program = "import sys; from vaulthalla import cli; cli.run(['--help']); sys.exit('django' in sys.modules)"
    before = _cpu_of_children()
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert answer.returncode == 0, "Django was imported"
    # CPU, since other tests may keep the machine busy; coverage and a cold cache have some room.
    assert _cpu_of_children() - before < 0.4


def test_a_closed_pipe_ends_silently() -> None:
    program = "from vaulthalla import cli; import sys; sys.argv = ['vh', 'vault', 'create', '--help']; cli.main()"
    read, write = os.pipe()
    os.close(read)
    answer = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert answer.stderr == b""


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def _commands(
    found: Callable[..., object] | object | None = None, path: str = "vh"
) -> list[tuple[str, typer.core.TyperCommand]]:
    found = found or get_command(cli.application())
    if not isinstance(found, typer.core.TyperGroup):
        assert isinstance(found, typer.core.TyperCommand)
        return [(path, found)]
    return [leaf for name, inner in found.commands.items() for leaf in _commands(inner, f"{path} {name}")]
