"""Secrets by scope and by place, kept for a while and forgotten when told."""

from __future__ import annotations

import json
import traceback
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.secret_managers.cascade import CascadingSecrets
from propfan.engine.secret_managers.config import Place, SecretsSection
from propfan.engine.secret_managers.kubernetes import SECRET, KubernetesSecrets
from propfan.engine.secret_managers.scopes import SecretScope, object_name
from propfan.engine.secrets import SECRET_NOT_FOUND
from propfan.pluginmachinery.errors import PermanentError

pytestmark = pytest.mark.anyio

VALUE = "s3cr3t-value"


class HandClock:
    def __init__(self) -> None:
        self.time = datetime(2026, 3, 4, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


class Store:
    """Kubernetes Secrets of an embedded cluster."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self.cluster = cluster
        self.clock = HandClock()

    async def keep(self, name: str, key: str, value: bytes, namespace: str = "flyte") -> None:
        data = {key: b64encode(value).decode()}
        metadata = {"name": name, "namespace": namespace}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
        await self.cluster.create(SECRET, json.dumps(body).encode())

    async def keep_scoped(self, name: str, value: str, project: str = "", domain: str = "") -> None:
        identifier = SecretScope("flyte", project, domain).id_of(name)
        await self.keep(object_name(identifier), identifier, value.encode())

    async def change(self, name: str, key: str, value: str) -> None:
        patch = {"data": {key: b64encode(value.encode()).decode()}}
        await self.cluster.patch(SECRET, "flyte", name, patch)

    def secrets(self, *types: Place, folder: Path = Path("/nonexistent"), **environ: str) -> CascadingSecrets:
        section = SecretsSection(types=types or (Place.KUBERNETES,), secrets_prefix=str(folder), expiry_s=60)
        return CascadingSecrets.configured(section, environ, self.cluster, self.clock)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with EmbeddedCluster.open() as cluster:
        yield Store(cluster)


def test_ids_are_those_of_flytes_backend() -> None:
    assert SecretScope("flyte", "p", "d").id_of("k") == "u__org__flyte__domain__d__project__p__key__k"
    assert SecretScope("flyte").id_of("k") == "u__org__flyte__domain____project____key__k"
    assert object_name("k") == "8ce4b16b22b58894aa86c421e8759df3"


async def test_closest_scope_wins(store: Store) -> None:
    await store.keep_scoped("k", "all")
    assert await store.secrets().of("p", "d").get("k") == "all"
    await store.keep_scoped("k", "domain", domain="d")
    assert await store.secrets().of("p", "d").get("k") == "domain"
    await store.keep_scoped("k", "project", "p", "d")
    assert await store.secrets().of("p", "d").get("k") == "project"
    assert await store.secrets().of("other", "other").get("k") == "all"
    assert await store.secrets().get("k") == "all"


async def test_group_is_the_name_of_a_secret(store: Store) -> None:
    await store.keep("db", "Password", VALUE.encode())
    assert await store.secrets().of("p", "d").get("Password", "db") == VALUE


async def test_places_are_asked_in_their_order(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the file")
    await store.keep_scoped("k", "of the cluster")
    local = {"folder": tmp_path, "FLYTE_SECRET_k": "of env"}
    assert await store.secrets(Place.LOCAL, Place.KUBERNETES, **local).get("k") == "of env"  # type: ignore[arg-type]
    assert await store.secrets(Place.KUBERNETES, Place.LOCAL, **local).get("k") == "of the cluster"  # type: ignore[arg-type]
    assert await store.secrets(Place.KUBERNETES, Place.LOCAL, **local).get("file") == "of the file"  # type: ignore[arg-type]


async def test_a_missing_secret_names_all_places(store: Store) -> None:
    with pytest.raises(PermanentError) as caught:
        await store.secrets(Place.LOCAL, Place.KUBERNETES).of("p", "d").get("k")
    assert caught.value.code == SECRET_NOT_FOUND
    assert "Env [FLYTE_SECRET_k]" in caught.value.message
    assert "of 'k' in namespace flyte for flyte/p/d, flyte/d, flyte" in caught.value.message


async def test_what_was_read_is_believed_until_it_expires_or_is_forgotten(store: Store) -> None:
    await store.keep("db", "k", b"old")
    secrets = store.secrets()
    assert await secrets.get("k", "db") == "old"
    await store.change("db", "k", "new")
    assert await secrets.of("p", "d").get("k", "db") == "old"
    store.clock.time += timedelta(seconds=61)
    assert await secrets.get("k", "db") == "new"
    await store.change("db", "k", "newer")
    secrets.forget("k", "db")
    assert await secrets.get("k", "db") == "newer"


async def test_scoped_values_are_forgotten_in_all_of_their_scopes(store: Store) -> None:
    identifier = SecretScope("flyte").id_of("k")
    await store.keep_scoped("k", "old")
    secrets = store.secrets().of("p", "d")
    assert await secrets.get("k") == "old"
    await store.change(object_name(identifier), identifier, "new")
    assert await secrets.get("k") == "old"
    secrets.forget("k")
    assert await secrets.get("k") == "new"


async def test_what_is_not_there_is_asked_for_each_time(store: Store) -> None:
    secrets = KubernetesSecrets(store.cluster, store.clock, 60)
    assert await secrets.value("flyte", "db", "k") is None
    await store.keep("db", "k", b"x")
    assert await secrets.value("flyte", "db", "other") is None
    await store.change("db", "other", "y")
    assert await secrets.value("flyte", "db", "other") == b"y"


@pytest.mark.parametrize("data", [{"k": "no base64: " + VALUE}, {"k": 1}, "x"])
async def test_unreadable_secrets_show_nothing_of_what_they_hold(store: Store, data: object) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": "flyte"}, "data": data}
    await store.cluster.create(SECRET, json.dumps(body).encode())
    with pytest.raises(PermanentError) as caught:
        await store.secrets().get("k", "db")
    assert VALUE not in "".join(traceback.format_exception(caught.value))


async def test_binary_values_are_refused_and_not_shown(store: Store) -> None:
    await store.keep("db", "k", b"\xff" + VALUE.encode())
    with pytest.raises(PermanentError, match="not a valid UTF-8 string") as caught:
        await store.secrets().get("k", "db")
    assert VALUE not in "".join(traceback.format_exception(caught.value))
