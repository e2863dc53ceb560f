"""What the service's faults mean, for each of the connectors."""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import pytest

from propfan.pluginmachinery.connector import AsyncConnector, Connector, ConnectorSetup, SyncConnector, TaskRequest
from propfan.pluginmachinery.errors import (
    BadTaskSpecificationError,
    ConfigError,
    PermanentError,
    TaskError,
    TransientError,
)
from propfan.pluginmachinery.testing import InMemoryStore, connector_setup
from propfan.plugins.connectors.http_answers import NOT_ALLOWED
from propfan.plugins.connectors.openai import BatchConnector, ChatConnector, DownloadConnector, UploadConnector
from propfan.plugins.connectors.openai.account import QUOTA_USED_UP
from tests.unit.plugins.connectors.openai import api_server
from tests.unit.plugins.connectors.openai.api_server import ApiServer, Fault
from tests.unit.plugins.connectors.openai.rig import (
    REQUESTS_URI,
    batch_task,
    chat_task,
    download_task,
    finished,
    request_lines,
    setup_for,
    upload_task,
)

pytestmark = pytest.mark.anyio


class _Case:
    """A connector, a task for it, and the request that does the work."""

    def __init__(self, kind: type[Connector], task: TaskRequest, request: str) -> None:
        self.kind = kind
        self.task = task
        self.request = request

    async def run(self, setup: ConnectorSetup) -> None:
        """Raises what the caller would be told."""
        connector = self.kind(setup)
        try:
            if isinstance(connector, SyncConnector):
                await connector.do(self.task)  # type: ignore[misc]
            else:
                assert isinstance(connector, AsyncConnector)
                resource = await finished(connector, await connector.create(self.task))
                if resource.phase.name == "FAILED":
                    raise PermanentError("", resource.message)
        finally:
            await connector.close()


