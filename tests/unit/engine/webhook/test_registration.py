"""What replicas share in the cluster, however many of them begin at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.secret_managers.kubernetes import SECRET
from propfan.engine.webhook import registration
from propfan.engine.webhook.authority import Identity
from propfan.engine.webhook.config import SecretManagerType, WebhookSection
from propfan.engine.webhook.registration import CONFIGURATION, Registration
from propfan.pluginmachinery.errors import ConfigError

pytestmark = pytest.mark.anyio


class HandClock:
    def __init__(self) -> None:
        self.time = datetime(2026, 3, 4, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


@pytest.fixture
async def cluster() -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster.open() as made:
        yield made


def replica(cluster: EmbeddedCluster, clock: HandClock | None = None, **settings: Any) -> Registration:
    return Registration(cluster, WebhookSection(**settings), "home", clock or HandClock(), ["b", "a"])


async def test_replicas_that_begin_at_once_share_one_certificate(cluster: EmbeddedCluster) -> None:
    found: list[Identity] = []

    async def begin() -> None:
        found.append(await replica(cluster).identity())

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(begin)
    assert len(found) == 8
    assert all(each == found[0] for each in found)


async def test_it_is_renewed_in_time_by_one_of_them_under_the_same_authority(cluster: EmbeddedCluster) -> None:
    clock = HandClock()
    first = await replica(cluster, clock).identity()
    clock.time += timedelta(days=59)
    assert await replica(cluster, clock).identity() == first
    clock.time += timedelta(days=2)
    found: list[Identity] = []

    async def begin() -> None:
        found.append(await replica(cluster, clock).identity())

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(begin)
    assert all(each == found[0] for each in found)
    assert found[0].certificate != first.certificate
    assert found[0].authority == first.authority


async def configuration_of(cluster: EmbeddedCluster) -> Mapping[str, Any]:
    seen = await cluster.get(CONFIGURATION, "", "propfan-webhook.home")
    found: Mapping[str, Any] = msgspec.json.decode(seen.raw)
    return found


async def test_the_api_server_is_told_once_and_again_when_something_changed(cluster: EmbeddedCluster) -> None:
    await replica(cluster).register(b"trusted")
    first = await configuration_of(cluster)
    (webhook,) = first["webhooks"]
    assert webhook["objectSelector"] == {"matchLabels": {"inject-flyte-secrets": "true"}}
    assert webhook["namespaceSelector"]["matchExpressions"][0]["values"] == ["a", "b"]
    assert webhook["clientConfig"]["service"]["namespace"] == "home"
    assert webhook["failurePolicy"] == "Fail"
    await replica(cluster).register(b"trusted")
    assert await configuration_of(cluster) == first
    await replica(cluster).register(b"other")
    assert (await configuration_of(cluster))["webhooks"][0]["clientConfig"]["caBundle"] == "b3RoZXI="


async def test_objects_of_others_are_not_touched(cluster: EmbeddedCluster) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "propfan-webhook", "namespace": "home"}}
    await cluster.create(SECRET, json.dumps(secret).encode())
    with pytest.raises(ConfigError, match=r"webhook\.secret-name: Secret home/propfan-webhook is not propfan's"):
        await replica(cluster).identity()
    theirs = {
        "apiVersion": CONFIGURATION.api_version,
        "kind": CONFIGURATION.kind,
        "metadata": {"name": "propfan-webhook.home"},
        "webhooks": [],
    }
    await cluster.create(CONFIGURATION, json.dumps(theirs).encode())
    with pytest.raises(ConfigError, match=r"webhook\.configuration-name"):
        await replica(cluster).register(b"x")
    assert (await configuration_of(cluster))["webhooks"] == []


async def test_registration_can_be_left_to_others(cluster: EmbeddedCluster) -> None:
    await replica(cluster, manage_configuration=False).register(b"x")
    assert (await cluster.list(CONFIGURATION)).items == []


def test_a_webhook_outside_of_the_cluster_is_called_by_its_url() -> None:
    made = registration.configuration(WebhookSection(url="https://10.0.0.1:9443/"), "home", b"x", ())
    (webhook,) = made["webhooks"]
    assert webhook["clientConfig"]["url"] == "https://10.0.0.1:9443/mutate--v1-pod"
    assert webhook["namespaceSelector"] == {}


@pytest.mark.parametrize("kind", ["AWS", "GCP", "Azure", "Vault"])
def test_sidecar_managers_are_refused_by_the_setting_with_a_way_out(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"webhook\.secret-manager-types: {kind} is not served.*External Secrets"):
        WebhookSection(secret_manager_types=(SecretManagerType(kind),)).check()


def test_urls_without_tls_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"webhook\.url"):
        WebhookSection(url="http://10.0.0.1").check()
