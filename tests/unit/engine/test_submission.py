"""From a submission to its object, and what can be read of any object afterwards."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest
from flyteidl2.core import types_pb2
from flyteidl2.workflow import run_definition_pb2
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine import status, submission
from propfan.engine.cluster import TASK_ACTION, ObservedObject
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.reconcile.live_task import TaskKey, decode
from propfan.engine.submission import MAX_TEMPLATE_BYTES, Submission, TaskStatus
from propfan.engine.task_state import Limits, Outcome, TaskState
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError, PropfanError, TaskError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.phases import ZERO_TIME, ErrorKind, ExecutionError, Phase
from propfan.pluginmachinery.taskaction import FINALIZER, TaskAction
from propfan.pluginmachinery.testing import task_template

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEMPLATE = task_template("python", name="module.function", outputs={"o0": types_pb2.INTEGER})
TEMPLATE.metadata.discovery_version = "v7"
CONDITION = run_definition_pb2.ConditionAction(name="ok?").SerializeToString()


def task(**fields: Any) -> Submission:
    return Submission(**{"template": TEMPLATE.SerializeToString(), **fields})


def made(given_: Submission) -> TaskAction:
    return submission.to_task_action(given_, namespace="ns", store="s3://bucket/root")


def seen(body: bytes, **metadata: Any) -> ObservedObject:
    meta = ObjectMeta(name="r1-a0", namespace="ns", uid="u", creation_timestamp=NOW, **metadata)
    return ObservedObject(TASK_ACTION, meta, body)


# -- To the object ---------------------------------------------------------------------------------


def test_what_is_not_given_is_made_up_or_taken_from_the_template() -> None:
    action = made(task())
    spec, meta = action.spec, action.metadata
    assert re.fullmatch(r"r[b-z2-9]{19}", spec.run_name)
    assert (meta.name, meta.namespace, meta.finalizers) == (f"{spec.run_name}-a0", "ns", (FINALIZER,))
    assert (spec.project, spec.domain, spec.action_name) == ("project", "domain", "a0")
    assert (spec.task_type, spec.short_name, spec.cache_key) == ("python", "function", "v7")
    assert spec.run_output_base == f"s3://bucket/root/project/domain/{spec.run_name}/"
    assert spec.input_uri == f"{spec.run_output_base}a0/inputs.pb"
    assert meta.labels == {
        "flyte.org/project": "project",
        "flyte.org/domain": "domain",
        "flyte.org/run": spec.run_name,
        "flyte.org/action": "a0",
        "flyte.org/action-type": "task",
        "flyte.org/is-root": "true",
    }


def test_what_is_given_is_kept() -> None:
    action = made(
        task(
            run_name="r1",
            action_name="a1",
            parent_action_name="a0",
            project="p",
            domain="d",
            input_uri="s3://in/inputs.pb",
            run_output_base="s3://out/r1",
            cache_key="mine",
            env_vars={"A": "b"},
            interruptible=True,
            labels={"team": "x", "flyte.org/run": "of somebody else"},
            group="g",
        )
    )
    spec = action.spec
    assert (spec.input_uri, spec.run_output_base, spec.cache_key) == ("s3://in/inputs.pb", "s3://out/r1", "mine")
    assert (spec.env_vars, spec.interruptible, spec.group) == ({"A": "b"}, True, "g")
    assert spec.parent_action_name == "a0"
    labels = action.metadata.labels
    assert (labels["team"], labels["flyte.org/run"], labels["flyte.org/is-root"]) == ("x", "r1", "false")


def test_condition_has_neither_task_nor_finalizer() -> None:
    action = made(Submission(condition=CONDITION, run_name="r1"))
    assert (action.spec.action_type, action.spec.condition_spec) == ("condition", CONDITION)
    assert (action.spec.task_template, action.spec.input_uri, action.spec.task_type) == (None, "", "")
    assert (action.spec.project, action.spec.domain) == ("local", "development")
    assert action.metadata.finalizers == ()


@pytest.mark.parametrize(
    ("given_", "problem"),
    [
        (Submission(), "exactly one of a template and a condition"),
        (task(condition=CONDITION), "exactly one of a template and a condition"),
        (task(run_name="Upper"), "'Upper-a0'"),
        (task(run_name="r1", action_name="a/0"), "'r1-a/0'"),
        (task(run_name="r" * 31), "spec.runName: 31 characters, at most 30"),
        (task(run_name="r1", action_name="a" * 31, group="g" * 257), "spec.actionName.*spec.group"),
        (task(cache_key="c" * 257), "spec.cacheKey"),
        (task(template=b"\xff\xff"), "not a serialised core.TaskTemplate"),
        (task(template=bytes(MAX_TEMPLATE_BYTES + 1)), "the limit is 1048576"),
        (task(template=task_template("").SerializeToString()), r"required spec fields are empty: \[taskType\]"),
        (task(labels={"flyte.org/termination-status": "terminated"}), "labels: flyte.org/termination-status"),
        (task(labels={"flyte.org/completed-time": "2026"}), "labels: flyte.org/completed-time"),
        (Submission(condition=b""), r"required spec fields are empty: \[conditionSpec\]"),
        (Submission(condition=b"\xff"), "not a workflow.ConditionAction"),
    ],
)
def test_what_could_never_run_is_refused(given_: Submission, problem: str) -> None:
    with pytest.raises((ConfigError, TaskError), match=problem):
        made(given_)


def test_template_that_is_none_has_the_code_that_is_final() -> None:
    with pytest.raises(BadTaskSpecificationError):
        made(task(template=b"\xff\xff"))


def test_run_names_differ() -> None:
    assert len({submission.new_run_name() for _ in range(100)}) == 100


@pytest.mark.parametrize("given_", [task(run_name="r1"), Submission(condition=CONDITION, run_name="r1")])
def test_object_is_read_as_it_was_made(given_: Submission) -> None:
    action = made(given_)
    body = msgspec.json.decode(submission.to_json(action))
    assert (body["apiVersion"], body["kind"], "status" in body) == ("flyte.org/v1", "TaskAction", False)
    read = decode(seen(submission.to_json(action)))
    assert read.spec == action.spec
    assert dict(read.metadata.labels) == action.metadata.labels


@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            name: st.text(max_size=40)
            for name in ("run_name", "action_name", "project", "domain", "input_uri", "run_output_base", "cache_key")
        },
    )
)
def test_any_submission_becomes_an_object_or_an_error_of_ours(fields: dict[str, str]) -> None:
    try:
        action = made(task(**fields))
    except PropfanError:
        return
    assert decode(seen(submission.to_json(action))).spec == action.spec


# -- From the object -------------------------------------------------------------------------------


def status_of(body: dict[str, Any] | bytes) -> TaskStatus:
    return submission.status_of(seen(body if isinstance(body, bytes) else msgspec.json.encode(body)))


def with_status(given_: Submission, **members: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(submission.to_json(made(given_)))
    return {**body, "metadata": {"name": "r1-a0", "namespace": "ns", "creationTimestamp": NOW}, "status": members}


def condition(kind: str, reason: str, status_: str = "True", message: str = "m") -> dict[str, Any]:
    return {"type": kind, "status": status_, "reason": reason, "message": message, "lastTransitionTime": NOW}


def test_fresh_task_goes_on() -> None:
    found = status_of(with_status(task(run_name="r1")))
    assert (found.key, found.run_name, found.task_name) == (TaskKey("ns", "r1-a0"), "r1", "module.function")
    assert (found.outcome, found.phase, found.attempts, found.ended_at) == (None, Phase.UNDEFINED, 1, None)
    assert found.output_prefix.startswith("s3://bucket/")
    assert found.output_prefix.endswith("/r1/a0/1")


@pytest.mark.parametrize(
    ("kind", "reason", "outcome"),
    [
        ("Succeeded", "Completed", Outcome.COMPLETED),
        ("Succeeded", "Signaled", Outcome.SIGNALED),
        ("Failed", "Aborted", Outcome.ABORTED),
        ("Failed", "TimedOut", Outcome.TIMED_OUT),
        ("Failed", "ReasonOfAnotherExecutor", Outcome.FAILED),
    ],
)
def test_verdict_is_in_the_conditions(kind: str, reason: str, outcome: Outcome) -> None:
    found = status_of(
        with_status(
            task(run_name="r1"),
            attempts=3,
            conditions=[condition("Progressing", reason, "False", "why"), condition(kind, reason)],
            errorState={"code": "C", "message": "m", "kind": "USER"},
        )
    )
    assert (found.outcome, found.reason, found.attempts, found.ended_at) == (outcome, "why", 3, NOW)
    assert found.error == ExecutionError("C", "m", ErrorKind.USER)
    assert found.output_prefix.endswith("/a0/3")


def test_condition_that_is_not_true_is_no_verdict() -> None:
    assert status_of(with_status(task(), conditions=[condition("Failed", "Aborted", "False")])).outcome is None


@pytest.mark.parametrize("kind", ["", "UNKNOWN", "SOMETHING ELSE"])
def test_errors_of_an_unknown_kind_are_shown(kind: str) -> None:
    found = status_of(with_status(task(), errorState={"code": "C", "kind": kind, "message": "m"}))
    assert found.error == ExecutionError("C", "m", ErrorKind.UNKNOWN)


def test_condition_action_has_no_outputs() -> None:
    assert status_of(with_status(Submission(condition=CONDITION))).output_prefix == ""


def test_object_without_a_creation_time_has_a_time_all_the_same() -> None:
    bare = ObservedObject(TASK_ACTION, ObjectMeta(name="a", namespace="ns"), b'{"metadata":{}}')
    assert submission.status_of(bare).created_at == ZERO_TIME < NOW


@pytest.mark.parametrize(
    "spec", [{"runName": 1}, {"taskTemplate": "no base64"}, {"envVars": []}, 1, None], ids=lambda spec: repr(spec)[:20]
)
def test_unreadable_spec_hides_neither_task_nor_verdict(spec: Any) -> None:
    body = {**with_status(task(run_name="r1")), "spec": spec}
    going_on = status_of(body)
    assert (going_on.key, going_on.outcome) == (TaskKey("ns", "r1-a0"), None)
    assert "TaskAction ns/r1-a0" in going_on.reason
    body["status"] = {"conditions": [condition("Failed", "InvalidSpec")], "errorState": {"code": "InvalidSpec"}}
    refused = status_of(body)
    assert refused.outcome is Outcome.INVALID
    assert refused.error == ExecutionError("InvalidSpec", "", ErrorKind.UNKNOWN)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'{"metadata":{},"status":{"attempts":"many"}}', b'{"status":{"cacheStatus":"\xff"}}',
     b'{"status":{"x":' + b"[" * 20_000],
    ids=["empty", "cut off", "list", "text for a number", "no unicode", "deep"],
)  # fmt: skip
def test_unreadable_object_is_still_listed(raw: bytes) -> None:
    if raw.startswith(b'{"status'):
        assert submission._readable_status(seen(raw)).attempts == 0
    else:
        assert status_of(raw).phase is Phase.UNDEFINED


def test_what_the_engine_writes_is_read() -> None:
    state = TaskState("ns/r1-a0", Limits(), NOW, attempt=2, phase=Phase.RUNNING, cache_status="CACHE_MISS")
    patch = status.to_patch(state, "r1/a0", NOW)
    found = status_of(with_status(task(), **msgspec.to_builtins(patch["status"])))
    assert (found.phase, found.attempts, found.cache_status) == (Phase.RUNNING, 2, "CACHE_MISS")


@pytest.mark.anyio
async def test_all_pages_are_listed_with_what_can_not_be_read() -> None:
    with anyio.fail_after(10):
        async with EmbeddedCluster.open() as cluster:
            for number in range(501):
                action = made(task(run_name=f"r{number}"))
                await cluster.create(TASK_ACTION, submission.to_json(action))
            broken = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "metadata": {"name": "x", "namespace": "ns"}}
            await cluster.create(TASK_ACTION, msgspec.json.encode({**broken, "spec": {"runName": 1}}))
            found = await submission.all_of(cluster)
    assert len({entry.key for entry in found}) == 502
