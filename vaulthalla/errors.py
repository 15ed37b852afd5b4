"""Every error an operator can meet.

VaulthallaError            something an operator must know; exit 1
├── Refused                bad input or an unsafe request; nothing changed; exit 2
│   └── NotFound           the thing named does not exist
└── Stall                  protective stop: typed code, reason, remedy; exit 3
"""

from __future__ import annotations

from enum import StrEnum

# The exit code of a command that left its run to others (Ctrl-C, SIGTERM).
DETACHED = 130


class StallCode(StrEnum):
    """Why a run stopped itself before doing harm. The names are a contract (docs/commands.md)."""

    BUDGET_LIST = "budget_list"
    BUDGET_HEAD = "budget_head"
    BUDGET_GET = "budget_get"
    BUDGET_PUT = "budget_put"
    BUDGET_COPY = "budget_copy"
    BUDGET_DELETE = "budget_delete"
    BUDGET_DOWNLOAD_BYTES = "budget_download_bytes"
    PRICE_BUDGET = "price_budget"
    INDEX_MISSING = "index_missing"
    INDEX_STALE = "index_stale"
    MANIFEST_CONFLICT = "manifest_conflict"
    DELETE_GUARD = "delete_guard"
    ROOT_MISSING = "root_missing"
    DISK_SPACE = "disk_space"
    STORE_UNAVAILABLE = "store_unavailable"


class VaulthallaError(Exception):
    """Carries a machine code, a sentence for a person, and what to do about it."""

    exit_code = 1
    code = "failed"

    def __init__(self, message: str, *, code: str | None = None, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.remedy = remedy


class Refused(VaulthallaError):
    """The request is invalid or unsafe; nothing was changed."""

    exit_code = 2
    code = "invalid"


class NotFound(Refused):
    """The vault, key, run or conflict named does not exist."""

    code = "not_found"


class Stall(VaulthallaError):
    """The run stops before doing harm; what was done stays done."""

    exit_code = 3

    def __init__(self, code: StallCode, reason: str, *, remedy: str) -> None:
        super().__init__(reason, code=code.value, remedy=remedy)
