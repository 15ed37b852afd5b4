"""Exceptions of other people's code that have a plain meaning: databases, stores, files, invalid fields."""

from __future__ import annotations

from vaulthalla.errors import Refused, VaulthallaError


def explain(error: Exception) -> VaulthallaError | None:
    """What the operator should read, or None when nothing is known about this kind of error."""
    return _of_database(error) or _of_store(error) or _of_fields(error) or _of_files(error)


def _of_database(error: Exception) -> VaulthallaError | None:
    from django.core.exceptions import ImproperlyConfigured
    from django.db import InterfaceError, OperationalError, ProgrammingError

    if isinstance(error, ImproperlyConfigured):
        return Refused(_first_line(error), code="misconfigured")
    if isinstance(error, (OperationalError, InterfaceError)):
        return VaulthallaError(
            f"The database does not answer: {_first_line(error)}",
            code="database_unavailable",
            remedy="See `vh status`; check DATABASE_URL and that PostgreSQL runs, then run the command again.",
        )
    if isinstance(error, ProgrammingError) and "does not exist" in str(error):
        return VaulthallaError(
            f"The database is not at this version's schema: {_first_line(error)}",
            code="database_outdated",
            remedy="Run `manage.py migrate`.",
        )
    return None


def _of_store(error: Exception) -> VaulthallaError | None:
    from vaulthalla.stores.base import MeterRefused, StoreError

    if isinstance(error, StoreError):
        return VaulthallaError(str(error), code=error.code)
    return VaulthallaError(str(error), code="meter_refused") if isinstance(error, MeterRefused) else None


def _of_fields(error: Exception) -> VaulthallaError | None:
    from django.core.exceptions import ValidationError

    if not isinstance(error, ValidationError):
        return None
    named = getattr(error, "error_dict", None)
    problems = error.message_dict if named else {"": error.messages}
    text = " ".join(
        f"{field.replace('_', ' ')}: {' '.join(map(str, found))}".lstrip(": ") for field, found in problems.items()
    )
    return Refused(text, code="invalid_value", remedy="Correct that and run the command again; nothing was stored.")


def _of_files(error: Exception) -> VaulthallaError | None:
    if not isinstance(error, OSError) or not error.strerror:
        return None
    place = f"{error.filename}: " if error.filename else ""
    return VaulthallaError(f"{place}{error.strerror}", code="os_error")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
