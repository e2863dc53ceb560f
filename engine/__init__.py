"""Drives tasks: submit them to an ``Engine``, wait for them, follow what it reports.

- ``api.py`` is what a program embeds; ``cli/`` and ``control.py`` are the command line over it.
- ``machine.py`` is the pure state machine, ``task_state.py`` its states and events, ``verdicts.py``
  its conditions and history, ``status.py`` their form in the object.
- ``reconcile/`` drives every live task through it.
- ``cluster.py`` is the protocol of the cluster, ``embedded/`` the one in process, ``processes/`` its kubelet.
- ``storage.py``, ``task_cache.py``, ``secrets.py`` and ``journal_sink.py`` are the ports to the outside.
"""

from propfan.engine.api import Engine, Explanation, installed_plugins
from propfan.engine.clock import Clock, SystemClock
from propfan.engine.cluster import Cluster
from propfan.engine.config import EngineConfig
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.storage import ObjectStore, StorageConfig
from propfan.engine.submission import Submission, TaskStatus
from propfan.engine.task_events import ActionPhase, EventSink, TaskEvent
from propfan.engine.task_state import Outcome, Stage
from propfan.engine.taskfiles import TaskFile, read_tasks

__all__ = [
    "ActionPhase",
    "Clock",
    "Cluster",
    "EmbeddedCluster",
    "Engine",
    "EngineConfig",
    "EventSink",
    "Explanation",
    "ObjectStore",
    "Outcome",
    "Stage",
    "StorageConfig",
    "Submission",
    "SystemClock",
    "TaskEvent",
    "TaskFile",
    "TaskKey",
    "TaskStatus",
    "installed_plugins",
    "read_tasks",
]
