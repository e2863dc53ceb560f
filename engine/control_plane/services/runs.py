"""``flyteidl2.workflow.RunService``: runs and their actions, for clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio
from flyteidl2.common import identifier_pb2, list_pb2
from flyteidl2.core import literals_pb2
from flyteidl2.workflow import run_definition_pb2, run_service_pb2
from flyteidl2.workflow.run_service_connect import RunService

from propfan.engine import submission
from propfan.engine.control_plane import inputs, launching
from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.records import ROOT, ActionKey, ActionRecord, RunRecord
from propfan.engine.control_plane.services.context import Context
from propfan.engine.control_plane.services.identity import user_name
from propfan.engine.control_plane.services.requests import task_of
from propfan.engine.control_plane.store.queries import Query
from propfan.pluginmachinery import iopaths

if TYPE_CHECKING:
    from propfan.engine.control_plane.plane import ControlPlane

_WATCHED_RUNS: Final = 100
"""Of the newest runs, that a watch of many tells of."""

_LOOK_S: Final = 1.0
"""Between looks at them."""


class Runs(RunService):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane: Final = plane

    # -- Runs --------------------------------------------------------------------------------------

    async def create_run(
        self, request: run_service_pb2.CreateRunRequest, ctx: Context
    ) -> run_service_pb2.CreateRunResponse:
        task = await task_of(self._plane.catalog, request)
        template = task.task_template
        if request.WhichOneof("id") == "run_id":
            named = request.run_id
            org, project, domain = named.org, named.project, named.domain
            name = launching.check_run_name(named.name) if named.name else submission.new_run_name()
        else:
            where = request.project_id
            org, project, domain, name = where.organization, where.name, where.domain, submission.new_run_name()
        run = RunRecord(
            id=self._plane.run_identifier(org, project or template.id.project, domain or template.id.domain, name),
            task_name=template.id.name,
            task_version=template.id.version,
            spec=request.run_spec,
            source=request.source,
            created_by=user_name(),
            driver=self._plane.name,
            created_at=_start_time(request),
        )
        base = request.run_spec.run_base_dir or self._plane.run_base(run.id)
        uri = request.offloaded_input_data.uri
        if request.WhichOneof("input_wrapper") == "inputs" or not uri:
            whole = inputs.with_defaults(task, request.inputs)
            uri = await inputs.store(self._plane.store, iopaths.join(base, ROOT), whole)
        spec = run_definition_pb2.ActionSpec(
            action_id=identifier_pb2.ActionIdentifier(run=run.id, name=ROOT), input_uri=uri, run_output_base=base
        )
        spec.task.id.CopyFrom(launching.task_identifier(template))
        root = await self._plane.start_run(run, spec, task)
        return run_service_pb2.CreateRunResponse(run=_run(run, root))

    async def abort_run(
        self, request: run_service_pb2.AbortRunRequest, ctx: Context
    ) -> run_service_pb2.AbortRunResponse:
        await self._plane.abort_run(request.run_id.name, request.reason or f"aborted by {user_name()}")
        return run_service_pb2.AbortRunResponse()

    async def get_run_details(
        self, request: run_service_pb2.GetRunDetailsRequest, ctx: Context
    ) -> run_service_pb2.GetRunDetailsResponse:
        view = await self._plane.ledger.view(request.run_id.name)
        return run_service_pb2.GetRunDetailsResponse(details=await self._run_details(view.run, view.actions[ROOT]))

    async def watch_run_details(
        self, request: run_service_pb2.WatchRunDetailsRequest, ctx: Context
    ) -> AsyncIterator[run_service_pb2.WatchRunDetailsResponse]:
        view = await self._plane.ledger.view(request.run_id.name)
        async for root in self._follow(ActionKey(request.run_id.name, ROOT)):
            yield run_service_pb2.WatchRunDetailsResponse(details=await self._run_details(view.run, root))

    async def _run_details(self, run: RunRecord, root: ActionRecord) -> run_definition_pb2.RunDetails:
        return run_definition_pb2.RunDetails(run_spec=run.spec, action=await self._plane.details(root))

    async def list_runs(
        self, request: run_service_pb2.ListRunsRequest, ctx: Context
    ) -> run_service_pb2.ListRunsResponse:
        page = await self._plane.ledger.store.list_runs(Query(request.request), **_scope(request))
        return run_service_pb2.ListRunsResponse(runs=await self._with_roots(page.items), token=page.token)

    async def watch_runs(
        self, request: run_service_pb2.WatchRunsRequest, ctx: Context
    ) -> AsyncIterator[run_service_pb2.WatchRunsResponse]:
        match request.WhichOneof("target"):
            case "project_id":
                scope = {"project": request.project_id.name, "domain": request.project_id.domain}
            case "task_id":
                scope = {"project": request.task_id.project, "domain": request.task_id.domain}
                scope["task_name"] = request.task_id.name
            case _:
                scope = {}
        told: dict[str, bytes] = {}
        while not self._plane.ledger.is_closed:
            query = Query(list_pb2.ListRequest(limit=_WATCHED_RUNS))
            runs = await self._with_roots((await self._plane.ledger.store.list_runs(query, **scope)).items)
            seen = {run.action.id.run.name: run.SerializeToString(deterministic=True) for run in runs}
            news = [run for run in runs if told.get(run.action.id.run.name) != seen[run.action.id.run.name]]
            if news or not told:
                yield run_service_pb2.WatchRunsResponse(runs=news)
            told = seen
            await anyio.sleep(_LOOK_S)

    async def _with_roots(self, runs: Sequence[RunRecord]) -> list[run_definition_pb2.Run]:
        roots = await self._plane.ledger.store.roots([run.id.name for run in runs])
        return [_run(run, roots[run.id.name]) for run in runs]

    # -- Actions -----------------------------------------------------------------------------------

    async def get_action_details(
        self, request: run_service_pb2.GetActionDetailsRequest, ctx: Context
    ) -> run_service_pb2.GetActionDetailsResponse:
        record = await self._plane.ledger.action(_key(request.action_id))
        return run_service_pb2.GetActionDetailsResponse(details=await self._plane.details(record))

    async def watch_action_details(
        self, request: run_service_pb2.WatchActionDetailsRequest, ctx: Context
    ) -> AsyncIterator[run_service_pb2.WatchActionDetailsResponse]:
        async for record in self._follow(_key(request.action_id)):
            yield run_service_pb2.WatchActionDetailsResponse(details=await self._plane.details(record))

    async def _follow(self, key: ActionKey) -> AsyncIterator[ActionRecord]:
        """The action and each change of it, until it is over."""
        view = await self._plane.ledger.view(key.run)
        await self._plane.ledger.action(key)
        async with aclosing(view.follow(lambda record: record.key == key)) as changes:  # type: ignore[type-var]
            async for records in changes:
                for record in records:
                    yield record
                    if record.is_over:
                        return

    async def list_actions(
        self, request: run_service_pb2.ListActionsRequest, ctx: Context
    ) -> run_service_pb2.ListActionsResponse:
        await self._plane.ledger.view(request.run_id.name)
        page = await self._plane.ledger.store.list_actions(Query(request.request), request.run_id.name)
        return run_service_pb2.ListActionsResponse(
            actions=[record.as_action() for record in page.items], token=page.token
        )

    async def watch_actions(
        self, request: run_service_pb2.WatchActionsRequest, ctx: Context
    ) -> AsyncIterator[run_service_pb2.WatchActionsResponse]:
        view = await self._plane.ledger.view(request.run_id.name)
        async with aclosing(view.follow()) as changes:  # type: ignore[type-var]
            async for records in changes:
                yield run_service_pb2.WatchActionsResponse(
                    enriched_actions=[
                        run_definition_pb2.EnrichedAction(action=record.as_action(), meets_filter=True)
                        for record in records
                    ]
                )
                if all(record.is_over for record in view.actions.values()):
                    return

    async def watch_cluster_events(
        self, request: run_service_pb2.WatchClusterEventsRequest, ctx: Context
    ) -> AsyncIterator[run_service_pb2.WatchClusterEventsResponse]:
        told = 0
        async for record in self._follow(_key(request.id)):
            attempts = [a for a in record.details.attempts if a.attempt == (request.attempt or 1)]
            events = [event for attempt in attempts for event in attempt.cluster_events]
            if len(events) > told:
                yield run_service_pb2.WatchClusterEventsResponse(cluster_events=events[told:])
                told = len(events)

    async def abort_action(
        self, request: run_service_pb2.AbortActionRequest, ctx: Context
    ) -> run_service_pb2.AbortActionResponse:
        await self._plane.abort(_key(request.action_id), request.reason or f"aborted by {user_name()}")
        return run_service_pb2.AbortActionResponse()

    async def signal_event(
        self, request: run_service_pb2.SignalEventRequest, ctx: Context
    ) -> run_service_pb2.SignalEventResponse:
        await self._plane.signal(_key(request.action_id), _literal(request.payload), by=user_name())
        return run_service_pb2.SignalEventResponse()

    # -- Data --------------------------------------------------------------------------------------

    async def get_action_data(
        self, request: run_service_pb2.GetActionDataRequest, ctx: Context
    ) -> run_service_pb2.GetActionDataResponse:
        data = await self._plane.data(_key(request.action_id))
        return run_service_pb2.GetActionDataResponse(inputs=data.inputs, outputs=data.outputs)

    async def get_action_data_u_r_is(
        self, request: run_service_pb2.GetActionDataURIsRequest, ctx: Context
    ) -> run_service_pb2.GetActionDataURIsResponse:
        record = await self._plane.ledger.action(_key(request.action_id))
        return run_service_pb2.GetActionDataURIsResponse(
            inputs_uri=record.spec.input_uri, outputs_uri=self._plane.outputs_uri(record)
        )

    async def get_action_log_context(
        self, request: run_service_pb2.GetActionLogContextRequest, ctx: Context
    ) -> run_service_pb2.GetActionLogContextResponse:
        record = await self._plane.ledger.action(_key(request.action_id))
        answer = run_service_pb2.GetActionLogContextResponse()
        for attempt in record.details.attempts:
            if attempt.attempt == (request.attempt or 1):
                answer.log_context.CopyFrom(attempt.log_context)
                answer.cluster = attempt.cluster
                answer.start_time.CopyFrom(attempt.start_time)
                answer.end_time.CopyFrom(attempt.end_time)
        return answer


def _key(action: identifier_pb2.ActionIdentifier) -> ActionKey:
    return ActionKey(action.run.name, action.name or ROOT)


def _run(run: RunRecord, root: ActionRecord) -> run_definition_pb2.Run:
    return run_definition_pb2.Run(action=root.as_action(), labels=dict(run.spec.labels.values))


def _scope(request: run_service_pb2.ListRunsRequest) -> dict[str, str]:
    """Columns that must be equal."""
    match request.WhichOneof("scope_by"):
        case "project_id":
            return {"project": request.project_id.name, "domain": request.project_id.domain}
        case "task_name":
            named = request.task_name
            return {"project": named.project, "domain": named.domain, "task_name": named.name}
        case "task_id":
            task = request.task_id
            scope = {"project": task.project, "domain": task.domain, "task_name": task.name}
            return {**scope, "task_version": task.version} if task.version else scope
        case "trigger_name":
            raise InvalidRequestError("trigger_name", "triggers are not offered")
        case _:
            return {}


def _start_time(request: run_service_pb2.CreateRunRequest) -> datetime:
    for given in (request, request.run_spec):
        if given.HasField("run_start_time"):
            return given.run_start_time.ToDatetime(UTC)
    return datetime.now(UTC)


def _literal(payload: run_service_pb2.EventPayload) -> literals_pb2.Literal:
    primitive = literals_pb2.Primitive()
    match payload.WhichOneof("value"):
        case "bool_value":
            primitive.boolean = payload.bool_value
        case "int_value":
            primitive.integer = payload.int_value
        case "float_value":
            primitive.float_value = payload.float_value
        case "string_value":
            primitive.string_value = payload.string_value
        case _:
            raise InvalidRequestError("payload.value", "is required")
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=primitive))
