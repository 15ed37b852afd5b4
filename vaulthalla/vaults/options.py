"""The policy options of `vh vault create`, `vh vault update` and `vh vault sync set`, declared once.

Commands take them with `command(…, expand={"policy": POLICY_OPTIONS})` and hand the dict to
`vaulthalla.vaults.policy.apply_policy_options`. Values stay text here: what is wrong with one is said there.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

LIMIT = "a whole number, or 'unlimited'"


def _text(*names: str, help: str, metavar: str = "VALUE") -> Any:
    return Annotated[str | None, typer.Option(*names, help=help, metavar=metavar, show_default=False)]


def _flag(name: str, help: str) -> Any:
    return Annotated[bool | None, typer.Option(name, help=help, show_default=False)]


def _budget(field: str) -> Any:
    return _text(f"--s3-budget-{field}", help=f"Most {field.upper()} requests a run may send: {LIMIT}.", metavar="N")


POLICY_OPTIONS: dict[str, Any] = {
    "interval": _text("--interval", "--sync-interval", help="Time between scheduled syncs.", metavar="15m"),
    "enabled": _flag("--enable/--disable", "Sync on schedule, or only when asked."),
    "strategy": _text("--strategy", "--sync-strategy", help="cache, sync or mirror (S3 and R2).", metavar="STRATEGY"),
    "conflict": _text(
        "--on-sync-conflict",
        "--conflict",
        help="S3 and R2: keep_local, keep_remote, keep_newest, keep_both or ask. Local: overwrite, keep_both or ask.",
        metavar="POLICY",
    ),
    "max_remote_index_age": _text(
        "--max-remote-index-age",
        "--remote-index-age",
        help="Older knowledge of the bucket is stale; 'unlimited' for never.",
        metavar="24h",
    ),
    "on_stale_index": _text(
        "--on-stale-index",
        help="reconcile: LIST within the budget; stall: stop and say so.",
        metavar="POLICY",
    ),
    "max_delete": _text(
        "--max-delete",
        help="Stall before deleting more than this of one side: a number, a percentage or 'unlimited'.",
        metavar="N|P%",
    ),
    "delete_foreign": _flag(
        "--delete-foreign/--no-delete-foreign", "Mirror only: delete remote objects that were never here."
    ),
    "events_queue": _text(
        "--events-queue",
        help="SQS queue with the bucket's events, polled on schedule; 'none' for none.",
        metavar="URL",
    ),
    "preset": _text(
        "--s3-budget-preset",
        "--budget-preset",
        help="conservative, balanced, bulk or unlimited; single fields below go on top.",
        metavar="PRESET",
    ),
    "budget_list": _budget("list"),
    "budget_head": _budget("head"),
    "budget_get": _budget("get"),
    "budget_put": _budget("put"),
    "budget_copy": _budget("copy"),
    "budget_delete": _budget("delete"),
    "budget_download_bytes": _text(
        "--s3-budget-download-bytes", help="Most bytes a run may download, or 'unlimited'.", metavar="10G"
    ),
    "take_over": Annotated[
        bool | None,
        typer.Option("--take-over", help="Write to a place that another vault mirrors into, or overlaps."),
    ],
}
