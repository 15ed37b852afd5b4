#!/usr/bin/env python
"""Django's manage.py; `manage.py vault …` and the other commands of `vh` run the same code."""

from __future__ import annotations

import os
import sys

# These read code only.
WITHOUT_SERVERS = ("", "help", "--help", "-h", "version", "--version", "check", "makemigrations")


def main() -> None:
    from vaulthalla import cli

    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in cli.commands():
        cli.main(program="manage.py")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vaulthalla.settings")
    if command not in WITHOUT_SERVERS:
        from vaulthalla import embedded

        embedded.ensure()
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
