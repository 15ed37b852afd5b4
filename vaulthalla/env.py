"""Strict readers of environment variables: a bad value is refused by name, with what would be accepted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from vaulthalla.errors import Refused

TRUE = ("1", "true", "yes", "on")
FALSE = ("0", "false", "no", "off")
BROKER_SCHEMES = ("redis", "rediss", "unix", "sentinel")


class Misconfigured(Refused):
    """A setting has a value that cannot be used."""

    code = "misconfigured"


def refuse(name: str, accepted: str) -> Misconfigured:
    """The error for a variable; its value is not repeated, since it may hold a password."""
    return Misconfigured(f"{name} must be {accepted}.", remedy=f"Correct {name} in the environment, or unset it.")


def text(name: str, default: str = "") -> str:
    """The value without surrounding blanks; an empty variable counts as unset."""
    return os.environ.get(name, "").strip() or default


def words(name: str, default: Sequence[str] = ()) -> list[str]:
    """A comma-separated list."""
    value = text(name)
    return [word.strip() for word in value.split(",") if word.strip()] if value else list(default)


def flag(name: str, *, default: bool) -> bool:
    value = text(name).lower()
    if value in (*TRUE, *FALSE):
        return value in TRUE
    if value:
        raise refuse(name, f"one of {', '.join((*TRUE, *FALSE))}")
    return default


def integer(name: str, default: int, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
    value = text(name)
    if not value:
        return default
    if not value.isascii() or not value.isdigit() or not minimum <= int(value) <= maximum:
        raise refuse(name, f"a whole number from {minimum} to {maximum}")
    return int(value)


def choice(name: str, accepted: Sequence[str], *, default: str) -> str:
    value = text(name, default)
    if value not in accepted:
        raise refuse(name, f"one of {', '.join(accepted)}")
    return value


def database(url: str, *, name: str = "DATABASE_URL") -> dict[str, Any]:
    """Django's settings for a PostgreSQL address, read by libpq's own rules."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    if not url.startswith(("postgres://", "postgresql://")):
        raise refuse(name, "an address like postgres://user:password@host:5432/database")
    try:
        parts = dict(conninfo_to_dict(url))
    except psycopg.Error as error:
        raise refuse(name, f"a PostgreSQL address that libpq accepts ({str(error).strip()})") from error
    database = str(parts.pop("dbname", "") or "")
    if not database:
        raise refuse(name, "an address that names a database, like postgres://user@host/database")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database,
        "USER": str(parts.pop("user", "") or ""),
        "PASSWORD": str(parts.pop("password", "") or ""),
        "HOST": str(parts.pop("host", "") or ""),
        "PORT": str(parts.pop("port", "") or ""),
        "OPTIONS": parts,
    }


def broker(url: str, *, name: str = "REDIS_URL") -> str:
    """The address as Celery wants it; `unix:///path?db=N` is how Redis clients write a socket."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in BROKER_SCHEMES or not rest:
        raise refuse(name, "an address starting with redis://, rediss://, unix:// or sentinel://")
    if scheme != "unix":
        return url
    return f"redis+socket://{rest.replace('?db=', '?virtual_host=')}"


def addresses(name: str) -> list[str]:
    """Whom to write to: a comma-separated list of e-mail addresses."""
    found = words(name)
    for one in found:
        local, at, domain = one.rpartition("@")
        if not (local and at and domain) or not one.isprintable() or " " in one:
            raise refuse(name, "e-mail addresses, separated by commas")
    return found


def web_address(name: str) -> str:
    """An http(s) address, or nothing. Credentials in it would be shown wherever it is."""
    from urllib.parse import urlsplit

    value = text(name)
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        good = False
    if value and (not good or not value.isprintable() or " " in value):
        raise refuse(name, "an address like https://host/path, without a user name")
    return value


def signing_key(name: str, *, needed_by: str) -> bytes:
    """A secret to sign with, at least 16 bytes: `whsec_` and base64, or any text. Needed where `needed_by` is set."""
    import base64
    import binascii

    value = text(name)
    if not value:
        if text(needed_by):
            raise refuse(name, f"set, since {needed_by} is")
        return b""
    try:
        key = base64.b64decode(value[6:], validate=True) if value.startswith("whsec_") else value.encode()
    except binascii.Error:
        key = b""
    if len(key) < 16:
        raise refuse(name, "at least 16 bytes: any text, or whsec_ and base64")
    return key
