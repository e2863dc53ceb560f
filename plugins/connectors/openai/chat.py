"""Chat completions: a message in, the model's answer out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from propfan.pluginmachinery.connector import (
    ConnectorSetup,
    RemotePhase,
    Resource,
    SyncConnector,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.openai.account import Accounts

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion


class ChatSpec(msgspec.Struct, frozen=True):
    """``custom`` of a task of type ``chatgpt``.

    Attributes:
        chatgpt_config: Members of the request beside the message; ``model`` must be among them. Messages in it go
            before the task's own.
    """

    chatgpt_config: dict[str, Any]
    openai_organization: str | None = None


class ChatConnector(SyncConnector):
    """Asks ``/chat/completions``, and answers with the text of the first choice as ``o0``.

    A call that is repeated is charged again, and may be answered otherwise: the API keeps no answers. It is sent
    with an ``Idempotency-Key``, which the vendor's library knows and the API does not promise to heed.
    """

    name = "OpenAI Chat Connector"
    categories = (TaskCategory("chatgpt"),)

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._accounts: Final = Accounts(self)

    async def do(self, task: TaskRequest) -> Resource:
        spec = task.custom(ChatSpec)
        request = _request(spec.chatgpt_config, task)
        model, messages = request.pop("model"), request.pop("messages")
        account = await self._accounts.open(task.connection, spec.openai_organization or "")
        with account.asking(f"complete a chat of model '{model}' (custom.chatgpt_config of '{task.template.id.name}')"):
            completion = await account.client.chat.completions.create(
                model=model,
                messages=messages,
                extra_body=request,  # whatever the API knows by now
                extra_headers={"Idempotency-Key": task.unique_name()},
            )
        return _resource(completion, model)

    async def close(self) -> None:
        await self._accounts.close()


def _request(config: Mapping[str, Any], task: TaskRequest) -> dict[str, Any]:
    """The request's members.

    Raises:
        BadTaskSpecificationError: it can not be made of the task.
    """

    def refused(field: str, rule: str) -> BadTaskSpecificationError:
        return BadTaskSpecificationError(f"task '{task.template.id.name}' (chatgpt): {field} {rule}")

    model, before, message = config.get("model"), config.get("messages") or [], task.inputs().get("message")
    if not isinstance(model, str) or not model:
        raise refused("custom.chatgpt_config.model", "must name a model, e.g. gpt-4o-mini")
    if not isinstance(before, list):
        raise refused("custom.chatgpt_config.messages", "must be a list of messages, which go before the task's own")
    if config.get("stream"):
        raise refused("custom.chatgpt_config.stream", "must be left out: the answer is one text")
    if not isinstance(message, str):
        raise refused("input 'message'", "must be a text")
    return {**config, "messages": [*before, {"role": "user", "content": message}]}


def _resource(completion: ChatCompletion, model: str) -> Resource:
    """The first choice, if it is a text."""
    choices = getattr(completion, "choices", None)  # what speaks OpenAI's language is not always OpenAI
    if not choices or getattr(choices[0], "message", None) is None:
        return Resource(RemotePhase.RETRYABLE_FAILED, f"model '{model}' answered without a choice")
    choice, usage = choices[0], completion.usage
    info = {
        "id": completion.id,
        "model": completion.model,
        "finish_reason": choice.finish_reason,
        "usage": usage.to_dict() if usage is not None else {},
    }
    content, refusal = choice.message.content, choice.message.refusal
    if content:
        cut = "the answer is cut off: it reached the limit of tokens" if choice.finish_reason == "length" else ""
        return Resource(RemotePhase.SUCCEEDED, cut, outputs={"o0": content}, custom_info=info)
    if refusal:
        problem = f"refused: {refusal}"
    elif choice.finish_reason == "length":
        problem = "used up its tokens before it answered: raise max_completion_tokens in custom.chatgpt_config"
    elif choice.finish_reason == "content_filter":
        problem = "gave no answer: the content filter held it back"
    elif choice.message.tool_calls:
        problem = "called a tool, which nobody runs here: leave tools out of custom.chatgpt_config"
    else:
        return Resource(RemotePhase.SUCCEEDED, "the answer is empty", outputs={"o0": ""}, custom_info=info)
    return Resource(RemotePhase.FAILED, f"model '{model}' {problem}", custom_info=info)
