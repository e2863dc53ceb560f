"""Replicas of ``propfan serve`` as processes that come, go, crash and hang amid many tasks; rights that are missing."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.replicas import Control, Replica, Tasks, until, verdict_of
from tests.unit.engine.flyte.services import served

LEASE_S = 4.0
"""Short, so that tests are; replicas on a busy machine still renew in time."""

RBAC = "/apis/rbac.authorization.k8s.io/v1"


class Fleet:
    """Replicas of one group that share the tasks of a namespace."""

    def __init__(self, control_plane: ControlPlane, namespace: str, folder: Path, events_url: str) -> None:
        self._control_plane = control_plane
        self._folder = folder
        self.namespace = namespace
        self.settings: dict[str, Any] = {
            "namespaces": [namespace],
            "flyte": {"events-url": events_url},
            "sharding": {"namespace": namespace, "lease-duration-s": LEASE_S},
            "serving": {"drain-s": 10.0},
        }
        self.replicas: list[Replica] = []
        self.tasks = Tasks(control_plane.api, namespace, f"file://{folder}/outputs")

    def start(self, name: str, kubeconfig: Path | None = None, **settings: Any) -> Replica:
        merged = {**self.settings, **settings}
        replica = Replica(name, self._folder, kubeconfig or self._control_plane.kubeconfig, merged)
        self.replicas.append(replica)
        replica.start()
        return replica

    def owned(self) -> list[int]:
        return sorted(int(replica.metric("propfan_shards_owned")) for replica in self.replicas)

    def until_shared(self, *shares: int) -> None:
        until(lambda: self.owned() == sorted(shares), f"shards are shared as {shares}, not {self.owned()}")

    def holders(self) -> set[str]:
        leases = self._control_plane.api.list(f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases")
        shards = (lease for lease in leases if "-shard-" in lease["metadata"]["name"])
        return {lease["spec"].get("holderIdentity") or "" for lease in shards}


@pytest.fixture
def fleet(control_plane: ControlPlane, tmp_path: Path) -> Iterator[tuple[Fleet, Control]]:
    namespace = control_plane.create_namespace("fleet")
    events = Control()
    with served(events.app) as url:
        made = Fleet(control_plane, namespace, tmp_path, url)
        try:
            yield made, events
        finally:
            for replica in made.replicas:
                replica.kill()
            control_plane.delete_namespace(namespace)


def check_all(fleet: Fleet, events: Control, runs: list[str]) -> None:
    """Every task ended right, with one pod, and was told once."""
    verdicts = fleet.tasks.await_all_over(runs)
    assert set(verdicts.values()) == {"Completed"}, verdicts
    made = fleet.tasks.pods_ever()
    assert {pod: count for pod, count in made.items() if count > 1} == {}
    assert sorted(made) == sorted(f"{run}-a0-0" for run in runs)
    assert {run: events.verdicts(run) for run in runs if events.verdicts(run) != ["SUCCEEDED"]} == {}


def test_tasks_survive_replicas_that_are_killed_again_and_again(fleet: tuple[Fleet, Control]) -> None:
    it, events = fleet
    first, second = it.start("first"), it.start("second")
    first.await_ready()
    second.await_ready()
    it.until_shared(8, 8)
    dice = random.Random(7)
    numbers = itertools.count()
    runs: list[str] = []

    def submit(count: int) -> None:
        runs.extend(
            it.tasks.submit(f"k{number}", {"run_for": f"{dice.uniform(0, 4):.1f}s"})
            for number in itertools.islice(numbers, count)
        )

    for victim in (first, second, first):
        submit(20)
        victim.kill()
        submit(5)
        other = second if victim is first else first
        until(lambda other=other: other.metric("propfan_shards_owned") == 16, "the shards have moved")  # type: ignore[misc]
        victim.start()
        victim.await_ready()
        it.until_shared(8, 8)
    check_all(it, events, runs)


def test_a_replica_that_hung_finds_itself_replaced_and_joins_anew(fleet: tuple[Fleet, Control]) -> None:
    it, events = fleet
    hung, other = it.start("hung"), it.start("other")
    hung.await_ready()
    other.await_ready()
    it.until_shared(8, 8)
    runs = [it.tasks.submit(f"h{n}", {"run_for": "3s"}) for n in range(20)]
    hung.hang()
    until(lambda: other.metric("propfan_shards_owned") == 16, "the shards have moved", timeout_s=15)
    check_all(it, events, runs)
    more = [it.tasks.submit(f"m{n}", {"run_for": "1s"}) for n in range(10)]
    hung.go_on()
    it.until_shared(8, 8)
    assert "this replica may not act any more" in hung.log
    check_all(it, events, runs + more)


def test_a_replica_that_is_told_to_stop_hands_over_at_once_and_ends_well(fleet: tuple[Fleet, Control]) -> None:
    it, events = fleet
    leaving, staying = it.start("leaving"), it.start("staying")
    leaving.await_ready()
    staying.await_ready()
    it.until_shared(8, 8)
    runs = [it.tasks.submit(f"s{n}", {"run_for": "5s"}) for n in range(20)]
    it.tasks.await_begun(runs)
    leaving.terminate()
    until(lambda: not leaving.process.is_running, "it has ended", timeout_s=12)
    assert leaving.exit_code == 0
    until(lambda: staying.metric("propfan_shards_owned") == 16, "the shards have moved", timeout_s=LEASE_S)
    assert all(holder.startswith("staying-") for holder in it.holders())
    check_all(it, events, runs)


def test_a_newcomer_gets_its_share_while_tasks_go_on(fleet: tuple[Fleet, Control]) -> None:
    it, events = fleet
    it.start("a").await_ready()
    it.until_shared(16)
    runs = [it.tasks.submit(f"n{n}", {"run_for": "3s"}) for n in range(20)]
    it.start("b").await_ready()
    it.until_shared(8, 8)
    check_all(it, events, runs)


# -- Rights ----------------------------------------------------------------------------------------

RULES: list[Mapping[str, Any]] = [
    {"apiGroups": ["flyte.org"], "resources": ["taskactions"], "verbs": ["get", "list", "watch", "patch", "delete"]},
    {"apiGroups": ["flyte.org"], "resources": ["taskactions/status"], "verbs": ["patch"]},
    {"apiGroups": ["flyte.org"], "resources": ["taskactions/finalizers"], "verbs": ["update"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["podtemplates"], "verbs": ["list", "watch"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
]
OPERATORS = {
    "apiGroups": ["ray.io", "sparkoperator.k8s.io", "kubernetes.dask.org", "kubeflow.org", "jobset.x-k8s.io"],
    "resources": ["*"],
    "verbs": ["get", "list", "watch", "create", "patch", "delete"],
}


class Account:
    """A service account whose Role in the namespace, and nothing else, says what it may do."""

    def __init__(self, control_plane: ControlPlane, namespace: str, folder: Path) -> None:
        self._api = control_plane.api
        self._namespace = namespace
        meta = {"name": "propfan"}
        self._api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}, namespace=namespace)
        self.may(RULES)
        self._api.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": meta,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "propfan"},
                "subjects": [{"kind": "ServiceAccount", "name": "propfan", "namespace": namespace}],
            },
            namespace=namespace,
        )
        token = control_plane.create_token(namespace, "propfan")
        self.kubeconfig = control_plane.write_kubeconfig(folder / "account.yaml", token, namespace=namespace)

    def may(self, rules: list[Mapping[str, Any]]) -> None:
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "propfan"}}
        self._api.apply({**role, "rules": [*rules, OPERATORS]}, namespace=self._namespace)

    @contextmanager
    def without(self, resource: str, verb: str) -> Iterator[None]:
        """Takes a right away for a while."""
        self.may([_less(rule, resource, verb) for rule in RULES])
        try:
            yield
        finally:
            self.may(RULES)


def _less(rule: Mapping[str, Any], resource: str, verb: str) -> Mapping[str, Any]:
    if resource not in rule["resources"]:
        return rule
    return {**rule, "verbs": [other for other in rule["verbs"] if other != verb] or ["none"]}


@pytest.fixture
def account(control_plane: ControlPlane, fleet: tuple[Fleet, Control], tmp_path: Path) -> Account:
    return Account(control_plane, fleet[0].namespace, tmp_path)


def test_rights_in_one_namespace_are_enough(fleet: tuple[Fleet, Control], account: Account) -> None:
    it, events = fleet
    it.settings["namespace"] = it.namespace
    it.start("narrow", account.kubeconfig).await_ready()
    check_all(it, events, [it.tasks.submit("narrow")])


def test_a_right_that_is_missing_at_the_start_is_named_with_the_rule_to_add(
    fleet: tuple[Fleet, Control], account: Account
) -> None:
    it, _ = fleet
    it.settings["namespace"] = it.namespace
    with account.without("taskactions/status", "patch"):
        replica = it.start("poor", account.kubeconfig)
        until(lambda: not replica.process.is_running, "it has ended")
    assert replica.exit_code == 2
    assert (
        f"system:serviceaccount:{it.namespace}:propfan may not 'patch' taskactions/status of flyte.org" in replica.log
    )
    assert f"# rules of a Role in namespace {it.namespace}" in replica.log
    assert '- {apiGroups: ["flyte.org"], resources: [taskactions/status], verbs: [patch]}' in replica.log


def test_a_right_that_is_taken_away_delays_tasks_and_fails_none(fleet: tuple[Fleet, Control], account: Account) -> None:
    it, events = fleet
    it.settings["namespace"] = it.namespace
    replica = it.start("robbed", account.kubeconfig)
    replica.await_ready()
    runs: list[str] = []
    for resource, verb in (("taskactions/status", "patch"), ("pods", "create"), ("taskactions", "patch")):
        refused = replica.metric("rest_client_requests_total", code="403")
        with account.without(resource, verb):
            run = it.tasks.submit(f"robbed{len(runs)}")
            until(lambda n=refused: replica.metric("rest_client_requests_total", code="403") > n, "a call is refused")  # type: ignore[misc]
            assert verdict_of(it.tasks.get(run).get("status", {})) == ""
        runs.append(run)
    check_all(it, events, runs)


# -- A cluster that is not what it should be -----------------------------------------------------------


def test_a_server_that_does_not_answer_is_waited_for(tmp_path: Path, control_plane: ControlPlane) -> None:
    file = tmp_path / "nowhere.yaml"
    file.write_text(control_plane.kubeconfig.read_text().replace(control_plane.url, "https://127.0.0.1:1"))
    replica = Replica("waiting", tmp_path, file, {})
    replica.start()
    try:
        until(lambda: replica.log.count("waiting for the API server") >= 2, "it says so again and again")
        assert replica.ask("/healthz")[0] == 200
        assert replica.ask("/readyz")[0] == 503
        replica.terminate()
        until(lambda: not replica.process.is_running, "it has ended", timeout_s=10)
        assert replica.exit_code == 0
    finally:
        replica.kill()


def test_unknown_settings_are_told_by_their_path(tmp_path: Path) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text("sharding: {shards: 0}\nserving: {log-format: xml}\nflyte: {event-url: x}\n")
    command = ["-c", "from propfan.engine.cli import main; main()", "serve", "-c", str(file)]
    ended = _run(command)
    assert ended.returncode == 2
    for field in ("sharding.shards", "serving.log-format", "flyte.event-url"):
        assert field in ended.stderr


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, check=False)
