from __future__ import annotations

import json
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery import podphase
from propfan.pluginmachinery.config import Duration, K8sConfig
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.kubernetes_plugin import POD, ObjectMeta, ObservedObject
from propfan.pluginmachinery.loglinks import NO_LOGS, LinkTemplate, LogLinks, LogsConfig
from propfan.pluginmachinery.phases import UNDEFINED, ZERO_TIME, ErrorKind, Phase, PhaseInfo, PluginState, TaskInfo
from tests.unit._speedups.pod_strategies import NOW, pending_pods, pods, time_text

USER, SYSTEM = ErrorKind.USER, ErrorKind.SYSTEM
RETRYABLE, PERMANENT = Phase.RETRYABLE_FAILURE, Phase.PERMANENT_FAILURE
OLD = time_text(NOW - timedelta(minutes=3))
YOUNG = time_text(NOW - timedelta(minutes=3) + timedelta(seconds=1))


def verdict(
    pod: dict[str, Any],
    *,
    now: datetime = NOW,
    k8s: K8sConfig | None = None,
    logs: LogsConfig | None = None,
    last: PluginState | None = None,
) -> PhaseInfo:
    phases = podphase.PodPhases(k8s, logs or NO_LOGS)
    decoded = podphase.decode_pod(json.dumps(pod).encode(), "Pod ns/p", environment=True)
    return phases.phase(decoded, LogLinks(logs or NO_LOGS).plan(None), None, now, last or PluginState())


def running(state: dict[str, Any] | None, **annotations: str) -> dict[str, Any]:
    statuses = [] if state is None else [{"name": "main", "state": state, "ready": True}]
    return {
        "metadata": {"name": "p", "namespace": "ns", "annotations": annotations},
        "spec": {"containers": [{"name": "main"}, {"name": "side"}]},
        "status": {"phase": "Running", "containerStatuses": statuses},
    }


def waiting(reason: str, message: str = "m", since: str | None = YOUNG, **where: Any) -> dict[str, Any]:
    condition = {
        "type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "c", "lastTransitionTime": since
    }  # fmt: skip
    statuses = [{"name": "main", "state": {"waiting": {"reason": reason, "message": message}}}]
    return {"status": {"phase": "Pending", "conditions": [condition], "containerStatuses": statuses, **where}}


def blame(info: PhaseInfo) -> tuple[Phase, ErrorKind, str, bool]:
    assert info.error is not None
    return info.phase, info.error.kind, info.error.code, info.cleanup_on_failure


@pytest.mark.parametrize(
    ("reason", "message", "since", "expected"),
    [
        ("CreateContainerError", "m", OLD, (PERMANENT, USER)),
        ("CreateContainerConfigError", "m", time_text(NOW), (PERMANENT, USER)),
        ("InvalidImageName", "m", time_text(NOW), (PERMANENT, USER)),
        ("ImagePullBackOff", "m", OLD, (RETRYABLE, USER)),
        ("ImagePullBackOff", "got 429 Too Many Requests", OLD, (RETRYABLE, SYSTEM)),
        ("CrashLoopBackOff", "m", time_text(NOW), (RETRYABLE, SYSTEM)),
        ("", "m", time_text(NOW), (RETRYABLE, SYSTEM)),
        ("ImagePullBackOff", "m", None, (RETRYABLE, USER)),
    ],
)
def test_waiting_reason_fails_and_cleans_up(
    reason: str, message: str, since: str | None, expected: tuple[Phase, ErrorKind]
) -> None:
    info = verdict(waiting(reason, message, since))
    assert blame(info) == (*expected, f"ContainersNotReady|{reason}", True)
    assert info.info == TaskInfo(occurred_at=ZERO_TIME if since is None else datetime.fromisoformat(since))


