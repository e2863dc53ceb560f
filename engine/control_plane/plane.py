"""A control plane: runs and their actions over an engine, and the application that serves them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio
import msgspec
import structlog
from cryptography.fernet import Fernet
from flyteidl2.common import identifier_pb2, list_pb2
from flyteidl2.core import literals_pb2
from flyteidl2.core.security_pb2 import Secret
from flyteidl2.dataproxy import dataproxy_service_pb2
from flyteidl2.task import common_pb2, task_definition_pb2
from flyteidl2.workflow import run_definition_pb2

from propfan.engine.api import Engine
from propfan.engine.config import EngineConfig
from propfan.engine.control_plane import launching, progress
from propfan.engine.control_plane.asgi import Application, Receive, Scope, Send
from propfan.engine.control_plane.config import ControlPlaneConfig
from propfan.engine.control_plane.ledger import Ledger, RunView, ToldEvent
from propfan.engine.control_plane.logs import Logs, PodLogs, ProcessLogs
from propfan.engine.control_plane.records import ActionKey, ActionRecord, RunRecord
from propfan.engine.control_plane.services import applications
from propfan.engine.control_plane.signing import Signer
from propfan.engine.control_plane.store.cached_outputs import CachedOutputs
from propfan.engine.control_plane.store.catalog import Catalog
from propfan.engine.control_plane.store.database import open_database
from propfan.engine.control_plane.store.queries import Query
from propfan.engine.control_plane.store.run_store import RunStore
from propfan.engine.control_plane.store.secret_store import SecretStore
from propfan.engine.flyte.events import to_action_event
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.submission import Submission, to_task_action
from propfan.engine.task_events import TaskEvent
from propfan.pluginmachinery import iopaths
from propfan.pluginmachinery.errors import ConflictError, NotFoundError, ObjectNotFoundError, PropfanError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.podspec.build import parse
from propfan.pluginmachinery.taskaction import TaskAction, TaskActionSpec

logger = structlog.get_logger(__name__)

DATABASE_FILE: Final = "control-plane.db"
KEY_FILE: Final = "control-plane.key"
NAME_FILE: Final = "control-plane.name"

_ENDED_PARENT: Final = "its parent action '{}' is over"


class ControlPlane:
    """Flyte 2's services over an engine of their own.

    ::

        async with ControlPlane(EngineConfig(data_dir=Path("state"))) as plane:
            await uvicorn.Server(uvicorn.Config(plane.app, port=8090)).serve()

    Enter and leave it in the same task, as an ``Engine``.

    Attributes:
        name: Of this process in the database, the same after a restart on the same data directory.
        app: The ASGI application; it may be mounted at the root of another one, which need not know lifespans.
        open_app: The same for those who need no token: tasks on this machine.
    """

    def __init__(self, engine: EngineConfig, config: ControlPlaneConfig | None = None) -> None:
        self.config: Final = config or ControlPlaneConfig()
        self._engine_config: Final = self._for_tasks(engine)
        self.store_root: Final = self._engine_config.store

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._running())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application, for frameworks that mount it before it is entered."""
        await self.app(scope, receive, send)

    def _for_tasks(self, engine: EngineConfig) -> EngineConfig:
        """Tasks learn from their environment where to enqueue others."""
        secure = self.config.endpoint.startswith("https://")
        variables = {
            "_U_EP_OVERRIDE": self.config.endpoint,
            "_U_INSECURE": "false" if secure else "true",
            "_U_USE_ACTIONS": "1",
        }
        k8s = dict(engine.plugins.get("k8s") or {})
        k8s["default-env-vars"] = {**variables, **(k8s.get("default-env-vars") or {})}
        store = engine.store.rstrip("/") or _store(engine.data_dir)
        return msgspec.structs.replace(engine, plugins={**engine.plugins, "k8s": k8s}, store=store)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        config, data_dir = self.config, self._engine_config.data_dir
        if data_dir is not None:
            data_dir.mkdir(parents=True, exist_ok=True)
        key = config.secrets_key.encode() or _kept(data_dir, KEY_FILE, Fernet.generate_key)
        self.name = _kept(data_dir, NAME_FILE, lambda: secrets.token_hex(8).encode()).decode()
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(open_database(config.database or _database(data_dir)))
            self.ledger = Ledger(RunStore(database), is_shared=database.is_shared)
            self.catalog = Catalog(database)
            self.secrets = SecretStore(database, key)
            self.cached = CachedOutputs(database)
            self.signer = Signer(key)
            cluster = None
            if config.on_kubernetes:
                from propfan.engine.kubernetes.cluster import KubernetesCluster  # with its HTTP client, which few need

                connecting = KubernetesCluster.connect(self._engine_config.kubernetes)
                cluster = await stack.enter_async_context(connecting)
            engine = Engine(self._engine_config, cluster=cluster, sink=self, task_secrets=self)
            self.engine = await stack.enter_async_context(engine)
            self.store = self.engine.store
            self.logs = Logs(self.ledger, PodLogs(cluster) if cluster is not None else ProcessLogs(data_dir))
            routes = applications(self)
            self.app = Application(routes, config.token)
            self.open_app = Application(routes)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(self.ledger.run)
            await self._go_on()
            yield

    async def _go_on(self) -> None:
        """Hands over what was accepted and not handed over before the last end."""
        for record in await self.ledger.store.unsubmitted(self.name):
            try:
                view, task = await self.ledger.view(record.key.run), await self.ledger.task_spec(record)
                await self.engine.submit(self._submission(view.run, record, task))
            except PropfanError as error:
                await self._give_up(record.key, str(error))
        for run, parent in await self.ledger.store.parents_at_work(self.name):
            self._balance(await self.ledger.view(run), parent)

    # -- Runs and actions --------------------------------------------------------------------------

    async def start_run(
        self,
        run: RunRecord,
        spec: run_definition_pb2.ActionSpec,
        task: task_definition_pb2.TaskSpec,
    ) -> ActionRecord:
        """Begins a run by its root action; it is durable when this returns.

        Raises:
            AlreadyExistsError: there is a run by that name.
            TaskError, ConfigError, InvalidRequestError: it could never run; nothing was stored.
        """
        root = launching.new_action(run.id, spec, task, source=run.source, now=run.created_at)
        submission = self._submission(run, root, task)
        self._check(submission)
        await self.ledger.add_run(run, root, task)
        await self.engine.submit(submission)
        return root

    async def enqueue(self, spec: run_definition_pb2.ActionSpec, task: task_definition_pb2.TaskSpec | None) -> bool:
        """Adds an action to a run that goes on; ``False`` when it was there.

        Raises:
            NotFoundError: there is no such run or parent.
            TaskError, ConfigError, InvalidRequestError: it could never run; nothing was stored.
        """
        view = await self.ledger.view(spec.action_id.run.name)
        if spec.parent_action_name not in view.actions:
            raise NotFoundError(
                f"action {view.run.id.name}/{spec.parent_action_name}", "there is no such parent action"
            )
        record = launching.new_action(view.run.id, spec, task, source=view.run.source, now=datetime.now(UTC))
        if record.key.name in view.actions:
            return False
        submission = None
        if record.kind != "trace":
            submission = self._submission(view.run, record, task)
            self._check(submission)
        if not await self.ledger.add_action(record, task):
            return False
        parent = view.actions[spec.parent_action_name]
        if parent.is_over:
            await self.abort(record.key, _ENDED_PARENT.format(parent.key.name))
        elif submission is not None:
            await self.engine.submit(submission)
            self._balance(view, parent.key.name)
        return True

    async def abort_run(self, run: str, reason: str) -> None:
        """Raises ``NotFoundError``."""
        view = await self.ledger.view(run)
        await self._abort_all(view, list(view.actions.values()), reason)

    async def abort(self, key: ActionKey, reason: str) -> None:
        """Aborts an action and all that it has started; one that is over stays as it is.

        Raises:
            NotFoundError: there is no such action.
        """
        record = await self.ledger.action(key)
        view = await self.ledger.view(key.run)
        await self._abort_all(view, [record, *view.below(key.name)], reason)

    async def _abort_all(self, view: RunView, records: Sequence[ActionRecord], reason: str) -> None:
        """Those of a run's actions that are not over."""
        going_on = [record for record in records if not record.is_over]
        driver = view.run.driver
        if going_on and driver != self.name:
            raise ConflictError(f"run {view.run.id.name}", f"process {driver} has its tasks: ask there")
        for record in going_on:
            try:
                await self.engine.abort(self._task_key(record.key), reason)
            except NotFoundError:
                await self._give_up(record.key, reason)

    async def signal(self, key: ActionKey, value: literals_pb2.Literal, *, by: str) -> None:
        """Gives a condition its value.

        Raises:
            NotFoundError: there is no such action.
            PermanentError: it is no condition, or has its value.
        """
        record = await self.ledger.action(key)
        await self.engine.signal(self._task_key(key), value.SerializeToString(), by=by)

        def told(records: object) -> Sequence[ActionRecord]:
            known = view.actions[key.name].copy()
            progress.signalled(known.details, known.update, value, by)
            return [known]

        view = await self.ledger.view(record.key.run)
        await self.ledger.change(key.run, told)

    async def record(self, events: Sequence[TaskEvent]) -> None:
        """The engine's events: told to all who watch, and children of what is over are stopped."""
        await self.take_in([self._told(event) for event in events])

    async def take_in(self, told: Sequence[ToldEvent]) -> None:
        """Events of this engine, or of another one that works for this control plane."""
        for record in await self.ledger.record(told):
            view = await self.ledger.view(record.key.run)
            self._balance(view, record.parent)
            await self._abort_all(view, view.below(record.key.name), _ENDED_PARENT.format(record.key.name))

    def _told(self, event: TaskEvent) -> ToldEvent:
        cluster, organization = self._engine_config.cluster_name, self.config.organization
        wire = to_action_event(event, cluster, organization, datetime.now(UTC))
        return ToldEvent(ActionKey(event.run, event.action), wire, event.is_final)

    async def value(self, secret: Secret, labels: Mapping[str, str]) -> str | bytes | None:
        """A secret for a task of the project and domain in its labels."""
        return await self.secrets.value(secret.key, labels.get("project", ""), labels.get("domain", ""))

    # -- Reading -----------------------------------------------------------------------------------

    async def runs(self) -> Sequence[str]:
        """Names of the newest runs, the newest first."""
        return [run.id.name for run in (await self.ledger.store.list_runs(Query(list_pb2.ListRequest()))).items]

    async def details(self, record: ActionRecord) -> run_definition_pb2.ActionDetails:
        """What clients are told of an action; one message for all who ask at the same revision."""
        if record.shown is None:
            made = run_definition_pb2.ActionDetails()
            made.CopyFrom(record.details)
            task = await self.ledger.task_spec(record)
            if task is not None:
                made.task.CopyFrom(task)
            record.shown = made
        return record.shown

    async def data(self, key: ActionKey) -> dataproxy_service_pb2.GetActionDataResponse:
        """An action's inputs, and its outputs once it has succeeded.

        Raises:
            NotFoundError: there is no such action.
            StorageError: they can not be read now.
        """
        record = await self.ledger.action(key)
        limit = self._engine_config.max_payload_bytes
        answer = dataproxy_service_pb2.GetActionDataResponse(
            inputs_uri=record.spec.input_uri, outputs_uri=self.outputs_uri(record)
        )
        if answer.inputs_uri:
            content = await self.store.get(answer.inputs_uri, limit_bytes=limit)
            answer.inputs.CopyFrom(parse(common_pb2.Inputs, content, answer.inputs_uri))
        if answer.outputs_uri:
            with contextlib.suppress(ObjectNotFoundError):  # a task that declares no outputs need not leave any
                content = await self.store.get(answer.outputs_uri, limit_bytes=limit)
                answer.outputs.CopyFrom(parse(common_pb2.Outputs, content, answer.outputs_uri))
        return answer

    def outputs_uri(self, record: ActionRecord) -> str:
        """Of ``outputs.pb``; empty until the action has succeeded, and for one that has none."""
        attempts = record.details.attempts
        return str(attempts[-1].outputs.output_uri) if attempts else ""

    def attempt_prefix(self, record: ActionRecord, attempt: int) -> str:
        """The folder of what an attempt leaves behind."""
        spec, run = record.spec, record.details.id.run
        action = TaskAction(
            ObjectMeta(name=f"{record.key.run}-{record.key.name}", namespace=self._engine_config.namespace),
            TaskActionSpec(
                run_name=run.name,
                project=run.project,
                domain=run.domain,
                action_name=record.key.name,
                input_uri=spec.input_uri,
                run_output_base=spec.run_output_base,
            ),
        )
        return iopaths.attempt_paths(action, attempt or 1).output_prefix

    def run_base(self, run: identifier_pb2.RunIdentifier) -> str:
        """Where a run's data goes unless its client says otherwise."""
        return iopaths.join(self.store_root, run.org, run.project, run.domain, run.name) + "/"

    def _balance(self, view: RunView, parent: str) -> None:
        """An action that has children at work waits for them; it lends them its place on this machine."""
        key = self._task_key(ActionKey(view.run.id.name, parent))
        self.engine.set_waiting(key, is_waiting=view.has_children_at_work(parent))

    async def _give_up(self, key: ActionKey, reason: str) -> None:
        def cancelled(records: object) -> Sequence[ActionRecord]:
            known = view.actions[key.name]
            if known.is_over:
                return []
            changed = known.copy()
            progress.cancel(changed.details, changed.update, reason, datetime.now(UTC))
            return [changed]

        view = await self.ledger.view(key.run)
        await self.ledger.change(key.run, cancelled)

    def _submission(
        self, run: RunRecord, record: ActionRecord, task: task_definition_pb2.TaskSpec | None
    ) -> Submission:
        return launching.submission_of(run, record, task, namespace=self._engine_config.namespace)

    def _check(self, task: Submission) -> None:
        """Raises what ``Engine.submit`` raises of a task that could never run."""
        to_task_action(task, namespace=self._engine_config.namespace, store=self.store_root)

    def _task_key(self, key: ActionKey) -> TaskKey:
        return TaskKey(self._engine_config.namespace, f"{key.run}-{key.name}")

    def run_identifier(self, org: str, project: str, domain: str, name: str) -> identifier_pb2.RunIdentifier:
        return identifier_pb2.RunIdentifier(
            org=org or self.config.organization, project=project, domain=domain, name=name
        )


def _store(data_dir: Path | None) -> str:
    return f"file://{(data_dir / 'store').absolute()}" if data_dir is not None else "memory://propfan"


def _database(data_dir: Path | None) -> str:
    return f"sqlite:///{(data_dir / DATABASE_FILE).absolute()}" if data_dir is not None else "sqlite://"


def _kept(data_dir: Path | None, name: str, make: Callable[[], bytes]) -> bytes:
    """What is in a file of the data directory; made when there is none yet, readable by its owner only."""
    if data_dir is None:
        return make()
    path = data_dir / name
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(make())
    return path.read_bytes()
