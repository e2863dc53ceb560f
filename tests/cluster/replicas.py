"""Replicas of ``propfan serve`` as processes, the control plane that they tell, and tasks for them."""

from __future__ import annotations

import base64
import http.client
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from flyteidl2.common import phase_pb2
from flyteidl2.core import tasks_pb2
from flyteidl2.workflow import run_definition_pb2

from propfan.pluginmachinery.taskaction import FINALIZER, TERMINATION_STATUS_LABEL
from propfan.pluginmachinery.testing.builders import task_template
from tests.cluster.api import Api, ApiError, Object
from tests.cluster.pods import asked
from tests.cluster.ports import free_port
from tests.cluster.process import Process
from tests.unit.engine.flyte.services import EventsService

SERVE = ("-c", "from propfan.engine.cli import main; main()", "serve")
READY_TIMEOUT_S = 90.0  # of a process that imports everything, on a machine that others use as well

FINAL = frozenset({"SUCCEEDED", "FAILED", "ABORTED", "TIMED_OUT"})


class Control(EventsService):
    """The control plane's ear."""

    def of(self, run: str) -> Sequence[run_definition_pb2.ActionEvent]:
        """What was told of a run, without repeats."""
        told = (event for event in self.events if event.id.run.name == run)
        found = {(event.attempt, event.phase, event.version): event for event in told}
        return list(found.values())

    def phases(self, run: str) -> list[tuple[int, str]]:
        """Attempt and phase, without those that only have news."""
        names: list[tuple[int, str]] = []
        for event in self.of(run):
            name = (event.attempt, phase_pb2.ActionPhase.Name(event.phase).removeprefix("ACTION_PHASE_"))
            if name not in names[-1:]:
                names.append(name)
        return names

    def verdicts(self, run: str) -> list[str]:
        return [phase for _, phase in self.phases(run) if phase in FINAL]


