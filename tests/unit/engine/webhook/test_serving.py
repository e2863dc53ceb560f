"""The webhook's server: TLS with the shared certificate, and pages that answer only whom they should."""

from __future__ import annotations

import json
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from cryptography import x509

from propfan.engine.clock import SystemClock
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.secret_managers.config import SecretsSection
from propfan.engine.secret_managers.kubernetes import SECRET
from propfan.engine.webhook.config import WebhookSection
from propfan.engine.webhook.registration import Registration
from propfan.engine.webhook.serving import Webhook
from propfan.pluginmachinery.errors import ConfigError, ForbiddenError

pytestmark = pytest.mark.anyio


class Client:
    """Trusts the authority that the API server is told of."""

    def __init__(self, address: str, trust: ssl.SSLContext, session: aiohttp.ClientSession) -> None:
        self.port = int(address.rpartition(":")[2])
        self._trust = trust
        self._session = session

    async def post(self, path: str, body: bytes, token: str = "") -> tuple[int, str]:
        url = f"https://127.0.0.1:{self.port}{path}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self._session.post(url, data=body, headers=headers, ssl=self._trust) as answer:
            return answer.status, await answer.text()

    def shown(self) -> bytes:
        return ssl.get_server_certificate(("127.0.0.1", self.port)).encode()


@asynccontextmanager
async def served(cluster: EmbeddedCluster, **settings: Any) -> AsyncIterator[Client]:
    config = WebhookSection(address="127.0.0.1:0", url="https://127.0.0.1:1", **settings)
    webhook = Webhook(
        config, SecretsSection(), cluster, SystemClock(), namespace="home", task_namespaces=(), environ={}
    )
    async with webhook.serving() as address, aiohttp.ClientSession() as session:
        identity = await Registration(cluster, config, "home", SystemClock(), ()).identity()
        yield Client(address, ssl.create_default_context(cadata=identity.authority.decode()), session)


@pytest.fixture
async def cluster() -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster.open() as made:
        yield made


async def test_reviews_are_answered_by_tls_with_the_shared_certificate(cluster: EmbeddedCluster) -> None:
    async with served(cluster) as client:
        review = json.dumps({"request": {"uid": "u", "object": {"metadata": {}}}}).encode()
        status, text = await client.post("/mutate--v1-pod", review)
        assert (status, json.loads(text)["response"]) == (200, {"uid": "u", "allowed": True})
        status, text = await client.post("/mutate--v1-pod", b"no review")
        assert status == 400
        assert "AdmissionReview" in text


async def test_without_a_token_nobody_can_make_it_forget(cluster: EmbeddedCluster) -> None:
    async with served(cluster) as client:
        assert (await client.post("/invalidate-secret", b'{"name": "k"}'))[0] == 404


@pytest.mark.parametrize(
    ("body", "token", "status"),
    [
        (b'{"name": "k"}', "right", 200),
        (b'{"name": "k"}', "wrong", 401),
        (b'{"name": "k"}', "", 401),
        (b'{"name": ""}', "right", 400),
        (b'{"nmae": "k"}', "right", 400),
        (b"\xff", "right", 400),
    ],
)
async def test_it_forgets_for_who_has_the_token(
    cluster: EmbeddedCluster, tmp_path: Path, body: bytes, token: str, status: int
) -> None:
    (tmp_path / "token").write_text("right\n")
    async with served(cluster, invalidation_token_file=tmp_path / "token") as client:
        assert (await client.post("/invalidate-secret", body, token))[0] == status


@pytest.mark.parametrize("content", [None, " \n"])
async def test_a_token_that_is_none_is_refused(cluster: EmbeddedCluster, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    config = WebhookSection(invalidation_token_file=tmp_path / "token")
    with pytest.raises(ConfigError, match=r"webhook\.invalidation-token-file"):
        Webhook(config, SecretsSection(), cluster, SystemClock(), namespace="home", task_namespaces=())


async def test_what_another_replica_renewed_is_shown_without_a_restart(cluster: EmbeddedCluster) -> None:
    async with served(cluster, check_s=0.1) as client:
        first = await anyio.to_thread.run_sync(client.shown)
        broken = {"data": {"tls.key": b64encode(b"none").decode()}}
        await cluster.patch(SECRET, "home", "propfan-webhook", broken)
        with anyio.fail_after(20):
            while (shown := await anyio.to_thread.run_sync(client.shown)) == first:  # noqa: ASYNC110 - no event tells
                await anyio.sleep(0.01)
        before, after = (x509.load_pem_x509_certificate(each) for each in (first, shown))
        assert before.issuer == after.issuer


async def test_an_address_that_is_taken_is_refused(cluster: EmbeddedCluster) -> None:
    async with served(cluster) as client:
        config = WebhookSection(address=f"127.0.0.1:{client.port}", url="https://127.0.0.1:1")
        other = Webhook(config, SecretsSection(), cluster, SystemClock(), namespace="home", task_namespaces=())
        with pytest.raises(ConfigError, match=r"webhook\.address: 127\.0\.0\.1:\d+: "):
            async with other.serving():
                pass


async def test_a_missing_right_ends_it_with_the_way_out(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forbidden(*_: Any) -> None:
        raise ForbiddenError("Secret home/propfan-webhook", "may not get secrets")

    monkeypatch.setattr(cluster, "get", forbidden)
    with pytest.raises(ConfigError, match=r"may not get secrets; 'propfan manifests' prints the rights"):
        async with served(cluster):
            pass
