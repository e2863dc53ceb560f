from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.taskaction import MAX_LENGTHS, TaskAction, TaskActionSpec, validate

SPEC = TaskActionSpec(
    run_name="r4x",
    project="p",
    domain="d",
    action_name="a1",
    task_type="python",
    task_template=b"\x12\x06python",
    input_uri="s3://b/in/inputs.pb",
    run_output_base="s3://b/r4x",
)


def fault(**changes: Any) -> str:
    action = TaskAction(ObjectMeta(name="r4x-a1", namespace="flyte"), msgspec.structs.replace(SPEC, **changes))
    with pytest.raises(PermanentError) as raised:
        validate(action)
    assert raised.value.code == "InvalidSpec"
    return raised.value.message


def accept(**changes: Any) -> None:
    validate(TaskAction(ObjectMeta(), msgspec.structs.replace(SPEC, **changes)))


def test_a_complete_spec_is_accepted() -> None:
    accept()
    accept(action_type="task")


def test_missing_fields_are_told_all_at_once_and_in_order() -> None:
    action = TaskAction(ObjectMeta(), TaskActionSpec())
    with pytest.raises(PermanentError) as raised:
        validate(action)
    assert raised.value.message == (
        "required spec fields are empty: "
        "[runName, project, domain, actionName, taskType, taskTemplate, inputUri, runOutputBase]"
    )
    assert fault(task_template=b"", domain="") == "required spec fields are empty: [domain, taskTemplate]"


def test_a_condition_has_neither_template_nor_storage() -> None:
    accept(action_type="condition", task_type="", task_template=None, input_uri="", run_output_base="")
    assert fault(action_type="condition", run_name="") == "required spec fields are empty: [runName]"


def test_an_action_is_a_task_or_a_condition() -> None:
    assert fault(action_type="trace") == "spec.actionType: 'trace' is neither task nor condition"


@pytest.mark.parametrize("field", MAX_LENGTHS)
def test_a_field_has_a_length(field: str) -> None:
    attribute = "".join(f"_{c.lower()}" if c.isupper() else c for c in field)
    limit = MAX_LENGTHS[field]
    accept(**{attribute: "\u00e9" * limit})
    assert fault(**{attribute: "x" * (limit + 1)}) == (
        f"spec fields are too long: [spec.{field}: {limit + 1} characters, at most {limit}]"
    )


@pytest.mark.parametrize("name", [".", "..", "a/b", "/"])
def test_an_action_stays_in_its_folder(name: str) -> None:
    assert fault(action_name=name) == f"spec.actionName: {name!r} can not be the name of a folder"


def test_the_wire_is_camel_case_with_bytes_in_base64() -> None:
    wire = {
        "apiVersion": "flyte.org/v1",
        "kind": "TaskAction",
        "metadata": {"name": "r4x-a1", "namespace": "flyte", "uid": "u", "managedFields": []},
        "spec": {
            "runName": "r4x",
            "taskTemplate": base64.b64encode(b"\x12\x06python").decode(),
            "inputUri": "s3://b/in",
            "envVars": {"A": "1"},
            "interruptible": False,
            "unknown": 1,
        },
        "status": {
            "attempts": 2,
            "systemFailures": 1,
            "pluginState": base64.b64encode(b"\x00").decode(),
            "pluginPhase": "PhaseRunning",
            "conditions": [
                {
                    "type": "Progressing",
                    "status": "True",
                    "reason": "Executing",
                    "message": "",
                    "lastTransitionTime": "2026-01-02T03:04:05Z",
                }
            ],
            "phaseHistory": [{"phase": "Queued", "occurredAt": "2026-01-02T03:04:05Z"}],
            "errorState": {"code": "C", "kind": "USER", "message": "m"},
        },
    }
    action = msgspec.json.decode(msgspec.json.encode(wire), type=TaskAction)
    assert action.spec.task_template == b"\x12\x06python"
    assert (action.spec.interruptible, dict(action.spec.env_vars)) == (False, {"A": "1"})
    assert (action.status.attempts, action.status.system_failures, action.status.plugin_state) == (2, 1, b"\x00")
    assert action.status.conditions[0].reason == "Executing"
    assert action.status.phase_history[0].phase == "Queued"
    assert action.status.error_state is not None
    assert action.status.error_state.kind == "USER"
    encoded = msgspec.to_builtins(action)
    assert encoded["spec"]["taskTemplate"] == wire["spec"]["taskTemplate"]  # type: ignore[index]
    assert "cacheKey" not in encoded["spec"]
