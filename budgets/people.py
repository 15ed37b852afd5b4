"""Who says so: on the command line, whoever may run it is trusted to give the right name."""

from __future__ import annotations

import os
import pwd

from django.db import connection

from vaulthalla.errors import Refused

LONGEST_NAME = 150
SUPERUSER = "SELECT 1 FROM auth_user WHERE username = %s AND is_superuser AND is_active"


def named(by: str | None) -> str:
    """The name given by --by without spaces around it, by default the user of this system. Raises Refused."""
    if by is None:
        return _os_user()
    name = by.strip()
    if not name or len(name) > LONGEST_NAME or "\0" in name:
        message = f"--by must be a name of 1 to {LONGEST_NAME} characters."
        raise Refused(message, code="invalid_value", remedy="Name somebody.")
    return name


def is_superuser(name: str) -> bool:
    """Of the admin. Asked in SQL: the command line does without the app that has the users."""
    with connection.cursor() as cursor:
        cursor.execute(SUPERUSER, [name])
        return cursor.fetchone() is not None


def _os_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