class Replica:
    """One process. It can be started again after it ended."""

    def __init__(self, name: str, folder: Path, kubeconfig: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        file = folder / f"{name}.yaml"
        whole = {
            **settings,
            "kubernetes": {"kubeconfig": str(kubeconfig), **settings.get("kubernetes", {})},
            "sharding": {"replica": name, **settings.get("sharding", {})},
            "serving": {
                "metrics-address": f"127.0.0.1:{self.port}",
                "log-level": "debug",
                **settings.get("serving", {}),
            },
        }
        file.write_text(yaml.safe_dump(whole), encoding="utf-8")
        self.process = Process(name, [sys.executable, *SERVE, "-c", str(file)], folder / f"{name}.log")

    def start(self) -> None:
        self.process.start(grace_s=30.0)

    def await_ready(self) -> None:
        self.process.await_ready(lambda: self.ask("/readyz")[0] == 200, timeout_s=READY_TIMEOUT_S)

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.process.stop()

    def terminate(self) -> None:
        """SIGTERM, as Kubernetes sends it; ``process.is_running`` tells when it has ended."""
        self.process.signal(signal.SIGTERM)

    @property
    def exit_code(self) -> int | None:
        """Once it has ended, and before it is started again."""
        return self.process.exit_code

    def hang(self) -> None:
        self.process.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.signal(signal.SIGCONT)

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text; 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def metric(self, name: str, /, **labels: str) -> float:
        """The sum of all samples of that name with these labels."""
        total = 0.0
        for line in self.ask("/metrics")[1].splitlines():
            sample, _, value = line.rpartition(" ")
            own_name = sample.partition("{")[0]
            if own_name == name and all(f'{key}="{text}"' in sample for key, text in labels.items()):
                total += float(value)
        return total

    @property
    def log(self) -> str:
        return self.process.log.read_text(encoding="utf-8", errors="replace")


class Tasks:
    """TaskActions of one namespace."""

    def __init__(self, api: Api, namespace: str, outputs: str) -> None:
        self.api = api
        self.namespace = namespace
        self._outputs = outputs
        self._actions = f"/apis/flyte.org/v1/namespaces/{namespace}/taskactions"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._since = api.get(self._pods)["metadata"]["resourceVersion"]

    def submit(
        self,
        run: str,
        wishes: Mapping[str, str] | None = None,
        *,
        retries: int = 0,
        timeout_s: int = 0,
        type: str = "container",
        template: bytes | None = None,
        spec: Mapping[str, Any] | None = None,
        finalizers: Sequence[str] = (),
    ) -> str:
        """A task whose pods do as ``wishes`` say (see ``pods.asked``); the name of its run."""
        made = task_template(type, image="busybox", args=["true"])
        made.metadata.retries.retries = retries
        if timeout_s:
            made.metadata.timeout.seconds = timeout_s
        whole = {
            "runName": run,
            "project": "p",
            "domain": "development",
            "actionName": "a0",
            "taskType": type,
            "taskTemplate": base64.b64encode(made.SerializeToString() if template is None else template).decode(),
            "inputUri": f"{self._outputs}/{run}/inputs.pb",
            "runOutputBase": f"{self._outputs}/{run}/",
            **(spec or {}),
        }
        self.api.create(
            {
                "apiVersion": "flyte.org/v1",
                "kind": "TaskAction",
                "metadata": {
                    "name": f"{run}-a0",
                    "annotations": asked(**(wishes or {})),
                    "finalizers": list(finalizers),
                },
                "spec": {key: value for key, value in whole.items() if value is not None},
            },
            namespace=self.namespace,
        )
        return run

    def path(self, run: str) -> str:
        return f"{self._actions}/{run}-a0"

    def get(self, run: str) -> Object:
        return self.api.get(self.path(run))

    def delete(self, run: str) -> None:
        self.api.delete(self.path(run))

    def await_over(self, run: str, *, timeout_s: float = 90) -> Object:
        """Until its verdict is written and everything is tidied up; its status."""
        found = self.api.await_object(self.path(run), is_over, timeout_s=timeout_s)
        status: Object = found["status"]
        return status

    def await_phase(self, run: str, phase: str, *, timeout_s: float = 90) -> Object:
        return self.api.await_object(
            self.path(run),
            lambda action: bool(action.get("status", {}).get("pluginPhase") == f"Phase{phase}"),
            timeout_s=timeout_s,
        )

    def await_served(self) -> None:
        """Until an API server that was just started knows TaskActions again: at first it answers 404 and 429."""

        def are_served() -> bool:
            try:
                self.api.get(self._actions)
            except ApiError:
                return False
            return True

        until(are_served, "TaskActions are served")

    def await_begun(self, runs: Sequence[str]) -> None:
        """Until something is written down of each."""
        wanted = {f"{run}-a0" for run in runs}

        def have_begun(actions: Sequence[Object]) -> bool:
            return wanted <= {a["metadata"]["name"] for a in actions if a.get("status", {}).get("pluginPhase")}

        self.api.await_objects(self._actions, have_begun)

    def await_all_over(self, runs: Sequence[str], *, timeout_s: float = 120) -> Mapping[str, str]:
        """The verdicts of all, by their runs."""
        wanted = {f"{run}-a0" for run in runs}

        def are_over(actions: Sequence[Object]) -> bool:
            return wanted <= {action["metadata"]["name"] for action in actions if is_over(action)}

        actions = self.api.await_objects(self._actions, are_over, timeout_s=timeout_s)
        return {
            action["spec"]["runName"]: verdict_of(action["status"])
            for action in actions
            if action["metadata"]["name"] in wanted
        }

    def pods(self, run: str = "") -> list[str]:
        """Names of those that are there, of one run or all."""
        query = {"labelSelector": f"run={run}"} if run else {}
        return sorted(pod["metadata"]["name"] for pod in self.api.list(self._pods, **query))

    def pods_ever(self) -> Counter[str]:
        """How often a pod of each name was made since the beginning."""
        made: dict[str, str] = {}
        for kind, pod in self.api.watch(self._pods, resource_version=self._since, timeout_s=2):
            if kind == "ADDED":
                made[pod["metadata"]["uid"]] = pod["metadata"]["name"]
        return Counter(made.values())


def is_over(action: Mapping[str, Any]) -> bool:
    meta = action["metadata"]
    return TERMINATION_STATUS_LABEL in meta.get("labels", {}) and FINALIZER not in meta.get("finalizers", ())


def verdict_of(status: Mapping[str, Any]) -> str:
    """``Completed``, ``PermanentFailure``, ...; empty while there is none."""
    final = (c for c in status.get("conditions", ()) if c["type"] in ("Succeeded", "Failed") and c["status"] == "True")
    return next((str(condition["reason"]) for condition in final), "")


def until(is_so: Callable[[], object], what: str, *, timeout_s: float = 60) -> None:
    """Waits for a condition outside of the API server."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {timeout_s:g} s: {what}")
        time.sleep(0.05)


def broken_template() -> bytes:
    """Bytes that are no ``core.TaskTemplate``."""
    return tasks_pb2.TaskTemplate(type="container").SerializeToString() + b"\xff\xff\xff"
