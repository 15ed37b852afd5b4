"""The groups of `vh` that several apps add commands to, and the decorator that makes a function a command.

Imported by every `commands` module, so it costs no more than typer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from vaulthalla.console import Console

F = TypeVar("F", bound=Callable[..., int | None])
JSON_OPTION = typer.Option("--json", help="Write JSON to stdout; errors as JSON to stderr.")
DEFAULT_COMMAND = "run"


class DefaultGroup(TyperGroup):
    """A group whose first word may be a command or the first argument of its hidden `run` command.

    `vh vault sync photos` is `vh vault sync run photos`; options may come first as well.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None and self.get_command(ctx, DEFAULT_COMMAND) is not None:
            args = [DEFAULT_COMMAND, *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # An option of `run` before the vault is no option of the group.
        if args and args[0].startswith("-") and args[0] not in ("--", *ctx.help_option_names):
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)


def group(help: str, *, default: bool = False, completion: bool = False) -> typer.Typer:
    """A group of commands. With `default`, see `DefaultGroup`; `completion` belongs to the outermost one."""
    return typer.Typer(
        help=help,
        cls=DefaultGroup if default else None,
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=completion,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


# `vaulthalla.vaults.commands`, `sync.commands` and `indexing.commands` attach to these; `vaulthalla.cli` mounts them.
root = group(
    "Directory trees kept in step with S3 and R2 buckets, planned from an index, bounded by budgets.", completion=True
)
api_key_app = group("Credentials of S3 and R2 providers.")
vault_app = group("Vaults: directories and what they are kept in step with.")
sync_app = group("Sync a vault (`vh vault sync VAULT`), its policy and its remote index.", default=True)


def command(
    app: typer.Typer,
    *names: str,
    example: str,
    hidden: bool = False,
    database: bool = True,
    expand: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[F], F]:
    """Makes a function a command of `app` under the first name, and under the others without showing them.

    The function's first parameter is its Console; `--json` is added. It returns an exit code or None and
    raises VaulthallaError. `expand={"policy": {"interval": Annotated[…]}}` turns the parameter `policy` into
    those options and passes those given as a dict. Django is set up first unless `database=False`.
    """

    def register(function: F) -> F:
        wrapper = _wrapped(function, database=database, expand=expand or {})
        for position, name in enumerate(names):
            app.command(
                name, help=inspect.getdoc(function), epilog=f"Example: {example}", hidden=hidden or position > 0
            )(wrapper)
        return function

    return register


def _wrapped(function: F, *, database: bool, expand: Mapping[str, Mapping[str, Any]]) -> Callable[..., int | None]:
    signature = inspect.signature(function, eval_str=True)
    console, *own = signature.parameters

    def wrapper(*, json_output: bool, **given: Any) -> int | None:
        if database:
            from vaulthalla.startup import setup

            setup()
        for name, options in expand.items():
            given[name] = {option: value for option in options if (value := given.pop(option)) is not None}
        return function(**{console: Console(json=json_output)}, **given)

    parameters = [part for name in own for part in _expanded(signature.parameters[name], expand.get(name))]
    parameters.append(_keyword("json_output", Annotated[bool, JSON_OPTION], default=False))
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # read by typer
    wrapper.__annotations__ = {}
    wrapper.__name__ = function.__name__
    return wrapper


def _expanded(parameter: inspect.Parameter, options: Mapping[str, Any] | None) -> list[inspect.Parameter]:
    if options is None:
        return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    return [_keyword(name, annotation, default=None) for name, annotation in options.items()]


def _keyword(name: str, annotation: Any, *, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
