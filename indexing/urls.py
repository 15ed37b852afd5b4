"""Where senders of events reach the index."""

from __future__ import annotations

from django.urls import path

from indexing.events.webhook import receive

urlpatterns = [
    path("<int:vault_id>", receive),
    path("<int:vault_id>/", receive),
    # A sender that can set no header gives the secret as the last part of the path.
    path("<int:vault_id>/<str:token>", receive),
]
