"""`vh`: the commands of every app behind one entry point, and what their errors look like.

How to write a command, in `<app>/commands.py` (only typer and the standard library at the top; Django,
boto3 and models inside functions, or `vh --help` gets slow):

    from typing import Annotated
    import typer
    from vaulthalla.cliroot import command, sync_app
    from vaulthalla.console import Console, fields

    def register(root: typer.Typer) -> None:
        "Called once by vh; decorators have already attached what belongs to vault_app and sync_app."

    @command(sync_app, "info", "show", example="vh vault sync info photos")
    def info(console: Console, vault: Annotated[str, typer.Argument(help="Name or id.")]) -> int | None:
        "Show policy and remote index."
        from vaulthalla.vaults.lookup import vault_by_name   # Django is set up by now
        ...
        console.result(value, human=lambda value: fields(value))

`command` adds `--json`, passes the Console, sets Django up (`setup`) and registers further names as hidden
aliases. A command returns its exit code (None is 0) and raises VaulthallaError for anything an operator
must know; `main` turns every exception into a message, or under `--json` into
`{"error": {"code", "message", "remedy"}}` on stderr. Exit codes: 0 done, 1 failed, 2 refused or invalid
(nothing changed), 3 stalled, 130 detached by Ctrl-C. VAULTHALLA_LOG_LEVEL=DEBUG adds the traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

import typer
from typer.exceptions import TyperException
from typer.main import get_command, get_group

from vaulthalla import plugins
from vaulthalla.cliroot import DefaultGroup, api_key_app, command, group, root, sync_app, vault_app
from vaulthalla.console import Console, quiet_when_closed, to_json
from vaulthalla.errors import DETACHED, Refused, VaulthallaError
from vaulthalla.startup import leave_quickly, setup
from vaulthalla.work import doorbell

__all__ = [
    "Console",
    "DefaultGroup",
    "api_key_app",
    "command",
    "group",
    "main",
    "run",
    "setup",
    "sync_app",
    "vault_app",
]

UNEXPECTED_REMEDY = "Run it again with VAULTHALLA_LOG_LEVEL=DEBUG in the environment for the traceback."


def main(program: str = "vh") -> NoReturn:
    """The console script."""
    doorbell.be_patient()
    with quiet_when_closed():
        code = run(sys.argv[1:], program=program)
    leave_quickly()
    sys.exit(code)


def commands() -> Collection[str]:
    """The first words that `vh` knows."""
    return get_group(application()).commands.keys()


def run(arguments: Sequence[str], *, program: str = "vh") -> int:
    """Runs one command line in this process and returns its exit code. Never raises for what an operator did."""
    try:
        answer = get_command(application()).main(list(arguments), prog_name=program, standalone_mode=False)
        return answer if isinstance(answer, int) else 0
    except KeyboardInterrupt:
        return DETACHED
    except BrokenPipeError:
        raise
    except Exception as error:
        # The last line of defence: whatever it is, it is told, not thrown.
        return report(error, json="--json" in arguments)


def application() -> typer.Typer:
    """The whole tree of commands; built once."""
    if not root.registered_groups:
        root.add_typer(api_key_app, name="api-key")
        for alias in ("aku", "ak"):
            root.add_typer(api_key_app, name=alias, hidden=True)
        root.add_typer(vault_app, name="vault")
        vault_app.add_typer(sync_app, name="sync")
        for name in plugins.COMMANDS:
            importlib.import_module(name).register(root)
    return root


def report(error: Exception, *, json: bool) -> int:
    """Tells an error and returns its exit code."""
    if os.environ.get("VAULTHALLA_LOG_LEVEL", "").strip() == "DEBUG":
        import traceback

        traceback.print_exception(error)
    if isinstance(error, typer.Abort):
        return DETACHED
    if _is_usage(error) and not json:
        error.show()  # type: ignore[attr-defined] # typer's own exceptions know their usage line
        return 2
    told = explain(error)
    details = {"code": told.code, "message": told.message, "remedy": told.remedy}
    text = to_json({"error": details}) if json else "\n".join(filter(None, (f"Error: {told.message}", told.remedy)))
    print(text, file=sys.stderr, flush=True)  # noqa: T201
    return told.exit_code


def explain(error: Exception) -> VaulthallaError:
    """The same error as an operator should read it."""
    if isinstance(error, VaulthallaError):
        return error
    if _is_usage(error):
        return _usage(error)
    from vaulthalla import faults

    return faults.explain(error) or VaulthallaError(
        f"{type(error).__name__}: {_first_line(error)}", code="unexpected", remedy=UNEXPECTED_REMEDY
    )


def _is_usage(error: Exception) -> bool:
    # The public base of the usage errors in typer's private copy of click.
    return isinstance(error, TyperException)


def _usage(error: Any) -> VaulthallaError:
    path = error.ctx.command_path if getattr(error, "ctx", None) else "vh"
    return Refused(error.format_message(), code="usage", remedy=f"See `{path} --help`.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
