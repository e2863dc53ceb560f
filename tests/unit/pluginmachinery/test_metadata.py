from __future__ import annotations

import msgspec
import pytest
from flyteidl2.core.identifier_pb2 import TASK, Identifier
from flyteidl2.core.literals_pb2 import RetryStrategy
from flyteidl2.core.security_pb2 import Identity, Secret, SecurityContext
from flyteidl2.core.tasks_pb2 import Container, Resources, TaskMetadata, TaskTemplate

from propfan.pluginmachinery import secrets
from propfan.pluginmachinery.contexts import (
    ExecutionId,
    NamespacedName,
    NodeExecutionId,
    OwnerReference,
    ResourceRequirements,
    TaskId,
)
from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.metadata import task_metadata
from propfan.pluginmachinery.taskaction import TaskAction, TaskActionSpec

Entry = Resources.ResourceEntry

ACTION = TaskAction(
    ObjectMeta(
        name="r4x-a1",
        namespace="flyte",
        uid="u1",
        labels={"mine": "1", "run": "not this", "attempt": "9"},
        annotations={"note": "n"},
    ),
    TaskActionSpec(
        run_name="r4x",
        project="p",
        domain="d",
        action_name="a1",
        run_output_base="s3://b/r4x",
        env_vars={"A": "1", "RUN_NAME": "not this"},
    ),
)
TEMPLATE = TaskTemplate(
    id=Identifier(resource_type=TASK, project="tp", domain="td", name="env.fn", version="v1", org="o"),
    metadata=TaskMetadata(retries=RetryStrategy(retries=2)),
    container=Container(
        resources=Resources(
            requests=[
                Entry(name=Resources.CPU, value="1000m"),
                Entry(name=Resources.CPU, value="0"),
                Entry(name=Resources.STORAGE, value="1Gi"),
            ],
            limits=[Entry(name=Resources.MEMORY, value="1024Mi"), Entry(name=Resources.GPU, value="1")],
        )
    ),
)


def test_who_an_attempt_is() -> None:
    metadata = task_metadata(ACTION, TEMPLATE, attempt=2)
    identity = metadata.task_execution_id
    assert (identity.generated_name, identity.unique_node_id) == ("r4x-a1-1", "r4x-a1-1")
    assert identity.id.retry_attempt == 1
    assert identity.id.node_execution_id == NodeExecutionId("a1", ExecutionId("p", "d", "r4x"))
    assert identity.id.task_id == TaskId("tp", "td", "env.fn", "v1", "o", "TASK")
    assert metadata.owner_id == NamespacedName("flyte", "r4x-a1")
    assert metadata.owner_reference == OwnerReference("flyte.org/v1", "TaskAction", "r4x-a1", "u1", controller=True)
    assert metadata.max_attempts == 3


def test_the_engines_labels_win_over_the_actions() -> None:
    assert task_metadata(ACTION, TEMPLATE, attempt=2).labels == {
        "mine": "1",
        "organization": "flyte",
        "project": "p",
        "domain": "d",
        "flyte.org/managed": "true",
        "run": "r4x",
        "action": "a1",
        "task-name": "env.fn",
        "attempt": "2",
    }


def test_the_runtimes_variables_win_over_the_runs() -> None:
    assert task_metadata(ACTION, TEMPLATE, attempt=1).environment_variables == {
        "A": "1",
        "ACTION_NAME": "a1",
        "RUN_NAME": "r4x",
        "_U_RUN_BASE": "s3://b/r4x",
        "_U_ORG_NAME": "local",
    }


def test_resources_are_the_templates_in_kubernetes_terms() -> None:
    overrides = task_metadata(ACTION, TEMPLATE, attempt=1).overrides
    assert overrides is not None
    assert overrides.resources == ResourceRequirements({"cpu": "1"}, {"memory": "1Gi", "gpu": "1"})


@pytest.mark.parametrize(
    "template",
    [
        None,
        TaskTemplate(),
        TaskTemplate(container=Container(resources=Resources(limits=[Entry(name=Resources.STORAGE, value="much")]))),
    ],
    ids=["no template", "no container", "no quantity"],
)
def test_there_may_be_no_resources_to_know_of(template: TaskTemplate | None) -> None:
    overrides = task_metadata(ACTION, template, attempt=1).overrides
    assert overrides is not None
    assert overrides.resources is None


def test_secrets_become_annotations_and_a_label() -> None:
    wanted = [Secret(group="g", key="k"), Secret(key="f", mount_requirement=Secret.FILE)]
    template = TaskTemplate(security_context=SecurityContext(secrets=wanted))
    action = msgspec.structs.replace(
        ACTION,
        metadata=msgspec.structs.replace(ACTION.metadata, annotations={"note": "n", "flyte.secrets/s0": "not this"}),
    )
    metadata = task_metadata(action, template, attempt=1)
    assert metadata.annotations == {"note": "n", **secrets.to_annotations(wanted)}
    assert metadata.labels["inject-flyte-secrets"] == "true"
    assert SecurityContext.FromString(metadata.security_context or b"") == template.security_context


def test_a_secret_that_can_not_be_asked_for_is_an_error() -> None:
    template = TaskTemplate(security_context=SecurityContext(secrets=[Secret(mount_requirement=5)]))  # type: ignore[arg-type]
    with pytest.raises(PermanentError, match="invalid mount requirement"):
        task_metadata(ACTION, template, attempt=1)


def test_the_default_service_account_is_for_tasks_that_name_none() -> None:
    named = TaskTemplate(security_context=SecurityContext(run_as=Identity(k8s_service_account="own")))
    assert task_metadata(ACTION, named, attempt=1, default_service_account="default").k8s_service_account == "own"
    assert task_metadata(ACTION, None, attempt=1, default_service_account="default").k8s_service_account == "default"
    assert task_metadata(ACTION, None, attempt=1).k8s_service_account == ""


@pytest.mark.parametrize(("value", "interruptible"), [(None, False), (False, False), (True, True)])
def test_interruptible_is_what_the_run_says(value: bool | None, interruptible: bool) -> None:  # noqa: FBT001
    action = msgspec.structs.replace(ACTION, spec=msgspec.structs.replace(ACTION.spec, interruptible=value))
    assert task_metadata(action, TaskTemplate(), attempt=1).interruptible is interruptible


def test_an_identifier_of_an_unknown_type_is_unspecified() -> None:
    template = TaskTemplate(id=Identifier(resource_type=99, name="n"))  # type: ignore[arg-type]
    task_id = task_metadata(ACTION, template, attempt=1).task_execution_id.id.task_id
    assert task_id == TaskId(name="n", resource_type="UNSPECIFIED")


def test_without_a_template_the_task_has_no_identifier() -> None:
    metadata = task_metadata(ACTION, None, attempt=1)
    assert metadata.task_execution_id.id.task_id is None
    assert "task-name" not in metadata.labels
    assert (metadata.max_attempts, metadata.security_context) == (1, b"")