@pytest.mark.parametrize(
    ("reason", "recheck_s"),
    [
        ("ErrImagePull", None),
        ("ContainerCreating", None),
        ("PodInitializing", None),
        ("CreateContainerError", 1),
        ("ImagePullBackOff", 1),
    ],
)
def test_waiting_reason_initializes_until_its_grace_ends(reason: str, recheck_s: int | None) -> None:
    info = verdict(waiting(reason))
    assert (info.phase, info.version) == (Phase.INITIALIZING, 0)
    assert info.reason == f"[ContainersNotReady|{reason}]: c|m"
    assert info.recheck_at == (None if recheck_s is None else NOW + timedelta(seconds=recheck_s))
    assert info.info == TaskInfo(occurred_at=datetime.fromisoformat(YOUNG))


@pytest.mark.parametrize(
    ("period", "text"), [("3m", "3m0s"), ("500ms", "500ms"), ("1h", "1h0m0s"), ("90s", "1m30s"), ("0", "0s")]
)
def test_exceeded_grace_period_is_named(period: str, text: str) -> None:
    k8s = K8sConfig(image_pull_backoff_grace_period=Duration.parse(period))
    info = verdict(waiting("ImagePullBackOff", since="2026-01-01T00:00:00Z"), k8s=k8s)
    assert info.error is not None
    assert info.error.message == f"Grace period [{text}] exceeded|c|m"


def test_grace_period_finer_than_a_microsecond_is_not_cut_short() -> None:
    k8s = K8sConfig(image_pull_backoff_grace_period=Duration(1))
    assert verdict(waiting("ImagePullBackOff", since=time_text(NOW)), k8s=k8s).phase is Phase.INITIALIZING


def test_waiting_init_container_comes_first_even_when_ready() -> None:
    init = [{"name": "i", "ready": True, "state": {"waiting": {"reason": "InvalidImageName"}}}]
    assert (
        blame(verdict(waiting("ErrImagePull", initContainerStatuses=init)))[2] == "ContainersNotReady|InvalidImageName"
    )


def test_ready_container_that_waits_is_passed_over() -> None:
    pod = waiting("CrashLoopBackOff")
    pod["status"]["containerStatuses"][0]["ready"] = True
    assert verdict(pod).reason == "Demistify Pending"


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ([], "Demistify Pending"),
        ([{"type": "PodScheduled", "status": "True"}], "Demistify Pending"),
        ([{"type": "PodScheduled", "status": "False", "reason": "R", "message": "M"}], "R:M"),
        ([{"type": "Unschedulable", "status": "True", "reason": "R", "message": "M"}], "R:M"),
        ([{"type": "Ready", "status": "False"}, {"type": "PodScheduled", "status": "False"}], ":"),
    ],
)
def test_pending_pod_is_queued_with_the_first_condition_that_explains_it(
    conditions: list[dict[str, str]], reason: str
) -> None:
    info = verdict(
        {"status": {"phase": "Pending", "conditions": conditions}}, last=PluginState(Phase.QUEUED, 0, reason)
    )
    assert (info.phase, info.version, info.reason) == (Phase.QUEUED, 0, reason)
    assert info.info is not None
    assert info.info.log_context is not None


@pytest.mark.parametrize("pod", [waiting("ErrImagePull", since=OLD), waiting("ImagePullBackOff", since=OLD)])
def test_pending_too_long_fails_unless_it_has_failed_already(pod: dict[str, Any]) -> None:
    k8s = K8sConfig(
        pod_pending_timeout=Duration.parse("3m"), image_pull_backoff_grace_period=Duration.parse("180.000000001s")
    )
    info = verdict(pod, k8s=k8s)
    assert blame(info) == (RETRYABLE, SYSTEM, "PodPendingTimeout", True)
    assert info.error is not None
    assert info.error.message.endswith(": c|m")
    assert info.info == TaskInfo(occurred_at=NOW - timedelta(minutes=3))
    failed = verdict(waiting("InvalidImageName", since=OLD), k8s=k8s)
    assert blame(failed)[2] == "ContainersNotReady|InvalidImageName"


