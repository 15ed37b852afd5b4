"""Where knowledge of an object comes from, without Django: the pure rule of order needs it."""

from __future__ import annotations

from vaulthalla.terms import Term


class Source(Term):
    """Where knowledge came from."""

    NONE = "none", "nothing yet"
    LIST = "list_objects_v2", "LIST scan"
    INVENTORY = "inventory", "S3 Inventory"
    MANIFEST = "manifest", "Vaulthalla manifest"
    EVENT = "event", "S3 event"
    HEAD = "head", "HEAD of one object"
    OWN = "own", "our own write"
    MIXED = "mixed", "several"