CASES = {
    "chat": _Case(ChatConnector, chat_task(), "POST /v1/chat/completions"),
    "batch": _Case(BatchConnector, batch_task(), "POST /v1/batches"),
    "looking for a batch": _Case(BatchConnector, batch_task(), "GET /v1/batches"),
    "looking at a batch": _Case(BatchConnector, batch_task(), "GET /v1/batches/"),
    "upload": _Case(UploadConnector, upload_task(), "POST /v1/files"),
    "looking for a file": _Case(UploadConnector, upload_task(), "GET /v1/files"),
    "download": _Case(DownloadConnector, download_task({"output_file_id": "file-0001"}), "GET /v1/files/file-0001"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> _Case:
    return CASES[request.param]


@pytest.fixture
def setup(api: ApiServer) -> ConnectorSetup:
    api.add_file("requests.jsonl", request_lines(["echo"]))
    return setup_for(api, store=InMemoryStore({REQUESTS_URI: request_lines(["echo"])}))


async def test_each_of_them_works_without_a_fault(case: _Case, setup: ConnectorSetup) -> None:
    await case.run(setup)


@pytest.mark.parametrize(
    ("status", "headers", "retry_after_s"),
    [
        (429, {"Retry-After": "17"}, 17.0),
        (429, {}, 0.0),
        (500, {}, 0.0),
        (503, {"Retry-After": "Mon, 01 Jan 2024 00:00:00 GMT"}, 0.0),
        (408, {}, 0.0),
        (409, {}, 0.0),
    ],
)
async def test_a_busy_service_is_asked_again_when_it_says(
    api: ApiServer, case: _Case, setup: ConnectorSetup, status: int, headers: Mapping[str, str], retry_after_s: float
) -> None:
    api.faults.append(Fault(case.request, status, code="rate_limit_exceeded", headers=headers))
    with pytest.raises(TransientError, match=f"status {status} of {api.url}") as caught:
        await case.run(setup)
    assert caught.value.retry_after_s == retry_after_s
    assert api.faults == []


async def test_an_account_without_money_is_not_asked_again(api: ApiServer, case: _Case, setup: ConnectorSetup) -> None:
    api.faults.append(Fault(case.request, 429, code="insufficient_quota", message="You exceeded your current quota."))
    with pytest.raises(PermanentError, match=r"You exceeded your current quota.*add credit") as caught:
        await case.run(setup)
    assert QUOTA_USED_UP in str(caught.value)


async def test_a_wrong_key_is_told_by_its_name_and_not_even_in_part(
    api: ApiServer, case: _Case, setup: ConnectorSetup
) -> None:
    wrong = "sk-wrong-0123456789"
    setup = setup_for(api, store=setup.store, secrets={"FLYTE_OPENAI_API_KEY": wrong})
    with pytest.raises(
        PermanentError, match=r"401, invalid_api_key.*correct the secret FLYTE_OPENAI_API_KEY"
    ) as caught:
        await case.run(setup)
    assert "sk-wrong" not in str(caught.value)
    assert wrong[-4:] not in str(caught.value)


async def test_what_the_key_may_not_do_names_the_secret(api: ApiServer, case: _Case, setup: ConnectorSetup) -> None:
    api.faults.append(Fault(case.request, 403, message="Missing scopes: api.files.write"))
    with pytest.raises(PermanentError, match=r"Missing scopes.*\(the key is the secret FLYTE_OPENAI_API_KEY\)"):
        await case.run(setup)


async def test_a_missing_secret_is_named_with_what_would_serve_in_its_place(
    api: ApiServer, case: _Case, setup: ConnectorSetup
) -> None:
    with pytest.raises(PermanentError, match="FLYTE_OPENAI_API_KEY"):
        await case.run(setup_for(api, secrets={}))
    assert api.calls == []


@pytest.mark.parametrize("key", ["", "sk with blanks", "sk-line\nX-Header: 1", "sk-\u00fc"])
async def test_a_secret_that_is_no_key_is_refused_and_not_shown(
    api: ApiServer, case: _Case, setup: ConnectorSetup, key: str
) -> None:
    with pytest.raises(PermanentError, match="the secret FLYTE_OPENAI_API_KEY is no key") as caught:
        await case.run(setup_for(api, secrets={"FLYTE_OPENAI_API_KEY": key}))
    assert caught.value.code == NOT_ALLOWED
    assert not key or key not in str(caught.value)


async def test_a_key_that_the_service_repeats_is_struck_out(api: ApiServer, case: _Case, setup: ConnectorSetup) -> None:
    api.faults.append(Fault(case.request, 400, message=f"What is {api_server.KEY}?"))
    with pytest.raises(TaskError, match=r"What is \*\*\*\?"):
        await case.run(setup)


async def test_the_tasks_own_key_comes_before_the_services(api: ApiServer, setup: ConnectorSetup) -> None:
    connector = ChatConnector(setup_for(api, secrets={"FLYTE_OPENAI_API_KEY": "sk-other"}))
    await connector.do(chat_task(secrets={"FLYTE_OPENAI_API_KEY": api_server.KEY}))
    await connector.close()


async def test_another_organization_is_refused_like_a_wrong_key(api: ApiServer, setup: ConnectorSetup) -> None:
    connector = ChatConnector(setup)
    task = chat_task()
    task.template.custom.update({"openai_organization": "org-other"})
    with pytest.raises(PermanentError, match=r"401, invalid_organization.*or the organization"):
        await connector.do(task)
    await connector.close()


async def test_a_service_that_is_down_is_asked_again(case: _Case, setup: ConnectorSetup) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
    secrets = {"FLYTE_OPENAI_API_KEY": "sk-1"}
    down = connector_setup(
        secrets=secrets, store=setup.store, sections={"openai": {"base-url": f"http://127.0.0.1:{port}/v1"}}
    )
    with pytest.raises(TransientError, match=f"no answer of http://127.0.0.1:{port}/v1/"):
        await case.run(down)


async def test_a_service_that_does_not_answer_in_time_is_asked_again(api: ApiServer, setup: ConnectorSetup) -> None:
    api.takes_uploads = anyio.Event()
    quick = setup_for(api, store=setup.store, section={"timeout-s": 0.3})
    with pytest.raises(TransientError, match="no answer of"):
        await CASES["upload"].run(quick)
    api.takes_uploads.set()


JSON_CASES = [name for name in CASES if name != "download"]  # which is a file, and no JSON


@pytest.mark.parametrize("name", JSON_CASES)
async def test_a_page_of_a_web_server_is_no_answer(api: ApiServer, setup: ConnectorSetup, name: str) -> None:
    api.faults.append(Fault(CASES[name].request, 200, text="<html>Welcome</html>"))
    with pytest.raises(
        TransientError, match=r"^openai: \w.*answered with something else than OpenAI's API.*openai\.base-url"
    ):
        await CASES[name].run(setup)


@pytest.mark.parametrize("name", JSON_CASES)
async def test_an_answer_that_is_called_json_and_is_none_is_no_answer(
    api: ApiServer, setup: ConnectorSetup, name: str
) -> None:
    api.faults.append(Fault(CASES[name].request, 200, text='{"id": ', content_type="application/json"))
    with pytest.raises(TransientError, match=r"^openai: \w.*: the answer of http://\S+ can not be read"):
        await CASES[name].run(setup)


@pytest.mark.parametrize("name", JSON_CASES)
async def test_an_answer_that_breaks_off_is_no_answer(api: ApiServer, setup: ConnectorSetup, name: str) -> None:
    case = CASES[name]
    api.faults.append(Fault(case.request, is_cut=True))
    with pytest.raises(TransientError, match="no answer of"):
        await case.run(setup)


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize("name", ["looking for a batch", "looking for a file"])
async def test_a_service_without_lists_is_taken_to_have_nothing_yet(
    api: ApiServer, setup: ConnectorSetup, name: str, status: int
) -> None:
    api.faults.append(Fault(CASES[name].request, status))
    await CASES[name].run(setup)
    assert api.faults == []


async def test_nothing_is_looked_for_where_the_settings_say_so(api: ApiServer, setup: ConnectorSetup) -> None:
    blind = setup_for(api, store=setup.store, section={"search-batches": 0, "search-files": 0})
    await CASES["batch"].run(blind)
    await CASES["upload"].run(blind)
    assert not {"GET /v1/batches", "GET /v1/files"} & set(api.calls)


async def test_a_wrong_setting_is_refused_when_the_connector_is_made(api: ApiServer) -> None:
    for section in ({"timeout-s": 0}, {"base_url": "x"}):
        with pytest.raises(ConfigError, match=r"connectors\.openai"):
            ChatConnector(setup_for(api, section=section))


async def test_custom_of_another_shape_is_refused_by_its_field(setup: ConnectorSetup) -> None:
    connector, task = ChatConnector(setup), chat_task()
    task.template.custom.Clear()
    with pytest.raises(BadTaskSpecificationError, match="chatgpt_config"):
        await connector.do(task)
    await connector.close()