def test_pending_timeout_counts_from_the_last_condition_when_none_explains_the_wait() -> None:
    k8s = K8sConfig(pod_pending_timeout=Duration.parse("3m"))
    conditions = [{"type": "A", "lastTransitionTime": OLD}, {"type": "B", "lastTransitionTime": YOUNG}]
    info = verdict({"status": {"phase": "Pending", "conditions": conditions}}, k8s=k8s)
    assert info.recheck_at == NOW + timedelta(seconds=1)
    assert verdict({"status": {"phase": "Pending"}}, k8s=k8s).recheck_at is None


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"reason": "Shutdown"}, (SYSTEM, "Interrupted")),
        ({"reason": "NodeShutdown"}, (SYSTEM, "Interrupted")),
        ({"reason": "Terminated"}, (SYSTEM, "Interrupted")),
        ({"reason": "NodeAffinity"}, (SYSTEM, "Interrupted")),
        ({"reason": "Evicted"}, (USER, "Evicted")),
        ({}, (SYSTEM, "Interrupted")),
        ({"containerStatuses": [{"name": "side", "state": {"terminated": {"exitCode": 137}}}]}, (USER, "Interrupted")),
        ({"containerStatuses": [{"name": "main", "state": {"terminated": {"exitCode": 247}}}]}, (SYSTEM, "Interrupted")),
        (
            {"reason": "Evicted", "ephemeralContainerStatuses": [{"state": {"terminated": {"reason": "OOMKilled"}}}]},
            (USER, "OOMKilled"),
        ),
        (
            {"initContainerStatuses": [{"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 1}},
                                        "state": {"terminated": {"exitCode": 137}}}]},
            (USER, "OOMKilled"),
        ),
    ],
)  # fmt: skip
def test_failed_pod_is_blamed_on_user_or_system(status: dict[str, Any], expected: tuple[ErrorKind, str]) -> None:
    pod = {"metadata": {"annotations": {"primary_container_name": "main"}}, "status": {"phase": "Failed", **status}}
    info = verdict(pod)
    assert blame(info) == (RETRYABLE, *expected, False)


def test_failed_pod_tells_how_each_container_ended() -> None:
    status = {
        "phase": "Failed",
        "message": "node went",
        "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}],
        "containerStatuses": [
            {"name": "m", "state": {"terminated": {"exitCode": 2, "reason": "Error", "message": "tail"}}},
            {"name": "w", "state": {"running": {}}},
        ],
    }
    info = verdict({"status": status})
    assert info.error is not None
    assert info.error.message == (
        "node went\r\n[i] terminated with ExitCode 0."
        "\r\n[m] terminated with exit code (2). Reason [Error]. Message: \ntail."
    )


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"exitCode": 1, "reason": "Error"}, (RETRYABLE, USER, "Error", False)),
        ({"exitCode": 137, "reason": "Error"}, (RETRYABLE, SYSTEM, "Error", False)),
        ({"exitCode": 137, "reason": "OOMKilled"}, (RETRYABLE, USER, "OOMKilled", False)),
        ({"exitCode": 0, "reason": "OOMKilled"}, (RETRYABLE, USER, "OOMKilled", False)),
        ({"exitCode": 3}, (RETRYABLE, USER, "", False)),
    ],
)
def test_ended_primary_container_decides_while_others_run(
    state: dict[str, Any], expected: tuple[Phase, ErrorKind, str, bool]
) -> None:
    assert blame(verdict(running({"terminated": state}, primary_container_name="main"))) == expected


