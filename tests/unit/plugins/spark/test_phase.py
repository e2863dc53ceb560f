from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
import structlog.testing

from propfan.pluginmachinery.errors import DecodeError, UnavailableError
from propfan.pluginmachinery.kubernetes_plugin import ObservedObject
from propfan.pluginmachinery.phases import ErrorKind, LinkType, Phase, PhaseInfo, PluginState
from propfan.pluginmachinery.testing import NOW, FakeTaskContext, observed
from propfan.plugins.spark.application import SPARK_APPLICATION
from tests.unit.plugins.spark.tasks import spark_plugin, spark_task

pytestmark = pytest.mark.anyio

DRIVER = "r1-a0-0-driver"
DYNAMIC = {"vscode": {"displayName": "Editor", "templateUris": ["https://code/{{ .podName }}"]}}


def application(state: str = "", *, driver: str = DRIVER, spec: Any = None, **status: Any) -> ObservedObject:
    info = {"podName": driver, **status.pop("driverInfo", {})}
    members = {"status": {"applicationState": {"state": state}, "driverInfo": info, **status}, "spec": spec or {}}
    return observed(SPARK_APPLICATION, members)


def context(*pods: dict[str, Any], state: PluginState | None = None) -> FakeTaskContext:
    return FakeTaskContext(spark_task(), pods=pods, plugin_state=state or PluginState())


async def phase(resource: ObservedObject, ctx: FakeTaskContext | None = None, **section: Any) -> PhaseInfo:
    return await spark_plugin(**section).get_task_phase(ctx or context(), resource)


def pod(status: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": DRIVER, "namespace": "project-domain"}, "status": status}


def waiting(reason: str, since_s: float) -> dict[str, Any]:
    since = (NOW - timedelta(seconds=since_s)).isoformat()
    condition = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "lastTransitionTime": since}
    container = {"name": "spark-kubernetes-driver", "ready": False, "state": {"waiting": {"reason": reason}}}
    return pod({"phase": "Pending", "conditions": [condition], "containerStatuses": [container]})


def link_uris(info: PhaseInfo) -> dict[str, str]:
    assert info.info is not None
    return {log.name: log.uri for log in info.info.logs}


async def test_driver_that_can_not_start_fails_the_task_before_the_operator_does() -> None:
    verdict = await phase(application("SUBMITTED"), context(waiting("InvalidImageName", 5)))
    assert verdict.phase is Phase.PERMANENT_FAILURE
    assert verdict.cleanup_on_failure


async def test_driver_that_waits_has_the_task_looked_at_again_when_its_grace_period_ends() -> None:
    verdict = await phase(application("SUBMITTED"), context(waiting("ImagePullBackOff", 60)))
    assert verdict.phase is Phase.INITIALIZING
    assert verdict.recheck_at == NOW + timedelta(seconds=120)


@pytest.mark.parametrize(("exit_code", "kind"), [(1, ErrorKind.USER), (137, ErrorKind.SYSTEM)])
async def test_exit_code_of_the_driver_is_charged_to_whom_it_belongs(exit_code: int, kind: ErrorKind) -> None:
    ended = {"terminated": {"exitCode": exit_code, "reason": "Error", "message": "no such table"}}
    container = {"name": "spark-kubernetes-driver", "ready": False, "state": ended}
    verdict = await phase(application("RUNNING"), context(pod({"phase": "Failed", "containerStatuses": [container]})))
    assert verdict.error is not None
    assert (verdict.phase, verdict.error.kind) == (Phase.RETRYABLE_FAILURE, kind)
    assert "no such table" in verdict.error.message


async def test_failed_driver_is_a_failure_with_the_links_of_the_task() -> None:
    verdict = await phase(application("RUNNING"), context(pod({"phase": "Failed", "reason": "Evicted"})))
    assert verdict.error is not None
    assert (verdict.phase, verdict.error.code) == (Phase.RETRYABLE_FAILURE, "Evicted")
    assert "Kubernetes Logs" in link_uris(verdict)


class UnreadablePods:
    async def get_pod(self, name: str) -> bytes | None:
        raise UnavailableError(f"Pod {name}", "the server is down")

    async def list_pods(self) -> list[bytes]:
        return []


class StrangePods(UnreadablePods):
    async def get_pod(self, name: str) -> bytes | None:
        return b'{"status": 1}'


@pytest.mark.parametrize("reader", [UnreadablePods(), StrangePods()])
async def test_operator_is_believed_while_the_driver_can_not_be_read(reader: UnreadablePods) -> None:
    ctx = context()
    ctx.kubernetes = reader
    with structlog.testing.capture_logs() as logs:
        verdict = await phase(application("RUNNING"), ctx)
    assert verdict.phase is Phase.RUNNING
    assert [log["pod"] for log in logs] == [DRIVER]


