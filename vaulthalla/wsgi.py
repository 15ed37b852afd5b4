"""The web application, for gunicorn."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

from vaulthalla import embedded

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vaulthalla.settings")
embedded.ensure()
application = get_wsgi_application()
