from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    JobContext,
    LogPage,
    LogsQuery,
    Metric,
    MetricsQuery,
    RemotePhase,
    Resource,
    ResourceMeta,
    SyncConnector,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.connector.conformance import check_connector, has_logs, has_metrics
from propfan.pluginmachinery.errors import ConnectorError
from propfan.pluginmachinery.testing import connector_setup


class Meta(ResourceMeta, frozen=True):
    id: str


class Good(AsyncConnector[Meta]):
    name = "Good"
    categories = (TaskCategory("good"),)
    meta_type = Meta

    async def create(self, task: TaskRequest) -> Meta:
        return Meta("x")

    def get(self, meta: Meta, job: JobContext) -> Resource:
        return Resource(RemotePhase.RUNNING)

    async def delete(self, meta: Meta, job: JobContext) -> None:
        return


class Whole(Good):
    async def get_metrics(self, meta: Meta, query: MetricsQuery) -> list[Metric]:
        return []

    async def get_logs(self, meta: Meta, query: LogsQuery) -> AsyncIterator[LogPage]:
        yield LogPage([])


class Sync(SyncConnector):
    name = "Sync"
    categories = (TaskCategory("sync"),)

    def do(self, task: TaskRequest) -> Resource:
        return Resource(RemotePhase.SUCCEEDED)


class AmbiguousMeta(ResourceMeta, frozen=True):
    ids: list[str] | set[str]


def no_create(self: Any) -> None:
    return


def short_get(self: Any, meta: Meta) -> None:
    return


def plain_logs(self: Any, meta: Meta, query: LogsQuery) -> list[LogPage]:
    return []


def variant(**attributes: Any) -> Any:
    return type("Variant", (Good,), attributes)(connector_setup())


@pytest.mark.parametrize("kind", [Good, Whole, Sync])
def test_a_connector_that_is_one_is_accepted(kind: type[Good]) -> None:
    check_connector(kind(connector_setup()))


def test_what_a_connector_has_is_seen() -> None:
    good, whole, sync = (kind(connector_setup()) for kind in (Good, Whole, Sync))
    assert [has_logs(each) for each in (good, whole, sync)] == [False, True, False]
    assert [has_metrics(each) for each in (good, whole, sync)] == [False, True, False]


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"name": ""}, "connector 'Variant': name: is required: a text for people, is ''"),
        ({"name": "a\nb"}, "name: is required"),
        ({"name": 7}, "name: is required: a text for people, is 7"),
        ({"categories": ()}, "categories: is required: at least one TaskCategory"),
        ({"categories": "good"}, "categories: is required"),
        ({"categories": ("good",)}, "categories: must be TaskCategory, one is 'good'"),
        ({"categories": (TaskCategory(""),)}, "categories: a task type must be a name, one is ''"),
        ({"categories": (TaskCategory(" a"),)}, "categories: a task type must be a name, one is ' a'"),
        ({"categories": (TaskCategory("a", -1),)}, "categories: the version of 'a' must be 0 to 2147483647, is -1"),
        ({"categories": (TaskCategory("a", 2**31),)}, "must be 0 to 2147483647"),
        ({"categories": (TaskCategory("a"), TaskCategory("a", 0))}, "names a task type with the same version twice"),
        ({"max_concurrent_calls": 0}, "max_concurrent_calls: must be an integer of at least 1, is 0"),
        ({"max_concurrent_calls": True}, "max_concurrent_calls: must be"),
        ({"meta_type": dict}, "meta_type: is required: a subclass of ResourceMeta or a dataclass"),
        ({"meta_type": AmbiguousMeta}, "meta_type: can not be decoded from JSON"),
        ({"create": no_create}, "create: must be callable as 'def create(self, task)'"),
        ({"get": short_get}, "get: must be callable as 'def get(self, meta, job)'"),
        ({"delete": None}, "delete: must be a method 'def delete(self, meta, job)', is NoneType"),
        ({"get_logs": plain_logs}, "get_logs: must be an async generator"),
        ({"close": no_create}, "close: must be async"),
    ],
)
def test_a_fault_is_named(attributes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConnectorError) as caught:
        check_connector(variant(**attributes))
    assert problem in str(caught.value)


def test_what_is_no_connector_is_named() -> None:
    with pytest.raises(ConnectorError, match="connector 'Good': connector: must be an instance"):
        check_connector(Good)
    with pytest.raises(ConnectorError, match="connector 'int': connector: must be an AsyncConnector or a Sync"):
        check_connector(7)
    both = type("Both", (Good, Sync), {})(connector_setup())
    with pytest.raises(ConnectorError, match="is either an AsyncConnector or a SyncConnector, not both"):
        check_connector(both)


def test_a_class_without_its_methods_can_not_be_made() -> None:
    class Unfinished(AsyncConnector[Meta]):
        name = "Unfinished"
        categories = (TaskCategory("x"),)
        meta_type = Meta

    with pytest.raises(TypeError, match="abstract"):
        Unfinished(connector_setup())  # type: ignore[abstract]


def test_missing_attributes_are_faults_too() -> None:
    class Nameless(SyncConnector):
        def do(self, task: TaskRequest) -> Resource:
            return Resource(RemotePhase.SUCCEEDED)

    with pytest.raises(ConnectorError, match="connector 'Nameless': name: is required: a text for people, is None"):
        check_connector(Nameless(connector_setup()))
    Nameless.name = "n"
    with pytest.raises(ConnectorError, match="connector 'n': categories: is required"):
        check_connector(Nameless(connector_setup()))
