from __future__ import annotations

import msgspec
import pytest

from propfan.pluginmachinery.connector import AsyncConnector, Connection, HttpResponse, ResourceMeta, TaskCategory
from propfan.pluginmachinery.errors import ConfigError, DecodeError, PermanentError
from propfan.pluginmachinery.testing import connector_setup

pytestmark = pytest.mark.anyio


class Answer(msgspec.Struct):
    id: int


class Section(msgspec.Struct, frozen=True, rename="kebab"):
    base_url: str = "http://default"


class Meta(ResourceMeta, frozen=True):
    id: str


class Plain(AsyncConnector[Meta]):
    name = "Plain"
    categories = (TaskCategory("plain"),)
    meta_type = Meta

    def create(self, task: object) -> Meta:
        raise NotImplementedError

    def get(self, meta: Meta, job: object) -> None:  # type: ignore[override]
        raise NotImplementedError

    def delete(self, meta: Meta, job: object) -> None:
        raise NotImplementedError


def test_an_answer_is_read_as_a_shape() -> None:
    assert HttpResponse(200, {}, b'{"id": 7}').json(Answer) == Answer(7)
    with pytest.raises(DecodeError, match=r"answer of http://x \(status 502\): JSON is malformed"):
        HttpResponse(502, {}, b"<html>", "http://x").json(Answer)
    with pytest.raises(DecodeError, match=r"missing required field `id`"):
        HttpResponse(200, {}, b"{}").json(Answer)


def test_any_body_is_a_text() -> None:
    assert HttpResponse(200, {}, b"caf\xc3\xa9 \xff").text() == "café \ufffd"


@pytest.mark.parametrize(("status", "is_success"), [(199, False), (200, True), (299, True), (300, False), (503, False)])
def test_which_statuses_are_a_success(status: int, is_success: bool) -> None:  # noqa: FBT001
    assert HttpResponse(status, {}, b"").is_success is is_success


def test_a_section_is_read_with_its_path_in_errors() -> None:
    setup = connector_setup(sections={"plain": {"base-url": "http://mine"}, "bad": {"base-uri": "x"}})
    assert setup.section("plain", Section).base_url == "http://mine"
    assert setup.section("absent", Section).base_url == "http://default"
    with pytest.raises(ConfigError, match=r"connectors\.bad\.base-uri"):
        setup.section("bad", Section)


async def test_a_secret_of_the_task_comes_before_one_of_the_service() -> None:
    connector = Plain(connector_setup(secrets={"token": "service", "group/key": "grouped"}))
    assert await connector.get_secret("token", Connection({"token": "task"})) == "task"
    assert await connector.get_secret("token", Connection({"other": "task"})) == "service"
    assert await connector.get_secret("token") == "service"
    assert await connector.get_secret("key", group="group") == "grouped"
    with pytest.raises(PermanentError, match="secret 'absent' is not among"):
        await connector.get_secret("absent", Connection())