async def test_application_without_a_driver_has_no_link_to_its_logs_and_no_pod_is_read() -> None:
    ctx = context()
    ctx.kubernetes = UnreadablePods()
    verdict = await phase(application(driver=""), ctx)
    assert (verdict.phase, verdict.reason) == (Phase.QUEUED, "job queued")
    assert link_uris(verdict) == {}


@pytest.mark.parametrize(
    ("address", "uri"),
    [("ui.example.com/x", "https://ui.example.com/x"), ("http://a", "http://a"), ("https://a", "https://a")],
)
async def test_running_application_links_to_the_drivers_ui(address: str, uri: str) -> None:
    verdict = await phase(application("RUNNING", driverInfo={"webUIIngressAddress": address}))
    assert link_uris(verdict)["Spark Driver UI"] == uri
    assert verdict.reason == "Spark driver UI is ready"
    assert verdict.info is not None
    assert verdict.info.custom_info == {"sparkDriverUI": uri}
    assert [log.ready for log in verdict.info.logs if log.link_type is LinkType.DASHBOARD] == [True]


async def test_ended_application_links_to_the_history_server() -> None:
    verdict = await phase(
        application("COMPLETED", sparkApplicationId="spark-1"), spark_history_server_url="https://history"
    )
    assert link_uris(verdict)["Spark History UI"] == "https://history/history/spark-1"
    assert verdict.info is not None
    assert verdict.info.custom_info == {"sparkHistoryUI": "https://history/history/spark-1"}
    assert verdict.reason == ""


async def test_declared_ui_of_an_application_that_does_not_run_is_not_ready() -> None:
    ctx = context()
    ctx.template.metadata.log_links.add(uri="https://ui", name="Spark Driver UI (mine)")
    verdict = await phase(application("SUBMITTED"), ctx)
    assert verdict.info is not None
    assert [log.ready for log in verdict.info.logs if "mine" in log.name] == [False] * 4
    assert verdict.reason == "job submitted" + ", Spark driver UI is not ready" * 4


@pytest.mark.parametrize(("value", "links"), [("true", 1), ("no", 0)])
async def test_debugger_in_the_driver_adds_its_link(value: str, links: int) -> None:
    resource = application("RUNNING", spec={"driver": {"env": [{"name": "_F_E_VS", "value": value}]}})
    verdict = await phase(resource, logs={"mixed": {"dynamic-log-links": DYNAMIC}})
    assert list(link_uris(verdict)).count("Editor") == links
    assert verdict.reason == ("Vscode server is ready" if links else "")


async def test_new_reason_in_the_same_phase_gets_a_new_version() -> None:
    last = PluginState(Phase.RUNNING, 3, "")
    verdict = await phase(application("RUNNING", driverInfo={"webUIIngressAddress": "a"}), context(state=last))
    assert verdict.version == 4


async def test_executors_that_have_begun_are_in_the_log_context_by_name() -> None:
    states = {"exec-2": "RUNNING", "exec-1": "COMPLETED", "exec-3": "PENDING", "exec-4": "UNKNOWN"}
    verdict = await phase(application("RUNNING", executorState=states))
    assert verdict.info is not None
    assert verdict.info.log_context is not None
    assert [p.pod_name for p in verdict.info.log_context.pods] == [DRIVER, "exec-1", "exec-2"]
    assert verdict.info.log_context.primary_pod_name == DRIVER


async def test_completion_is_the_latest_thing_that_is_known() -> None:
    plugin = spark_plugin()
    ended, submitted = "2026-01-02T03:04:05Z", "2026-01-02T03:00:00Z"
    for status, expected in (
        ({"terminationTime": ended, "lastSubmissionAttemptTime": submitted}, ended),
        ({"terminationTime": None, "lastSubmissionAttemptTime": submitted}, submitted),
    ):
        found = plugin.get_completion_time(application("COMPLETED", **status))
        assert found is not None
        assert found.isoformat().replace("+00:00", "Z") == expected
    assert plugin.get_completion_time(application()) == NOW


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"status": 1}', b'{"status": {"driverInfo": {"podName": 1}}}', b"\xff"])
async def test_what_is_no_application_is_refused(raw: bytes) -> None:
    resource = msgspec.structs.replace(application(), raw=raw)
    plugin = spark_plugin()
    for call in (plugin.is_terminal, plugin.get_completion_time):
        with pytest.raises(DecodeError, match="SparkApplication project-domain/r1-a0-0"):
            call(resource)
    with pytest.raises(DecodeError):
        await plugin.get_task_phase(context(), resource)
