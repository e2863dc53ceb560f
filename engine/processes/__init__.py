"""Pods as local processes.

``runtime`` follows the pods of a cluster, ``scheduler`` places them, ``pod_worker`` lives one pod's
life and ``statuses`` words it as a kubelet does. ``process`` starts, finds and signals containers;
``supervisor`` is the program that stands between and keeps their exit codes. ``environment`` makes
variables and command lines, ``volumes`` folders at their mount paths, by ``mounts``; ``copilots`` finds the containers
that move data, ``logs`` keeps the output, ``refusals`` knows what can not be done.

A pod here is not isolated: its containers have the machine's files, users, network and programs.
Requests are reserved on placement; CPU limits are not enforced, and memory limits are by looking,
so a burst between two looks can exceed them. Counted resources such as GPUs are not assigned to
processes. Logs are not rotated.
"""

from __future__ import annotations

from propfan.engine.processes.pod_worker import BackOff
from propfan.engine.processes.runtime import OnExit, ProcessRuntime
from propfan.engine.processes.scheduler import Capacity
from propfan.engine.processes.secrets import TaskSecrets

__all__ = ["BackOff", "Capacity", "OnExit", "ProcessRuntime", "TaskSecrets"]