@pytest.mark.parametrize(
    ("state", "name", "expected"),
    [
        ({"running": {}}, "main", (Phase.RUNNING, 1)),
        ({"waiting": {}}, "main", (Phase.RUNNING, 1)),
        ({"terminated": {"exitCode": 0}}, "main", (Phase.SUCCESS, 0)),
        (None, "main", (Phase.RUNNING, 0)),
        ({}, "main", (Phase.RUNNING, 0)),
        ({"running": {}}, "side", (Phase.RUNNING, 0)),
        ({"running": {}}, "other", (PERMANENT, 0)),
        ({"running": {}}, "", (PERMANENT, 0)),
    ],
)
def test_running_pod_follows_its_primary_container(
    state: dict[str, Any] | None, name: str, expected: tuple[Phase, int]
) -> None:
    info = verdict(running(state, primary_container_name=name))
    assert (info.phase, info.version) == expected


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ({"running": {}}, Phase.RUNNING),
        ({"terminated": {"exitCode": 1}}, Phase.RUNNING),
        ({"terminated": {"exitCode": 0}}, Phase.SUCCESS),
        ({"terminated": {"exitCode": 0, "reason": "OOMKilled"}}, RETRYABLE),
        ({}, Phase.SUCCESS),
        (None, Phase.RUNNING),
    ],
)
def test_running_pod_without_a_primary_container_waits_for_all(state: dict[str, Any] | None, phase: Phase) -> None:
    assert verdict(running(state)).phase is phase


def test_unknown_pod_has_no_phase_and_no_info() -> None:
    assert verdict({"status": {"phase": "Unknown"}}) == UNDEFINED
    assert verdict({"status": {"phase": "Unknown"}}, last=PluginState(Phase.UNDEFINED, 4, "x")).version == 5


def test_unschedulable_pod_is_queued() -> None:
    assert verdict({"status": {"phase": "Unschedulable"}}).reason == "pod unschedulable"


def test_new_reason_within_a_phase_gets_a_new_version() -> None:
    pod = {"status": {"phase": "Pending", "conditions": [{"type": "Unschedulable", "reason": "R", "message": "new"}]}}
    assert verdict(pod, last=PluginState(Phase.QUEUED, 7, "R:old")).version == 8
    assert verdict(pod, last=PluginState(Phase.QUEUED, 7, "R:new")).version == 0
    assert verdict(pod, last=PluginState(Phase.INITIALIZING, 7, "R:old")).version == 0


EDITORS = LogsConfig(
    templates=(LinkTemplate(template_uris=("a", "b"), link_type="ide"), LinkTemplate(template_uris=("c",))),
)


@pytest.mark.parametrize(("ready", "text"), [(True, "Vscode server is ready"), (False, "Vscode server is not ready")])
def test_first_editor_link_tells_whether_the_primary_container_is_ready(ready: bool, text: str) -> None:  # noqa: FBT001
    pod = running({"running": {}}, primary_container_name="main")
    pod["status"]["containerStatuses"][0]["ready"] = ready
    info = verdict(pod, logs=EDITORS)
    assert info.reason == text
    assert info.info is not None
    assert [log.ready for log in info.info.logs] == [True, ready, True, True]


def test_editor_link_is_not_looked_at_before_the_pod_runs() -> None:
    pod = running({"waiting": {}})
    pod["status"]["phase"] = "Pending"
    assert verdict(pod, logs=EDITORS).reason == "Demistify Pending"


def test_failure_with_bare_info_gets_the_editors_reason_all_the_same() -> None:
    pod = waiting("InvalidImageName") | {"spec": {"containers": [{"name": "main"}]}}
    info = verdict(pod, logs=EDITORS)
    assert info.reason == "Vscode server is not ready"
    assert info.info is not None
    assert info.info.logs == ()


def test_times_are_the_last_change_of_a_container_and_the_completion() -> None:
    done = {"type": "Ready", "status": "False", "reason": "PodCompleted", "lastTransitionTime": "2026-03-14T15:00:09Z"}
    status = {
        "phase": "Succeeded",
        "conditions": [done],
        "initContainerStatuses": [{"state": {"running": {"startedAt": "2026-03-14T15:00:03.9Z"}}}],
        "containerStatuses": [
            {"state": {"terminated": {"finishedAt": "2026-03-14T15:00:02Z"}}},
            {"lastState": {"terminated": {"finishedAt": "2026-03-14T15:00:07Z"}}, "state": {"running": {}}},
        ],
    }
    info = verdict({"status": status}).info
    assert info is not None
    assert info.occurred_at == datetime.fromisoformat("2026-03-14T15:00:03Z")
    assert info.reported_at == datetime.fromisoformat("2026-03-14T15:00:09Z")
    bare = verdict({"status": {"phase": "Succeeded"}}).info
    assert bare is not None
    assert (bare.occurred_at, bare.reported_at) == (NOW, NOW)


