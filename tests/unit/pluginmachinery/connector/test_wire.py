from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2, types_pb2
from google.protobuf.json_format import MessageToDict

from propfan.pluginmachinery.connector import (
    Connection,
    ConnectorMetadata,
    LogLine,
    LogOriginator,
    LogPage,
    LogsQuery,
    Metric,
    MetricsQuery,
    RemotePhase,
    Resource,
    TaskCategory,
    wire,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError
from propfan.pluginmachinery.phases import LinkType, MessageFormat, TaskLog
from propfan.pluginmachinery.testing import task_template


def test_a_resource_is_written_whole() -> None:
    link = TaskLog(
        "http://x", "console", MessageFormat.JSON, True, True, LinkType.DASHBOARD, True, "http://icon", ttl_s=1.5
    )
    resource = Resource(RemotePhase.SUCCEEDED, "fine", [link], {"n": 1}, {"cost": 0.5, "tags": ["a"]})
    message = wire.resource_message("c", resource)
    assert MessageToDict(message) == {
        "phase": "SUCCEEDED",
        "message": "fine",
        "logLinks": [
            {
                "uri": "http://x",
                "name": "console",
                "messageFormat": "JSON",
                "ttl": "1.500s",
                "ShowWhilePending": True,
                "HideOnceFinished": True,
                "linkType": "DASHBOARD",
                "ready": True,
                "iconUri": "http://icon",
            }
        ],
        "outputs": {"literals": [{"name": "n", "value": {"scalar": {"primitive": {"integer": "1"}}}}]},
        "customInfo": {"cost": 0.5, "tags": ["a"]},
    }


def test_numbers_of_phases_are_phases() -> None:
    running: Any = execution_pb2.TaskExecution.RUNNING
    assert wire.resource_message("c", Resource(running)).phase == execution_pb2.TaskExecution.RUNNING


def test_no_outputs_are_not_empty_outputs() -> None:
    assert not wire.resource_message("c", Resource(RemotePhase.SUCCEEDED)).HasField("outputs")
    assert wire.resource_message("c", Resource(RemotePhase.SUCCEEDED, outputs={})).HasField("outputs")


def test_only_the_outputs_of_a_success_are_held_against_the_interface() -> None:
    interface = task_template("t", outputs={"n": types_pb2.INTEGER}).interface
    wire.resource_message("c", Resource(RemotePhase.RUNNING, outputs={}), interface)
    with pytest.raises(PermanentError, match="the task declares n, and the connector gave: none"):
        wire.resource_message("c", Resource(RemotePhase.SUCCEEDED, outputs={}), interface)


def test_a_long_message_loses_its_middle_and_half_a_character() -> None:
    message = wire.resource_message("c", Resource(RemotePhase.FAILED, "begin" + "x" * 10**6 + "end")).message
    assert len(message) <= wire.MAX_MESSAGE_CHARS
    assert message.startswith("begin")
    assert message.endswith("end")
    assert wire.resource_message("c", Resource(RemotePhase.FAILED, "bad \ud800")).message == "bad ?"


@pytest.mark.parametrize(
    ("resource", "problem"),
    [
        (None, "must answer with a Resource, is NoneType"),
        ({"phase": 1}, "must answer with a Resource, is dict"),
        (Resource("RUNNING"), "Resource.phase must be a RemotePhase, is 'RUNNING'"),  # type: ignore[arg-type]
        (Resource(99), "Resource.phase must be a RemotePhase, is 99"),  # type: ignore[arg-type]
        (Resource(True), "Resource.phase must be a RemotePhase, is True"),  # type: ignore[arg-type]
        (Resource(RemotePhase.FAILED, None), "Resource.message must be a text, is NoneType"),  # type: ignore[arg-type]
        (Resource(RemotePhase.FAILED, log_links=["http://x"]), "Resource.log_links must be a list of TaskLog"),  # type: ignore[list-item]
        (Resource(RemotePhase.SUCCEEDED, outputs=[1]), "Resource.outputs must be a mapping or None, is list"),  # type: ignore[arg-type]
        (Resource(RemotePhase.SUCCEEDED, custom_info=7), "Resource.custom_info must be a mapping"),  # type: ignore[arg-type]
        (Resource(RemotePhase.RUNNING, custom_info={"x": object()}), "custom_info must be what JSON can say"),
        (Resource(RemotePhase.RUNNING, custom_info={1: 2}), "custom_info must be what JSON can say"),  # type: ignore[dict-item]
        (Resource(RemotePhase.RUNNING, log_links=[TaskLog(uri=7)]), "a log link can not be written"),  # type: ignore[arg-type]
        (Resource(RemotePhase.RUNNING, log_links=[TaskLog("u", ttl_s=1e300)]), "a log link can not be written"),
    ],
)
def test_nonsense_is_told_by_the_connectors_name(resource: Any, problem: str) -> None:
    with pytest.raises(PermanentError) as caught:
        wire.resource_message("Query", resource)
    assert f"connector 'Query': {problem}" in str(caught.value)


def test_a_request_is_read() -> None:
    message = connector_pb2.CreateTaskRequest(template=task_template("t"), output_prefix="s3://b/o")
    message.connection.secrets["token"] = "s3cret"
    message.connection.configs["url"] = "http://x"
    task = wire.task_request(message)
    assert task.metadata is None
    assert task.output_prefix == "s3://b/o"
    assert task.connection == Connection({"token": "s3cret"}, {"url": "http://x"})
    message.task_execution_metadata.namespace = "n"
    metadata = wire.task_request(message).metadata
    assert metadata is not None
    assert metadata.namespace == "n"


def test_a_jobs_context_is_read() -> None:
    request = connector_pb2.GetTaskRequest(output_prefix="s3://b/o")
    request.connection.secrets["a"] = "b"
    assert wire.job_context(request).output_prefix == "s3://b/o"
    assert wire.job_context(request).connection.secrets == {"a": "b"}
    assert wire.job_context(connector_pb2.DeleteTaskRequest()).output_prefix == ""


def test_queries_are_read() -> None:
    request = connector_pb2.GetTaskMetricsRequest(queries=["cpu"])
    request.start_time.seconds = 60
    request.step.nanos = 500_000_000
    expected = MetricsQuery(("cpu",), dt.datetime(1970, 1, 1, 0, 1, tzinfo=dt.UTC), None, 0.5)
    assert wire.metrics_query(request) == expected
    request.end_time.seconds = 10**15
    with pytest.raises(BadTaskSpecificationError, match="end_time: "):
        wire.metrics_query(request)
    assert wire.logs_query(connector_pb2.GetTaskLogsRequest(lines=5, token="t")) == LogsQuery(5, "t")


def test_a_page_is_its_lines_and_then_the_token() -> None:
    line = LogLine("hello", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), LogOriginator.SYSTEM)
    body, header = wire.log_messages("c", LogPage([line], "next"))
    assert MessageToDict(body.body) == {
        "results": ["hello"],
        "lines": [{"timestamp": "2026-01-01T00:00:00Z", "message": "hello", "originator": "SYSTEM"}],
    }
    assert header.header.token == "next"
    assert len(wire.log_messages("c", LogPage([line]))) == 1


@pytest.mark.parametrize("page", [None, "line", LogPage(["line"]), LogPage([LogLine(7)]), LogPage(7)])  # type: ignore[list-item,arg-type]
def test_a_page_of_nonsense_is_told(page: Any) -> None:
    with pytest.raises(PermanentError, match=r"connector 'c': (get_logs must yield LogPage|a LogPage can not be)"):
        wire.log_messages("c", page)


def test_metrics_are_written() -> None:
    message = wire.metrics_message("c", [Metric("cpu", {"result": [1.5]})])
    assert MessageToDict(message) == {"results": [{"metric": "cpu", "data": {"result": [1.5]}}]}
    for nonsense in (None, ["cpu"], [Metric("cpu", {"x": object()})]):
        with pytest.raises(PermanentError, match="connector 'c': "):
            wire.metrics_message("c", nonsense)


def test_a_connector_is_listed() -> None:
    message = wire.connector_message(ConnectorMetadata("C", (TaskCategory("a"), TaskCategory("b", 2)), is_sync=True))
    assert MessageToDict(message) == {
        "name": "C",
        "supportedTaskCategories": [{"name": "a"}, {"name": "b", "version": 2}],
    }
