"""Runs as they stand: in the database, and in memory for all who look at the same run.

Every change goes to the database first and is then told to watchers, who share one copy of the records.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

import anyio
import msgspec
import structlog
from flyteidl2.task import task_definition_pb2
from flyteidl2.workflow import run_definition_pb2

from propfan.engine.control_plane import progress
from propfan.engine.control_plane.batching import Batches
from propfan.engine.control_plane.records import ActionKey, ActionRecord, RunRecord
from propfan.engine.control_plane.store.run_store import RunStore
from propfan.pluginmachinery.errors import NotFoundError, StorageError

logger = structlog.get_logger(__name__)

_VIEWS_KEPT: Final = 512
"""Runs in memory that nobody watches; those that are watched stay."""

_SPECS_KEPT: Final = 1024

_REFRESH_S: Final = 1.0
"""Between looks at what other processes wrote, for runs that are watched."""

_TRIES: Final = 5


class ToldEvent(msgspec.Struct, frozen=True):
    """What the engine tells of an action. ``is_final``: no other attempt follows."""

    key: ActionKey
    event: run_definition_pb2.ActionEvent
    is_final: bool


class RunView:
    """One run in memory.

    Attributes:
        actions: By name, oldest first. The mapping may grow; its records never change, they are replaced.
    """

    __slots__ = (
        "_at_work",
        "_changed",
        "_changes",
        "_children",
        "_count",
        "actions",
        "is_closed",
        "lock",
        "run",
        "watchers",
    )

    def __init__(self, run: RunRecord, actions: Sequence[ActionRecord]) -> None:
        self.run: Final = run
        self.actions: Final[dict[str, ActionRecord]] = {}
        self._children: Final[dict[str, list[str]]] = {}
        self._at_work: Final[Counter[str]] = Counter()
        """By parent: how many of its children go on."""
        self._changes: Final[dict[str, int]] = {}
        """By name, what changed last at the end: the number of the change."""
        self._count = 0
        self.lock: Final = anyio.Lock()
        self.watchers = 0
        self.is_closed = False
        self._changed = anyio.Event()
        self.learn(actions)

    def learn(self, records: Sequence[ActionRecord]) -> None:
        """Takes in what is newer, and wakes the watchers."""
        news = False
        for record in records:
            known = self.actions.get(record.key.name)
            if known is not None and known.revision >= record.revision:
                continue
            name = record.key.name
            self.actions[name] = record
            self._count += 1
            self._changes.pop(name, None)
            self._changes[name] = self._count
            if known is None:
                self._children.setdefault(record.parent, []).append(record.key.name)
            self._at_work[record.parent] += (not record.is_over) - (known is not None and not known.is_over)
            news = True
        if news:
            self._wake()

    def has_children_at_work(self, name: str) -> bool:
        return self._at_work[name] > 0

    def below(self, name: str) -> Sequence[ActionRecord]:
        """Everything that an action has started, directly or not."""
        found: list[ActionRecord] = []
        waiting = [name]
        while waiting:
            names = self._children.get(waiting.pop(), ())
            found += [self.actions[child] for child in names]
            waiting += names
        return found

    def close(self) -> None:
        """Ends what follows it: the control plane stops."""
        self.is_closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def follow(
        self, wanted: Callable[[ActionRecord], bool] | None = None
    ) -> AsyncIterator[Sequence[ActionRecord]]:
        """The wanted actions as they are (all by default, perhaps none), then those that changed; until it is closed."""
        if self.is_closed:
            return
        self.watchers += 1
        try:
            seen = self._count
            yield [record for record in self.actions.values() if wanted is None or wanted(record)]
            while not self.is_closed:
                changed = self._changed
                news = [record for record in self._since(seen) if wanted is None or wanted(record)]
                seen = self._count
                if news:
                    yield news
                else:
                    await changed.wait()
        finally:
            self.watchers -= 1

    def _since(self, count: int) -> Sequence[ActionRecord]:
        """What has changed after so many changes, what changed last at the end."""
        names = itertools.takewhile(lambda name: self._changes[name] > count, reversed(self._changes))
        return [self.actions[name] for name in names][::-1]


class Ledger:
    """All runs."""

    def __init__(self, store: RunStore, *, is_shared: bool) -> None:
        self.store: Final = store
        self._is_shared: Final = is_shared
        self._views: Final[OrderedDict[str, RunView]] = OrderedDict()
        self._specs: Final[OrderedDict[str, task_definition_pb2.TaskSpec]] = OrderedDict()
        self._loading: Final = anyio.Lock()
        self._additions: Final = Batches(self._add)
        self.is_closed = False

    async def run(self) -> None:
        """Looks for what other processes on the same database write, until cancelled."""
        while self._is_shared:
            await anyio.sleep(_REFRESH_S)
            for name, view in list(self._views.items()):
                if view.watchers:
                    try:
                        view.learn(await self.store.actions_of(name))
                    except StorageError as error:
                        logger.warning("run can not be read", run=name, error=str(error))

    def close(self) -> None:
        """Ends all watches."""
        self.is_closed = True
        for view in self._views.values():
            view.close()

    # -- Reading -----------------------------------------------------------------------------------

    async def view(self, run: str) -> RunView:
        """The run, up to date.

        Raises:
            NotFoundError: there is none.
        """
        view = self._views.get(run)
        if view is None:
            async with self._loading:
                view = self._views.get(run)
                if view is None:
                    view = RunView(await self.store.run(run), await self.store.actions_of(run))
                    self._keep(view)
        elif self._is_shared and not view.watchers:
            view.learn(await self.store.actions_of(run))
        self._views.move_to_end(run)
        return view

    async def action(self, key: ActionKey) -> ActionRecord:
        """Raises ``NotFoundError``."""
        record = (await self.view(key.run)).actions.get(key.name)
        if record is None:
            raise NotFoundError(f"action {key}", "there is no such action in the run")
        return record

    async def task_spec(self, record: ActionRecord) -> task_definition_pb2.TaskSpec | None:
        """Of a task; ``None`` for what is none."""
        digest = record.task_spec
        if not digest:
            return None
        spec = self._specs.get(digest)
        if spec is None:
            spec = await self.store.task_spec(digest)
            self._remember(digest, spec)
        self._specs.move_to_end(digest)
        return spec

    # -- Writing -----------------------------------------------------------------------------------

    async def add_run(self, run: RunRecord, root: ActionRecord, spec: task_definition_pb2.TaskSpec) -> None:
        """Raises ``AlreadyExistsError``."""
        await self.store.add_run(run, root, spec)
        self._remember(root.task_spec, spec)
        self._keep(RunView(run, [root]))

    async def add_action(self, record: ActionRecord, spec: task_definition_pb2.TaskSpec | None) -> bool:
        """Whether it is new; one that is there stays as it is."""
        view = await self.view(record.key.run)
        if record.key.name in view.actions:
            return False
        if not await self._additions.put((record, spec)):
            view.learn(await self.store.actions_of(record.key.run))
            return False
        if spec is not None:
            self._remember(record.task_spec, spec)
        view.learn([record])
        return True

    async def _add(
        self, additions: Sequence[tuple[ActionRecord, task_definition_pb2.TaskSpec | None]]
    ) -> Sequence[bool]:
        specs = {
            record.task_spec: spec
            for record, spec in additions
            if spec is not None and record.task_spec not in self._specs
        }
        added = set(await self.store.add_actions([record for record, _ in additions], specs))
        return [record.key in added for record, _ in additions]

    async def record(self, told: Sequence[ToldEvent]) -> Sequence[ActionRecord]:
        """Takes in events, all or none; repeats are no news. The actions that ended by them.

        Raises:
            StorageError: nothing was taken in.
        """
        ended: list[ActionRecord] = []
        by_run: dict[str, list[ToldEvent]] = {}
        for one in told:
            by_run.setdefault(one.key.run, []).append(one)
        for run, events in by_run.items():
            try:
                ended += await self._record(run, events)
            except NotFoundError:
                logger.warning("events of an unknown run are dropped", run=run, events=len(events))
        return ended

    async def _record(self, run: str, events: Sequence[ToldEvent]) -> Sequence[ActionRecord]:
        def apply(records: Mapping[str, ActionRecord]) -> Sequence[ActionRecord]:
            changed: dict[str, ActionRecord] = {}
            for one in events:
                known = changed.get(one.key.name) or records.get(one.key.name)
                if known is None:
                    logger.warning("event of an unknown action is dropped", action=str(one.key))
                    continue
                record = known if one.key.name in changed else known.copy()
                record.is_submitted = True
                if progress.advance(record.details, record.update, one.event, is_final=one.is_final):
                    changed[one.key.name] = record
            return list(changed.values())

        return [record for record in await self.change(run, apply) if record.is_over]

    async def change(
        self, run: str, how: Callable[[Mapping[str, ActionRecord]], Sequence[ActionRecord]]
    ) -> Sequence[ActionRecord]:
        """Applies ``how`` to the run's present records, writes the copies that it returns, and tells of them.

        Raises:
            NotFoundError: there is no such run.
            StorageError: nothing was changed.
        """
        view = await self.view(run)
        async with view.lock:
            for _ in range(_TRIES):
                changed = how(view.actions)
                if not changed or await self.store.save(changed):
                    view.learn(changed)
                    return changed
                view.learn(await self.store.actions_of(run))  # another process was first
        raise StorageError(f"run {run}", f"other processes changed it {_TRIES} times at once; try again")

    def _keep(self, view: RunView) -> None:
        self._views[view.run.id.name] = view
        while len(self._views) > _VIEWS_KEPT:
            idle = next((name for name, kept in self._views.items() if not kept.watchers), None)
            if idle is None:
                return
            del self._views[idle]

    def _remember(self, digest: str, spec: task_definition_pb2.TaskSpec) -> None:
        self._specs[digest] = spec
        if len(self._specs) > _SPECS_KEPT:
            self._specs.popitem(last=False)