def test_log_context_lists_containers_by_their_statuses() -> None:
    pod = running({"terminated": {"exitCode": 0, "startedAt": "2026-03-14T15:00:02Z"}})
    pod["status"]["initContainerStatuses"] = [{"name": "i", "state": {"waiting": {}}}]
    info = verdict(pod).info
    assert info is not None
    assert info.log_context is not None
    [context] = info.log_context.pods
    assert [c.container_name for c in context.containers] == ["main"]
    assert context.containers[0].container_end_time == ZERO_TIME
    assert context.init_containers[0].container_start_time is None
    assert (context.primary_container_name, info.log_context.primary_pod_name) == ("main", "p")


@pytest.mark.parametrize(
    ("metadata", "containers", "name"),
    [
        ({"annotations": {"kubectl.kubernetes.io/default-container": "a", "primary_container_name": "b"}}, ["c"], "a"),
        ({"annotations": {"kubectl.kubernetes.io/default-container": "", "primary_container_name": "b"}}, ["c"], "b"),
        ({"name": "p", "annotations": {"primary_container_name": ""}}, ["c", "p"], "p"),
        ({"name": "p"}, ["c", "d"], "c"),
        ({}, [], ""),
    ],
)
def test_primary_container_is_named_by_annotation_pod_or_order(
    metadata: dict[str, Any], containers: list[str], name: str
) -> None:
    pod = {"metadata": metadata, "spec": {"containers": [{"name": c} for c in containers]}}
    assert podphase.primary_container_name(podphase.decode_pod(json.dumps(pod).encode(), "Pod")) == name


@pytest.mark.parametrize(
    ("pod", "when"),
    [
        ({"status": {"containerStatuses": [{"lastState": {"terminated": {"finishedAt": OLD}}}]}}, OLD),
        ({"metadata": {"deletionTimestamp": OLD, "creationTimestamp": YOUNG}, "status": {"startTime": YOUNG}}, OLD),
        ({"metadata": {"creationTimestamp": YOUNG}, "status": {"startTime": OLD}}, OLD),
        ({"metadata": {"creationTimestamp": OLD}}, OLD),
    ],
)
def test_completion_is_the_last_end_else_the_best_known_time(pod: dict[str, Any], when: str) -> None:
    decoded = podphase.decode_pod(json.dumps(pod).encode(), "Pod")
    assert podphase.completion_time(decoded) == datetime.fromisoformat(when)


@given(
    pod=pods | pending_pods,
    pending_s=st.sampled_from([0, 30, 120]),
    grace_s=st.sampled_from([0, 1, 60, 300]),
    later=st.floats(0, 1, exclude_max=True),
    last=st.builds(PluginState, st.sampled_from(Phase), st.integers(0, 3), st.sampled_from(["", "x"])),
)
def test_verdict_holds_until_it_is_to_be_asked_again(
    pod: dict[str, Any], pending_s: int, grace_s: int, later: float, last: PluginState
) -> None:
    grace = Duration.parse(f"{grace_s}s")
    k8s = K8sConfig(
        create_container_error_grace_period=grace,
        image_pull_backoff_grace_period=grace,
        create_container_config_error_grace_period=grace,
        pod_pending_timeout=Duration.parse(f"{pending_s}s"),
    )
    first = verdict(pod, k8s=k8s, last=last)
    end = first.recheck_at or NOW + timedelta(days=400)
    assert end > NOW
    then = verdict(pod, now=NOW + (end - NOW) * later, k8s=k8s, last=last)
    assert (then.phase, then.version, then.reason, then.error, then.recheck_at) == (
        first.phase, first.version, first.reason, first.error, first.recheck_at
    )  # fmt: skip


