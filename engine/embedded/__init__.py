"""A cluster in process: Kubernetes' semantics over objects in memory, with SQLite beneath.

``cluster`` answers the calls. ``objects`` lays an object out as bytes that can be spliced,
``admission`` validates, ``merge_patch`` and ``deletion`` are the rules of the API, ``tables`` holds
the objects, ``watching`` the history, ``store`` the file.
"""

from __future__ import annotations

from propfan.engine.embedded.cluster import EmbeddedCluster
from propfan.engine.embedded.store import JournalEvent

__all__ = ["EmbeddedCluster", "JournalEvent"]
