"""Promises about lists and watches."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from propfan.engine.cluster import POD, Cluster, Kind, LabelSelector, WatchEventType
from propfan.pluginmachinery.errors import (
    BadRequestError,
    ExpiredError,
)
from tests.contract.objects import ADDED, DELETED, MODIFIED, body, content, next_events, told


@pytest.mark.anyio
class ReadContract:
    # List

    async def test_a_list_is_of_one_namespace_or_of_all(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        await cluster.create(kind, body(kind, namespace, "b"))
        await cluster.create(kind, body(kind, namespace, "a"))
        page = await cluster.list(kind, namespace=namespace)
        assert [found.metadata.name for found in page.items] == ["a", "b"]
        assert page.items[0] == await cluster.get(kind, namespace, "a")
        assert not page.continue_token
        found = {(item.metadata.namespace, item.metadata.name) for item in (await cluster.list(kind)).items}
        assert {(namespace, "a"), (namespace, "b")} <= found
        assert not (await cluster.list(kind, namespace=f"{namespace}-other")).items

    async def test_a_list_is_of_the_objects_with_all_these_labels(
        self, cluster: Cluster, namespace: str, kind: Kind
    ) -> None:
        for name, labels in (("a", {"x": "1"}), ("b", {"x": "1", "y": "2"}), ("c", {"x": "2", "y": "2"}), ("d", {})):
            await cluster.create(kind, body(kind, namespace, name, labels=labels))

        async def names(**labels: str) -> Sequence[str]:
            page = await cluster.list(kind, namespace=namespace, labels=labels)
            return [found.metadata.name for found in page.items]

        assert await names() == ["a", "b", "c", "d"]
        assert await names(x="1") == ["a", "b"]
        assert await names(x="1", y="2") == ["b"]
        assert await names(z="1") == []
        await cluster.patch(kind, namespace, "a", {"metadata": {"labels": {"x": "2"}}})
        await cluster.delete(kind, namespace, "b")
        assert await names(x="1") == []
        assert await names(x="2") == ["a", "c"]

    async def test_a_label_may_have_any_of_several_values(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        for name, labels in (("a", {"x": "1"}), ("b", {"x": "2", "y": "2"}), ("c", {"x": "3", "y": "2"}), ("d", {})):
            await cluster.create(kind, body(kind, namespace, name, labels=labels))

        async def names(labels: LabelSelector) -> Sequence[str]:
            page = await cluster.list(kind, namespace=namespace, labels=labels)
            return [found.metadata.name for found in page.items]

        assert await names({"x": ["1", "3"]}) == ["a", "c"]
        assert await names({"x": {"1", "2", "3"}, "y": "2"}) == ["b", "c"]
        assert await names({"x": ("2",), "y": ["2", "3"]}) == ["b"]
        assert await names({"x": ["7", "8"]}) == []
        assert await names({"x": []}) == []
        assert await names({"x": [""]}) == []

    async def test_a_selection_of_many_is_as_one_of_few(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        """The embedded cluster indexes labels when there are enough objects."""
        for number in range(70):
            await cluster.create(kind, body(kind, namespace, f"a{number:02}", labels={"x": str(number)}))
        page = await cluster.list(kind, namespace=namespace, labels={"x": ["3", "50", "99"]})
        assert [found.metadata.name for found in page.items] == ["a03", "a50"]

    @pytest.mark.parametrize(
        "labels", [{"x": "a,y=b"}, {"x": ["a", "b)"]}, {"x!": "a"}, {"": "a"}, {"x": "-"}], ids=str
    )
    async def test_a_selector_of_what_can_be_no_label_is_refused(
        self, cluster: Cluster, namespace: str, kind: Kind, labels: LabelSelector
    ) -> None:
        with pytest.raises(BadRequestError):
            await cluster.list(kind, namespace=namespace, labels=labels)
        with pytest.raises(BadRequestError):
            async with cluster.watch(kind, namespace=namespace, labels=labels, resource_version="1") as changes:
                await anext(changes)

    async def test_pages_are_of_one_moment(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        names = [f"a{number:02}" for number in range(25)]
        for name in names:
            await cluster.create(kind, body(kind, namespace, name))
        page = await cluster.list(kind, namespace=namespace, limit=10)
        await cluster.create(kind, body(kind, namespace, "zz"))
        await cluster.delete(kind, namespace, names[-1])
        await cluster.patch(kind, namespace, names[-2], {"spec": {"size": 9}})
        found, sizes = list(page.items), [len(page.items)]
        while page.continue_token:
            version = page.resource_version
            page = await cluster.list(kind, namespace=namespace, limit=10, continue_token=page.continue_token)
            assert page.resource_version == version
            found += page.items
            sizes.append(len(page.items))
        assert sizes == [10, 10, 5]
        assert [item.metadata.name for item in found] == names
        assert content(found[-2])["spec"] == {"size": 1}
        async with cluster.watch(kind, namespace=namespace, resource_version=page.resource_version) as changes:
            events = await next_events(changes, 3)
        assert told(events) == [(ADDED, "zz"), (DELETED, names[-1]), (MODIFIED, names[-2])]

    async def test_a_continue_token_that_is_none_is_refused(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        with pytest.raises((BadRequestError, ExpiredError)):
            await cluster.list(kind, namespace=namespace, continue_token="nonsense")

    # Watch

    async def test_a_watch_tells_all_changes_in_order(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        version = (await cluster.list(kind, namespace=namespace)).resource_version
        async with cluster.watch(kind, namespace=namespace, resource_version=version) as changes:
            created = await cluster.create(kind, body(kind, namespace, "a"))
            patched = await cluster.patch(kind, namespace, "a", {"status": {"a": 1}}, subresource="status")
            await cluster.create(kind, body(kind, namespace, "b"))
            await cluster.delete(kind, namespace, "a")
            events = await next_events(changes, 4)
        assert told(events) == [(ADDED, "a"), (MODIFIED, "a"), (ADDED, "b"), (DELETED, "a")]
        assert [event.object for event in events[:2]] == [created, patched]
        versions = [event.object.metadata.resource_version for event in events]
        assert len(set(versions)) == 4

    async def test_a_watch_begins_after_its_version(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        await cluster.create(kind, body(kind, namespace, "a"))
        second = await cluster.create(kind, body(kind, namespace, "b"))
        await cluster.create(kind, body(kind, namespace, "c"))
        async with cluster.watch(
            kind, namespace=namespace, resource_version=second.metadata.resource_version
        ) as changes:
            await cluster.create(kind, body(kind, namespace, "d"))
            assert told(await next_events(changes, 2)) == [(ADDED, "c"), (ADDED, "d")]

    async def test_a_watch_is_resumed_from_any_event(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        version = (await cluster.list(kind, namespace=namespace)).resource_version
        await cluster.create(kind, body(kind, namespace, "a"))
        await cluster.delete(kind, namespace, "a")
        await cluster.create(kind, body(kind, namespace, "b"))
        everything = [(ADDED, "a"), (DELETED, "a"), (ADDED, "b")]
        for number in range(3):
            async with cluster.watch(kind, namespace=namespace, resource_version=version) as changes:
                events = await next_events(changes, 3 - number)
            assert told(events) == everything[number:]
            version = events[0].object.metadata.resource_version

    async def test_a_watch_sees_objects_come_into_its_selector_and_leave(
        self, cluster: Cluster, namespace: str, kind: Kind
    ) -> None:
        version = (await cluster.list(kind, namespace=namespace)).resource_version
        async with cluster.watch(kind, namespace=namespace, labels={"x": "1"}, resource_version=version) as changes:
            await cluster.create(kind, body(kind, namespace, "a"))
            entered = await cluster.patch(kind, namespace, "a", {"metadata": {"labels": {"x": "1"}}})
            await cluster.patch(kind, namespace, "a", {"spec": {"size": 2}})
            left = await cluster.patch(kind, namespace, "a", {"metadata": {"labels": {"x": "2"}}})
            await cluster.delete(kind, namespace, "a")
            await cluster.create(kind, body(kind, namespace, "b", labels={"x": "1"}))
            await cluster.delete(kind, namespace, "b")
            events = await next_events(changes, 5)
        assert told(events) == [(ADDED, "a"), (MODIFIED, "a"), (DELETED, "a"), (ADDED, "b"), (DELETED, "b")]
        assert events[0].object == entered
        assert events[2].object.metadata.resource_version == left.metadata.resource_version
        assert events[2].object.metadata.labels == {"x": "1"}
        assert content(events[2].object)["spec"] == {"size": 2}

    async def test_a_watch_of_several_values_sees_objects_pass_between_them(
        self, cluster: Cluster, namespace: str, kind: Kind
    ) -> None:
        version = (await cluster.list(kind, namespace=namespace)).resource_version
        async with cluster.watch(
            kind, namespace=namespace, labels={"x": ["1", "2"]}, resource_version=version
        ) as changes:
            await cluster.create(kind, body(kind, namespace, "a", labels={"x": "1"}))
            for value in ("2", "3", "2"):
                await cluster.patch(kind, namespace, "a", {"metadata": {"labels": {"x": value}}})
            events = await next_events(changes, 4)
        assert told(events) == [(ADDED, "a"), (MODIFIED, "a"), (DELETED, "a"), (ADDED, "a")]

    async def test_a_watch_is_of_its_namespace_and_kind(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        version = (await cluster.list(kind, namespace=namespace)).resource_version
        async with cluster.watch(kind, namespace=namespace, resource_version=version) as changes:
            await cluster.create(POD, body(POD, namespace, "a"))
            await cluster.create(kind, body(kind, namespace, "b"))
            assert told(await next_events(changes, 1)) == [(ADDED, "b")]

    async def test_all_watches_are_told(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        version = (await cluster.list(kind, namespace=namespace)).resource_version
        seen: list[Sequence[tuple[WatchEventType, str]]] = []

        async def follow() -> None:
            async with cluster.watch(kind, namespace=namespace, resource_version=version) as changes:
                seen.append(told(await next_events(changes, 20)))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(follow)
            for number in range(20):
                tasks.start_soon(cluster.create, kind, body(kind, namespace, f"a{number}"))
        assert len(seen) == 3
        assert seen[0] == seen[1] == seen[2]
        assert {name for _, name in seen[0]} == {f"a{number}" for number in range(20)}

    async def test_a_write_is_told_before_or_with_its_answer(
        self, cluster: Cluster, namespace: str, kind: Kind
    ) -> None:
        """A watch from before a write has the write among its next events."""
        version = (await cluster.list(kind, namespace=namespace)).resource_version
        async with cluster.watch(kind, namespace=namespace, resource_version=version) as changes:
            created = await cluster.create(kind, body(kind, namespace, "a"))
            assert [event.object for event in await next_events(changes, 1)] == [created]
