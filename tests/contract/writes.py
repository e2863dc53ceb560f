"""Promises about writes: create, patch, delete, owners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import anyio
import msgspec
import pytest

from propfan.engine.cluster import POD, Cluster, Kind, ObservedObject
from propfan.pluginmachinery.errors import (
    AlreadyExistsError,
    ApiError,
    BadRequestError,
    ConflictError,
    InvalidError,
    NotFoundError,
    TooLargeError,
)
from tests.contract.objects import CONTAINERS, DELETED, MODIFIED, body, content, next_events, told, until_gone


@pytest.mark.anyio
class WriteContract:
    has_garbage_collector: ClassVar[bool] = True

    # Create and get

    async def test_an_object_is_answered_as_it_is_stored(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        created = await cluster.create(kind, body(kind, namespace, "a", {"size": 7}, labels={"x": "1"}))
        assert created == await cluster.get(kind, namespace, "a")
        metadata = created.metadata
        assert created.kind == kind
        assert (metadata.name, metadata.namespace, metadata.labels) == ("a", namespace, {"x": "1"})
        assert metadata.uid
        assert metadata.resource_version
        assert metadata.creation_timestamp is not None
        assert metadata.generation == 1
        assert metadata.deletion_timestamp is None
        stored = content(created)
        assert (stored["apiVersion"], stored["kind"], stored["spec"]) == (kind.api_version, kind.kind, {"size": 7})
        assert stored["metadata"]["uid"] == metadata.uid
        assert stored["metadata"]["resourceVersion"] == metadata.resource_version

    async def test_a_name_is_taken_once(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        await cluster.create(kind, body(kind, namespace, "a"))
        with pytest.raises(AlreadyExistsError) as caught:
            await cluster.create(kind, body(kind, namespace, "a"))
        assert f"{namespace}/a" in caught.value.target

    async def test_a_name_is_taken_until_its_object_is_gone(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        await cluster.create(kind, body(kind, namespace, "a", finalizers=["example.org/hold"]))
        await cluster.delete(kind, namespace, "a")
        with pytest.raises(AlreadyExistsError):
            await cluster.create(kind, body(kind, namespace, "a"))

    async def test_of_many_creators_one_wins(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        won: list[str] = []
        lost: list[ApiError] = []

        async def create() -> None:
            try:
                won.append((await cluster.create(kind, body(kind, namespace, "a"))).metadata.uid)
            except AlreadyExistsError as error:
                lost.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(create)
        assert len(won) == 1
        assert len(lost) == 9
        assert (await cluster.get(kind, namespace, "a")).metadata.uid == won[0]

    async def test_a_status_to_begin_with_is_dropped(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        whole = msgspec.json.decode(body(kind, namespace, "a")) | {"status": {"phase": "Done"}}
        assert "status" not in content(await cluster.create(kind, msgspec.json.encode(whole)))

    async def test_a_pod_begins_pending(self, cluster: Cluster, namespace: str) -> None:
        assert content(await cluster.create(POD, body(POD, namespace, "a")))["status"]["phase"] == "Pending"

    async def test_what_the_server_sets_is_not_for_clients(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        created = await cluster.create(
            kind, body(kind, namespace, "a", uid="mine", creationTimestamp="2001-01-01T00:00:00Z", generation=7)
        )
        assert created.metadata.uid != "mine"
        assert created.metadata.creation_timestamp is not None
        assert created.metadata.creation_timestamp.year > 2001
        assert created.metadata.generation == 1

    async def test_members_of_null_are_as_good_as_none(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        created = await cluster.create(
            kind, body(kind, namespace, "a", creationTimestamp=None, labels=None, ownerReferences=None)
        )
        assert created.metadata.labels == {}

    @pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a.", "a..b", "a/b", "ä", "a" * 254])
    async def test_a_name_that_is_no_dns_subdomain_is_refused(
        self, cluster: Cluster, namespace: str, kind: Kind, name: str
    ) -> None:
        with pytest.raises(InvalidError):
            await cluster.create(kind, body(kind, namespace, name))

    @pytest.mark.parametrize("name", ["a", "0", "a.b-c.d", "a" * 253])
    async def test_a_name_that_is_a_dns_subdomain_is_taken(
        self, cluster: Cluster, namespace: str, kind: Kind, name: str
    ) -> None:
        assert (await cluster.create(kind, body(kind, namespace, name))).metadata.name == name

    @pytest.mark.parametrize(
        "metadata",
        [
            {"labels": {"x": "a b"}},
            {"labels": {"x": "a" * 64}},
            {"labels": {"x": "-a"}},
            {"labels": {"": "a"}},
            {"labels": {"a/b/c": "a"}},
            {"labels": {"UPPER/x": "a"}},
            {"labels": {"x" * 64: "a"}},
            {"annotations": {"a b": ""}},
            {"annotations": {"a": "x" * 262_145}},
            {"finalizers": ["a b/c"]},
            {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "", "uid": "u"}]},
            {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]},
            {
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": name, "controller": True}
                    for name in ("p", "q")
                ]
            },
        ],
        ids=str,
    )
    async def test_wrong_metadata_are_refused_and_nothing_is_created(
        self, cluster: Cluster, namespace: str, kind: Kind, metadata: Mapping[str, Any]
    ) -> None:
        with pytest.raises(InvalidError):
            await cluster.create(kind, body(kind, namespace, "a", **metadata))
        with pytest.raises(NotFoundError):
            await cluster.get(kind, namespace, "a")

    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"a"', b"null", b"\xff"])
    async def test_what_is_no_json_object_is_refused(self, cluster: Cluster, kind: Kind, text: bytes) -> None:
        with pytest.raises((BadRequestError, InvalidError)):
            await cluster.create(kind, text)

    async def test_an_object_of_another_kind_is_refused(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        with pytest.raises(BadRequestError):
            await cluster.create(kind, body(POD, namespace, "a"))

    async def test_an_object_that_is_too_large_is_refused(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        with pytest.raises(TooLargeError):
            await cluster.create(kind, body(kind, namespace, "a", {"blob": "x" * 2**21}))
        await cluster.create(kind, body(kind, namespace, "a", {"blob": "x" * 2**20}))
        with pytest.raises(TooLargeError):
            await cluster.patch(kind, namespace, "a", {"spec": {"more": "x" * 2**20}})
        assert "more" not in content(await cluster.get(kind, namespace, "a"))["spec"]

    async def test_what_is_not_there_is_not_found(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        with pytest.raises(NotFoundError):
            await cluster.get(kind, namespace, "a")
        with pytest.raises(NotFoundError):
            await cluster.patch(kind, namespace, "a", {"spec": {}})
        with pytest.raises(NotFoundError):
            await cluster.patch(kind, namespace, "a", {"status": {}}, subresource="status")
        with pytest.raises(NotFoundError):
            await cluster.delete(kind, namespace, "a")

    # Patch

    async def test_a_patch_merges_replaces_and_removes(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        spec = {"keep": {"a": 1, "b": [1, 2]}, "drop": "x", "turn": {"a": 1}, "list": [{"a": 1}, 2]}
        await cluster.create(kind, body(kind, namespace, "a", spec))
        patch = {"keep": {"a": None, "c": {"d": None, "e": 2}}, "drop": None, "turn": "ed", "list": [3], "never": None}
        patched = await cluster.patch(kind, namespace, "a", {"spec": patch})
        assert content(patched)["spec"] == {"keep": {"b": [1, 2], "c": {"e": 2}}, "turn": "ed", "list": [3]}
        assert patched == await cluster.get(kind, namespace, "a")

    async def test_a_status_is_patched_on_its_own(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        await cluster.create(kind, body(kind, namespace, "a", {"size": 1}))
        both = {"spec": {"size": 2}, "status": {"phase": "Done", "more": {"a": 1, "b": 2}}}
        patched = content(await cluster.patch(kind, namespace, "a", both, subresource="status"))
        assert patched["spec"] == {"size": 1}
        assert patched["status"] == both["status"]
        patched = content(
            await cluster.patch(kind, namespace, "a", {"status": {"more": {"a": None}}}, subresource="status")
        )
        assert patched["status"] == {"phase": "Done", "more": {"b": 2}}

    async def test_a_patch_of_the_object_leaves_its_status(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        await cluster.create(kind, body(kind, namespace, "a"))
        await cluster.patch(kind, namespace, "a", {"status": {"phase": "Running"}}, subresource="status")
        patched = await cluster.patch(kind, namespace, "a", {"spec": {"size": 2}, "status": {"phase": "Done"}})
        assert content(patched)["spec"] == {"size": 2}
        assert content(patched)["status"] == {"phase": "Running"}

    async def test_the_generation_counts_changes_of_the_spec(
        self, cluster: Cluster, namespace: str, kind: Kind
    ) -> None:
        await cluster.create(kind, body(kind, namespace, "a"))
        labelled = await cluster.patch(kind, namespace, "a", {"metadata": {"labels": {"x": "1"}}})
        with_status = await cluster.patch(kind, namespace, "a", {"status": {"a": 1}}, subresource="status")
        resized = await cluster.patch(kind, namespace, "a", {"spec": {"size": 2}})
        assert [found.metadata.generation for found in (labelled, with_status, resized)] == [1, 1, 2]

    async def test_labels_and_annotations_are_merged(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        await cluster.create(
            kind, body(kind, namespace, "a", labels={"x": "1", "y": "1"}, annotations={"a": "1", "b": "1"})
        )
        patch = {"metadata": {"labels": {"x": None, "z": "1"}, "annotations": {"a": "2", "b": None}}}
        metadata = (await cluster.patch(kind, namespace, "a", patch)).metadata
        assert metadata.labels == {"y": "1", "z": "1"}
        assert metadata.annotations == {"a": "2"}

    async def test_wrong_labels_are_refused_in_a_patch(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        created = await cluster.create(kind, body(kind, namespace, "a"))
        with pytest.raises(InvalidError):
            await cluster.patch(kind, namespace, "a", {"metadata": {"labels": {"x": "a b"}}, "spec": {"size": 2}})
        assert await cluster.get(kind, namespace, "a") == created

    async def test_a_patch_can_be_a_struct(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        class Spec(msgspec.Struct, rename="camel", omit_defaults=True):
            full_size: int
            other: int = 0

        class Patch(msgspec.Struct):
            spec: Spec

        await cluster.create(kind, body(kind, namespace, "a"))
        patched = await cluster.patch(kind, namespace, "a", Patch(Spec(3)))
        assert content(patched)["spec"] == {"size": 1, "fullSize": 3}

    async def test_every_write_has_a_version_of_its_own(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        versions = [(await cluster.create(kind, body(kind, namespace, "a"))).metadata.resource_version]
        for size in range(5):
            patched = await cluster.patch(kind, namespace, "a", {"status": {"size": size}}, subresource="status")
            versions.append(patched.metadata.resource_version)
        assert len(set(versions)) == 6

    async def test_a_patch_that_changes_nothing_is_no_write(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        created = await cluster.create(kind, body(kind, namespace, "a", {"size": 1}, labels={"x": "1"}))
        assert await cluster.patch(kind, namespace, "a", {"spec": {"size": 1, "none": None}}) == created
        assert await cluster.patch(kind, namespace, "a", {"metadata": {"labels": {"x": "1"}}}) == created
        assert await cluster.patch(kind, namespace, "a", {}) == created

    async def test_a_patch_of_another_version_conflicts(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        old = (await cluster.create(kind, body(kind, namespace, "a"))).metadata.resource_version
        new = await cluster.patch(kind, namespace, "a", {"spec": {"size": 2}}, resource_version=old)
        for patch, subresource in (({"spec": {"size": 3}}, ""), ({"status": {"size": 3}}, "status")):
            with pytest.raises(ConflictError):
                await cluster.patch(kind, namespace, "a", patch, resource_version=old, subresource=subresource)
            inside = {**patch, "metadata": {"resourceVersion": old}}
            with pytest.raises(ConflictError):
                await cluster.patch(kind, namespace, "a", inside, subresource=subresource)
        assert await cluster.get(kind, namespace, "a") == new

    async def test_a_patch_for_another_uid_is_refused(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        pod = await cluster.create(POD, body(POD, namespace, "a"))
        patch = {"metadata": {"uid": "another"}, "status": {"phase": "Running"}}
        with pytest.raises(InvalidError):
            await cluster.patch(POD, namespace, "a", patch, subresource="status")
        assert await cluster.get(POD, namespace, "a") == pod
        created = await cluster.create(kind, body(kind, namespace, "a"))
        with pytest.raises(InvalidError):
            await cluster.patch(kind, namespace, "a", {"metadata": {"uid": "another"}, "spec": {"size": 2}})
        uid = created.metadata.uid
        await cluster.patch(kind, namespace, "a", {"metadata": {"uid": uid}, "spec": {"size": 2}})

    async def test_an_object_keeps_its_name(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        await cluster.create(kind, body(kind, namespace, "a"))
        with pytest.raises(BadRequestError):
            await cluster.patch(kind, namespace, "a", {"metadata": {"name": "b"}})

    async def test_counting_up_under_a_version_loses_nothing(
        self, cluster: Cluster, namespace: str, kind: Kind
    ) -> None:
        await cluster.create(kind, body(kind, namespace, "a", {"count": 0}))

        async def count_up() -> None:
            while True:
                found = await cluster.get(kind, namespace, "a")
                patch = {"spec": {"count": content(found)["spec"]["count"] + 1}}
                try:
                    version = found.metadata.resource_version
                    await cluster.patch(kind, namespace, "a", patch, resource_version=version)
                except ConflictError:
                    continue
                return

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(count_up)
        assert content(await cluster.get(kind, namespace, "a"))["spec"]["count"] == 8

    # Delete

    async def test_a_deleted_object_is_gone(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        old = await cluster.create(kind, body(kind, namespace, "a"))
        await cluster.delete(kind, namespace, "a")
        with pytest.raises(NotFoundError):
            await cluster.get(kind, namespace, "a")
        assert (await cluster.create(kind, body(kind, namespace, "a"))).metadata.uid != old.metadata.uid

    async def test_another_object_of_that_name_is_not_deleted(
        self, cluster: Cluster, namespace: str, kind: Kind
    ) -> None:
        created = await cluster.create(kind, body(kind, namespace, "a"))
        with pytest.raises(ConflictError):
            await cluster.delete(kind, namespace, "a", uid="another")
        assert await cluster.get(kind, namespace, "a") == created
        await cluster.delete(kind, namespace, "a", uid=created.metadata.uid)

    async def test_an_object_goes_with_its_last_finalizer(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        created = await cluster.create(
            kind, body(kind, namespace, "a", finalizers=["example.org/one", "example.org/two"])
        )
        async with cluster.watch(
            kind, namespace=namespace, resource_version=created.metadata.resource_version
        ) as changes:
            await cluster.delete(kind, namespace, "a")
            marked = await cluster.get(kind, namespace, "a")
            assert marked.metadata.deletion_timestamp is not None
            await cluster.delete(kind, namespace, "a")
            assert await cluster.get(kind, namespace, "a") == marked
            await cluster.patch(kind, namespace, "a", {"metadata": {"finalizers": ["example.org/two"]}})
            last = await cluster.patch(kind, namespace, "a", {"metadata": {"finalizers": None}})
            assert last.metadata.finalizers in ((), [])
            with pytest.raises(NotFoundError):
                await cluster.get(kind, namespace, "a")
            assert told(await next_events(changes, 3)) == [(MODIFIED, "a"), (MODIFIED, "a"), (DELETED, "a")]

    async def test_an_object_that_is_being_deleted_takes_no_new_finalizer(
        self, cluster: Cluster, namespace: str, kind: Kind
    ) -> None:
        await cluster.create(kind, body(kind, namespace, "a", finalizers=["example.org/one"]))
        await cluster.delete(kind, namespace, "a")
        with pytest.raises(InvalidError):
            await cluster.patch(
                kind, namespace, "a", {"metadata": {"finalizers": ["example.org/one", "example.org/two"]}}
            )

    async def test_a_status_can_be_written_while_an_object_is_being_deleted(
        self, cluster: Cluster, namespace: str, kind: Kind
    ) -> None:
        await cluster.create(kind, body(kind, namespace, "a", finalizers=["example.org/one"]))
        await cluster.delete(kind, namespace, "a")
        patched = await cluster.patch(kind, namespace, "a", {"status": {"a": 1}}, subresource="status")
        assert content(patched)["status"] == {"a": 1}
        assert patched.metadata.deletion_timestamp is not None

    async def test_a_pod_without_a_node_goes_at_once(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(POD, body(POD, namespace, "a"))
        await cluster.delete(POD, namespace, "a")
        with pytest.raises(NotFoundError):
            await cluster.get(POD, namespace, "a")

    async def test_a_pod_on_a_node_stays_until_its_kubelet_deletes_it(self, cluster: Cluster, namespace: str) -> None:
        spec = {
            "nodeName": "node",
            "terminationGracePeriodSeconds": 60,
            "containers": CONTAINERS,
        }
        await cluster.create(POD, body(POD, namespace, "a", spec))
        await cluster.delete(POD, namespace, "a")
        marked = (await cluster.get(POD, namespace, "a")).metadata
        assert marked.deletion_timestamp is not None
        assert marked.deletion_grace_period_seconds == 60
        await cluster.delete(POD, namespace, "a", grace_period_s=10)
        shortened = (await cluster.get(POD, namespace, "a")).metadata
        assert shortened.deletion_grace_period_seconds == 10
        assert shortened.deletion_timestamp is not None
        assert shortened.deletion_timestamp < marked.deletion_timestamp
        await cluster.delete(POD, namespace, "a", grace_period_s=0)
        with pytest.raises(NotFoundError):
            await cluster.get(POD, namespace, "a")

    async def test_a_pod_that_has_ended_goes_at_once(self, cluster: Cluster, namespace: str) -> None:
        spec = {"nodeName": "node", "containers": CONTAINERS}
        await cluster.create(POD, body(POD, namespace, "a", spec))
        await cluster.patch(POD, namespace, "a", {"status": {"phase": "Succeeded"}}, subresource="status")
        await cluster.delete(POD, namespace, "a")
        with pytest.raises(NotFoundError):
            await cluster.get(POD, namespace, "a")

    async def test_a_finalizer_holds_a_pod_longer_than_its_kubelet(self, cluster: Cluster, namespace: str) -> None:
        await cluster.create(POD, body(POD, namespace, "a", finalizers=["example.org/one"]))
        await cluster.delete(POD, namespace, "a")
        assert (await cluster.get(POD, namespace, "a")).metadata.deletion_timestamp is not None
        await cluster.patch(POD, namespace, "a", {"metadata": {"finalizers": []}})
        with pytest.raises(NotFoundError):
            await cluster.get(POD, namespace, "a")

    # Owners

    async def test_an_object_goes_with_its_owner(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        self._needs_garbage_collector()
        owner = await cluster.create(kind, body(kind, namespace, "owner"))
        child = await cluster.create(kind, body(kind, namespace, "child", ownerReferences=[_reference(owner)]))
        await cluster.create(POD, body(POD, namespace, "grandchild", ownerReferences=[_reference(child)]))
        await cluster.create(kind, body(kind, namespace, "bystander"))
        await cluster.delete(kind, namespace, "owner")
        await until_gone(cluster, kind, namespace, "child")
        await until_gone(cluster, POD, namespace, "grandchild")
        await cluster.get(kind, namespace, "bystander")

    async def test_an_object_whose_owner_never_was_goes(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        self._needs_garbage_collector()
        owner = await cluster.create(kind, body(kind, namespace, "owner"))
        await cluster.delete(kind, namespace, "owner")
        await cluster.create(kind, body(kind, namespace, "child", ownerReferences=[_reference(owner)]))
        await until_gone(cluster, kind, namespace, "child")

    async def test_one_living_owner_is_enough(self, cluster: Cluster, namespace: str, kind: Kind) -> None:
        self._needs_garbage_collector()
        owners = [await cluster.create(kind, body(kind, namespace, name)) for name in ("one", "two")]
        references = [_reference(owner) for owner in owners]
        await cluster.create(kind, body(kind, namespace, "child", ownerReferences=references))
        await cluster.create(kind, body(kind, namespace, "canary", ownerReferences=references[:1]))
        await cluster.delete(kind, namespace, "one")
        await until_gone(cluster, kind, namespace, "canary")
        await cluster.get(kind, namespace, "child")
        await cluster.delete(kind, namespace, "two")
        await until_gone(cluster, kind, namespace, "child")

    async def test_a_collected_object_waits_for_its_finalizers(
        self, cluster: Cluster, namespace: str, kind: Kind
    ) -> None:
        self._needs_garbage_collector()
        owner = await cluster.create(kind, body(kind, namespace, "owner"))
        child = await cluster.create(
            kind,
            body(kind, namespace, "child", ownerReferences=[_reference(owner)], finalizers=["example.org/one"]),
        )
        async with cluster.watch(
            kind, namespace=namespace, resource_version=child.metadata.resource_version
        ) as changes:
            await cluster.delete(kind, namespace, "owner")
            assert told(await next_events(changes, 2)) == [(DELETED, "owner"), (MODIFIED, "child")]
        assert (await cluster.get(kind, namespace, "child")).metadata.deletion_timestamp is not None

    def _needs_garbage_collector(self) -> None:
        if not self.has_garbage_collector:
            pytest.skip("no garbage collector runs beside this cluster")


def _reference(owner: ObservedObject) -> Mapping[str, Any]:
    return {
        "apiVersion": owner.kind.api_version,
        "kind": owner.kind.kind,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
    }
