from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from propfan.pluginmachinery.connector import RemotePhase
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.testing import connector_task, literal_map
from propfan.plugins.connectors.openai import ChatConnector
from tests.unit.plugins.connectors.openai.api_server import ORGANIZATION, ApiServer
from tests.unit.plugins.connectors.openai.rig import chat_task, chat_template, setup_for

pytestmark = pytest.mark.anyio


@pytest.fixture
async def chat(api: ApiServer) -> AsyncIterator[ChatConnector]:
    connector = ChatConnector(setup_for(api))
    yield connector
    await connector.close()


async def test_the_whole_configuration_is_sent_as_numbers_are_meant(api: ApiServer, chat: ChatConnector) -> None:
    system = {"role": "system", "content": "Be brief."}
    resource = await chat.do(chat_task("hi", temperature=0.5, max_completion_tokens=100, messages=[system]))
    assert resource.outputs == {"o0": "echo: Be brief. hi"}
    messages = [system, {"role": "user", "content": "hi"}]
    assert api.bodies == [{"model": "echo", "temperature": 0.5, "max_completion_tokens": 100, "messages": messages}]
    assert type(api.bodies[0]["max_completion_tokens"]) is int


async def test_the_organization_and_an_idempotency_key_are_sent(api: ApiServer, chat: ChatConnector) -> None:
    task = chat_task()
    await chat.do(task)
    assert api.headers["OpenAI-Organization"] == ORGANIZATION
    assert api.headers["Idempotency-Key"] == task.unique_name()


async def test_the_answer_comes_with_its_model_and_tokens(chat: ChatConnector) -> None:
    resource = await chat.do(chat_task())
    assert resource.custom_info is not None
    assert resource.custom_info["model"] == "echo"
    assert resource.custom_info["usage"]["total_tokens"] == 5


async def test_an_answer_that_is_cut_off_is_one_and_says_so(chat: ChatConnector) -> None:
    resource = await chat.do(chat_task(model="long"))
    assert resource.outputs == {"o0": "And so"}
    assert "cut off" in resource.message


@pytest.mark.parametrize(
    ("model", "phase", "problem"),
    [
        ("refuses", RemotePhase.FAILED, "model 'refuses' refused: I can not do that."),
        ("thinks", RemotePhase.FAILED, "raise max_completion_tokens"),
        ("filtered", RemotePhase.FAILED, "content filter"),
        ("calls-tools", RemotePhase.FAILED, "leave tools out of custom.chatgpt_config"),
        ("silent", RemotePhase.RETRYABLE_FAILED, "answered without a choice"),
    ],
)
async def test_an_answer_without_text_fails_with_the_reason(
    chat: ChatConnector, model: str, phase: RemotePhase, problem: str
) -> None:
    resource = await chat.do(chat_task(model=model))
    assert resource.phase is phase
    assert problem in resource.message


async def test_a_model_that_does_not_exist_is_named(chat: ChatConnector) -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"chat of model 'gpt-0' .*The model 'gpt-0' does not exist"):
        await chat.do(chat_task(model="gpt-0"))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"model": ""}, r"custom\.chatgpt_config\.model must name a model"),
        ({"model": 4}, r"custom\.chatgpt_config\.model must name a model"),
        ({"messages": "hi"}, r"custom\.chatgpt_config\.messages must be a list"),
        ({"stream": True}, r"custom\.chatgpt_config\.stream must be left out"),
        ({"temprature": 1}, "Unrecognized request argument supplied: temprature"),
    ],
)
async def test_a_configuration_that_can_not_work_is_refused_by_its_field(
    chat: ChatConnector, config: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadTaskSpecificationError, match=problem):
        await chat.do(chat_task(**config))


async def test_a_task_without_a_message_is_refused(chat: ChatConnector) -> None:
    for inputs in (literal_map(), literal_map(message=1)):
        with pytest.raises(BadTaskSpecificationError, match="input 'message' must be a text"):
            await chat.do(connector_task(chat_template(), inputs))
