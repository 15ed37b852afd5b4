"""The one settings module. Every value comes from the environment through strict readers."""

from __future__ import annotations

import os

import environ

SECRET_KEY = os.environ.get("SECRET_KEY", "development-only")
SALT_KEY = os.environ.get("SALT_KEY", "development-only")
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "vaulthalla.vaults",
    "vaulthalla.work",
    "budgets",
    "indexing",
    "sync",
]
DATABASES = {"default": environ.Env().db_url("DATABASE_URL")}
DATABASES["default"]["CONN_MAX_AGE"] = 600
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
TIME_ZONE = "UTC"
USE_TZ = True
