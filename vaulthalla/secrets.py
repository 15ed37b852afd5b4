"""The keys that sign sessions and encrypt secrets: from the environment, else generated once per home."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import NamedTuple

from vaulthalla.embedded.home import make_home
from vaulthalla.errors import VaulthallaError


class Keys(NamedTuple):
    secret_key: str
    salt_key: str


def keys(home: Path) -> Keys:
    """`SECRET_KEY` and `SALT_KEY`, each overriding the home's own. Makes the home's file when it must."""
    given = Keys(os.environ.get("SECRET_KEY", ""), os.environ.get("SALT_KEY", ""))
    if all(given):
        return given
    kept = _kept(home / "secrets.json") or _generate(home)
    return Keys(given.secret_key or kept.secret_key, given.salt_key or kept.salt_key)


def _kept(path: Path) -> Keys | None:
    try:
        return Keys(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise VaulthallaError(
            f"{path} cannot be read; it holds the keys that encrypt stored secrets.",
            code="home_unusable",
            remedy="Restore it from a backup, or remove it and enter every API key again.",
        ) from error


def _generate(home: Path) -> Keys:
    make_home(home)
    descriptor, name = tempfile.mkstemp(dir=home, prefix=".secrets-")
    new = Keys(secrets.token_urlsafe(48), secrets.token_urlsafe(32))
    with os.fdopen(descriptor, "w") as file:
        json.dump(new._asdict(), file)
        file.flush()
        os.fsync(descriptor)
    path = home / "secrets.json"
    try:
        # A link, unlike a rename, never replaces keys that another command has just begun to use.
        os.link(name, path)
    except FileExistsError:
        new = _kept(path) or new
    finally:
        Path(name).unlink()
    return new
