"""Messages as clients and engines send them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flyteidl2.common import identifier_pb2
from flyteidl2.core import literals_pb2, tasks_pb2, types_pb2
from flyteidl2.task import common_pb2, run_pb2, task_definition_pb2
from flyteidl2.workflow import run_definition_pb2

from propfan.engine.control_plane import launching
from propfan.engine.control_plane.ledger import ToldEvent
from propfan.engine.control_plane.records import ROOT, ActionKey, ActionRecord, RunRecord

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PROJECT = identifier_pb2.ProjectIdentifier(organization="local", name="demo", domain="development")


def sleep_task(name: str = "sleeper", version: str = "v1") -> task_definition_pb2.TaskSpec:
    """A task that needs neither process nor pod: it waits for as long as its input says."""
    template = tasks_pb2.TaskTemplate(type="core-sleep")
    template.id.project, template.id.domain = "demo", "development"
    template.id.name, template.id.version = name, version
    variable = template.interface.inputs.variables.add(key="duration")
    variable.value.type.simple = types_pb2.DURATION
    return task_definition_pb2.TaskSpec(task_template=template, short_name=name)


def duration(seconds: float) -> common_pb2.Inputs:
    literal = literals_pb2.Literal()
    literal.scalar.primitive.duration.FromTimedelta(timedelta(seconds=seconds))
    return common_pb2.Inputs(literals=[common_pb2.NamedLiteral(name="duration", value=literal)])


def run_record(name: str = "r1", *, created_at: datetime = START, labels: dict[str, str] | None = None) -> RunRecord:
    return RunRecord(
        id=identifier_pb2.RunIdentifier(org="local", project="demo", domain="development", name=name),
        task_name="sleeper",
        task_version="v1",
        spec=run_pb2.RunSpec(labels=run_pb2.Labels(values=labels or {})),
        source=0,
        created_by="somebody",
        driver="here",
        created_at=created_at,
    )


def action_spec(run: RunRecord, name: str = ROOT, parent: str = "") -> run_definition_pb2.ActionSpec:
    spec = run_definition_pb2.ActionSpec(
        action_id=identifier_pb2.ActionIdentifier(run=run.id, name=name),
        parent_action_name=parent,
        input_uri="memory://store/in/inputs.pb",
        run_output_base="memory://store/out/",
    )
    spec.task.SetInParent()
    return spec


def action_record(run: RunRecord, name: str = ROOT, parent: str = "") -> ActionRecord:
    return launching.new_action(run.id, action_spec(run, name, parent), sleep_task(), source=0, now=run.created_at)


def told(
    phase: int, *, run: str = "r1", action: str = ROOT, attempt: int = 1, after_s: float = 1.0, is_final: bool = True
) -> ToldEvent:
    event = run_definition_pb2.ActionEvent(attempt=attempt, cluster="here")
    event.phase = phase  # type: ignore[assignment]  # an enum of protobuf is an int at run time
    event.updated_time.FromDatetime(START + timedelta(seconds=after_s))
    return ToldEvent(ActionKey(run, action), event, is_final)
