"""The settings of a command: the same models and servers, without the web, beat and their start-up time."""

from __future__ import annotations

from vaulthalla import env
from vaulthalla.settings import *  # noqa: F403
from vaulthalla.settings import LOGGING as FULL_LOGGING
from vaulthalla.settings import OWN_APPS

INSTALLED_APPS = OWN_APPS
MIDDLEWARE = []
TEMPLATES = []

# A command's messages are its own; logs only speak of what went wrong.
LOGGING = {**FULL_LOGGING, "root": {"handlers": ["stderr"], "level": env.text("VAULTHALLA_LOG_LEVEL", "ERROR")}}
