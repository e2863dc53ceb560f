"""TLS in both directions, with certificates that are trusted and such that are not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import grpc
import msgspec
import pytest
import structlog
from flyteidl2.connector import connector_pb2

from propfan.engine.connector_service import asking, server
from propfan.engine.connector_service.config import TlsConfig
from propfan.pluginmachinery.errors import ConfigError, UnavailableError
from tests.unit.engine.connector_service.certificates import Authority, Pair
from tests.unit.engine.connector_service.rig import CONFIG, Client, Jobs, offers_of

pytestmark = pytest.mark.anyio

AUTHORITY = Authority()
STRANGER = Authority("stranger")


def tls(folder: Path, client_ca: bytes = b"") -> TlsConfig:
    certificate, key = AUTHORITY.pair("service").write(folder, "service")
    if client_ca:
        (folder / "clients.pem").write_bytes(client_ca)
    return TlsConfig(certificate, key, str(folder / "clients.pem") if client_ca else "")


async def names(address: str, ca: bytes, pair: Pair | None = None) -> Sequence[str]:
    credentials = grpc.ssl_channel_credentials(ca, *((pair.key, pair.certificate) if pair else ()))
    async with grpc.aio.secure_channel(address, credentials) as channel:
        answer = await Client(channel).connectors.ListConnectors(connector_pb2.ListConnectorsRequest(), timeout=10)
        return [each.name for each in answer.connectors]


async def test_who_trusts_the_certificate_is_served(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, tls=tls(tmp_path))
    async with server.opened(config, {}, offers_of(Jobs)) as service:
        assert await names(service.address, AUTHORITY.certificate) == ["Jobs"]
        assert await names(service.address, AUTHORITY.certificate, STRANGER.pair("anyone")) == ["Jobs"]


async def test_who_does_not_trust_the_certificate_hears_nothing(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, tls=tls(tmp_path))
    (tmp_path / "stranger.pem").write_bytes(STRANGER.certificate)
    async with server.opened(config, {}, offers_of(Jobs)) as service:
        with pytest.raises(grpc.aio.AioRpcError, match=r"(?i)certificate") as caught:
            await names(service.address, STRANGER.certificate)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(UnavailableError, match=rf"connector service {service.address}: UNAVAILABLE"):
            await asking.list_connectors(service.address, tmp_path / "stranger.pem")
        async with grpc.aio.insecure_channel(service.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await Client(channel).connectors.ListConnectors(connector_pb2.ListConnectorsRequest(), timeout=10)


async def test_only_clients_of_the_named_authority_are_served(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, tls=tls(tmp_path, AUTHORITY.certificate))
    async with server.opened(config, {}, offers_of(Jobs)) as service:
        assert await names(service.address, AUTHORITY.certificate, AUTHORITY.pair("engine")) == ["Jobs"]
        for pair in (None, STRANGER.pair("engine")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await names(service.address, AUTHORITY.certificate, pair)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_renewed_certificate_is_used_and_a_broken_one_is_not(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, tls=tls(tmp_path))
    with structlog.testing.capture_logs() as logs:
        async with server.opened(config, {}, offers_of(Jobs)) as service:
            spoil(config.tls.key)
            assert await names(service.address, AUTHORITY.certificate) == ["Jobs"]
            replaced(STRANGER.pair("service"), tmp_path)
            assert await names(service.address, STRANGER.certificate) == ["Jobs"]
            with pytest.raises(grpc.aio.AioRpcError):
                await names(service.address, AUTHORITY.certificate)
    events = [entry["event"] for entry in logs]
    assert "changed TLS files are not used" in events
    assert "TLS files are read anew" in events


def spoil(path: str, content: bytes = b"nonsense") -> None:
    Path(path).write_bytes(content)


def replaced(pair: Pair, folder: Path) -> None:
    """As a volume of secrets does it: new files in the place of the old."""
    (folder / "new").mkdir()
    for path in map(Path, pair.write(folder / "new", "service")):
        os.replace(path, folder / path.name)  # noqa: PTH105


@pytest.mark.parametrize("spoilt", ["certificate", "key", "client_ca"])
async def test_files_that_are_no_pair_are_refused_before_anything_is_served(tmp_path: Path, spoilt: str) -> None:
    files = tls(tmp_path, AUTHORITY.certificate)
    spoil(getattr(files, spoilt))
    with pytest.raises(ConfigError, match=r"tls: .*service\.pem, .*: no certificate with its key in PEM"):
        await opened(files)


async def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    files = tls(tmp_path)
    spoil(files.key, AUTHORITY.pair("other").key)
    with pytest.raises(ConfigError, match=r"no certificate with its key in PEM: .*MISMATCH"):
        await opened(files)


async def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tls: /nowhere/c\.pem can not be read: No such file"):
        await opened(TlsConfig("/nowhere/c.pem", "/nowhere/k.pem"))
    with pytest.raises(ConfigError, match=r"--ca: /nowhere/ca\.pem can not be read"):
        await asking.list_connectors("127.0.0.1:1", Path("/nowhere/ca.pem"))


async def opened(files: TlsConfig) -> None:
    async with server.opened(msgspec.structs.replace(CONFIG, tls=files), {}, offers_of(Jobs)):
        pytest.fail("it serves")


async def test_an_open_port_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with structlog.testing.capture_logs() as logs:
        async with server.opened(msgspec.structs.replace(CONFIG, host="0.0.0.0"), {}, offers_of(Jobs)):
            pass
    assert any("anyone who reaches the port can run tasks" in entry["event"] for entry in logs)


async def test_an_address_that_is_taken_is_told() -> None:
    async with server.opened(CONFIG, {}, offers_of(Jobs)) as service:
        port = int(service.address.rsplit(":", 1)[1])
        with pytest.raises(ConfigError, match=rf"port: can not listen on 127\.0\.0\.1:{port}"):
            async with server.opened(msgspec.structs.replace(CONFIG, port=port), {}, offers_of(Jobs)):
                pytest.fail("it serves")
        with pytest.raises(ConfigError, match=rf"metrics-port: can not listen on 127\.0\.0\.1:{port}: Address"):
            async with server.opened(msgspec.structs.replace(CONFIG, metrics_port=port), {}, offers_of(Jobs)):
                pytest.fail("it serves")