@given(
    reason=st.sampled_from(["CreateContainerError", "ImagePullBackOff", "ErrImagePull"]),
    age_s=st.integers(-60, 99),
    grace_s=st.integers(100, 200),
)
def test_verdict_changes_when_it_is_to_be_asked_again(reason: str, age_s: int, grace_s: int) -> None:
    grace = Duration.parse(f"{grace_s}s")
    k8s = K8sConfig(
        create_container_error_grace_period=grace,
        image_pull_backoff_grace_period=grace,
        pod_pending_timeout=Duration.parse("150s"),
    )
    pod = waiting(reason, since=time_text(NOW - timedelta(seconds=age_s)))
    first = verdict(pod, k8s=k8s)
    assert first.recheck_at is not None
    assert first.recheck_at > NOW
    assert verdict(pod, now=first.recheck_at, k8s=k8s).phase is not first.phase


@pytest.mark.parametrize("since", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "1500-01-01T00:00:00Z"])
def test_times_at_the_ends_of_the_calendar_are_survived(since: str) -> None:
    k8s = K8sConfig(pod_pending_timeout=Duration.parse("1h"))
    assert verdict(waiting("ImagePullBackOff", since=since), k8s=k8s).phase in (Phase.INITIALIZING, RETRYABLE)


def test_what_is_no_pod_is_refused_by_name() -> None:
    resource = ObservedObject(POD, ObjectMeta(name="p", namespace="ns"), b'{"status":{"phase":7}}')
    with pytest.raises(DecodeError, match=r"Pod ns/p: .*\$\.status\.phase"):
        podphase.PodPhases().decode(resource)


@given(pod=pods)
def test_compact_pod_gives_the_same_verdict_and_times(pod: dict[str, Any]) -> None:
    logs = LogsConfig(dynamic_log_links={"vscode": LinkTemplate(template_uris=("{{ .containerID }}",))})
    phases = podphase.PodPhases(logs=logs)
    whole = ObservedObject(POD, ObjectMeta(name="p"), json.dumps(pod).encode())
    compact = podphase.compact(whole)
    assert phases.decode(compact) == phases.decode(whole)
    assert compact.metadata is whole.metadata


def context(pod: dict[str, Any] | None) -> Any:
    async def get_pod(name: str) -> bytes | None:
        return json.dumps(pod).encode() if pod is not None and name == "p" else None

    return SimpleNamespace(
        kubernetes=SimpleNamespace(get_pod=get_pod), metadata=SimpleNamespace(namespace="ns"), now=NOW
    )


@pytest.mark.anyio
async def test_failed_pod_of_an_operator_carries_the_callers_info() -> None:
    status = {"phase": "Failed", "containerStatuses": [{"name": "head", "state": {"terminated": {"exitCode": 137}}}]}
    known = TaskInfo(custom_info={"a": 1})
    info = await podphase.PodPhases().failed_or_pending(context({"status": status}), "p", "head", known)
    assert blame(info) == (RETRYABLE, SYSTEM, "Interrupted", False)
    assert info.info == TaskInfo(occurred_at=NOW, custom_info={"a": 1})


@pytest.mark.anyio
async def test_pending_pod_of_an_operator_only_tells_since_when() -> None:
    phases = podphase.PodPhases()
    info = await phases.failed_or_pending(context(waiting("ImagePullBackOff", since=OLD)), "p", "head", TaskInfo())
    assert blame(info) == (RETRYABLE, USER, "ContainersNotReady|ImagePullBackOff", True)
    assert info.info == TaskInfo(occurred_at=NOW - timedelta(minutes=3))


@pytest.mark.anyio
@pytest.mark.parametrize("pod", [None, {}, running({"running": {}})])
async def test_other_pod_of_an_operator_says_nothing(pod: dict[str, Any] | None) -> None:
    assert await podphase.PodPhases().failed_or_pending(context(pod), "p", "head") == UNDEFINED


@pytest.mark.anyio
async def test_broken_pod_of_an_operator_is_refused_by_name() -> None:
    with pytest.raises(DecodeError, match="Pod ns/p"):
        await podphase.PodPhases().failed_or_pending(context({"status": []}), "p", "head")
