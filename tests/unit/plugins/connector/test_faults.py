"""What connector tasks go through when connectors, networks and engines fail: each ends as it should, and says why."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import anyio
import grpc
import msgspec
import pytest

from propfan.engine import Engine
from propfan.engine.cluster import TASK_ACTION
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.task_state import Outcome
from tests.unit.engine.connector_service.certificates import Authority
from tests.unit.plugins.connector.rig import engine_at, quick_looks, run, submit, template
from tests.unit.plugins.connector.service import PHASES, Service, serving

__all__ = ["quick_looks"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
TWO_FAILURES = {"caching": {"resyncInterval": "5s", "maxSystemFailures": 1}}


async def waits(engine: Engine, key: TaskKey, text: str) -> str:
    """What the task waits for, once that has ``text`` in it."""
    while text not in (why := engine.waiting().get(key, "")):  # noqa: ASYNC110 - nobody tells of it
        await anyio.sleep(0.01)
    return why


# -- The connector is away -------------------------------------------------------------------------


async def test_creation_waits_for_a_connector_that_is_down_and_costs_no_attempt() -> None:
    service = Service()
    service.fail("CreateTask", UNAVAILABLE, "drained", times=2)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            why = await waits(engine, key, "drained")
            status = await engine.wait(key)
    assert (
        why
        == f"[ConnectorUnreachable] CreateTask of connector 'defaultConnector' ({server.endpoint}): UNAVAILABLE: drained"
    )
    assert (status.outcome, status.attempts, status.system_failures) == (Outcome.COMPLETED, 1, 0)
    assert len(service.created) == 1


async def test_looks_that_fail_for_a_while_are_forgiven() -> None:
    service = Service()
    service.fail("GetTask", UNAVAILABLE, times=1)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine)
    assert (status.outcome, service.calls["CreateTask"]) == (Outcome.COMPLETED, 1)


async def test_failures_count_only_in_a_row() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    web = {"caching": {"resyncInterval": "5s", "maxSystemFailures": 1}}
    async with serving(service) as server, engine_at(server.endpoint, webApi=web) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            for _ in range(3):
                service.fail("GetTask", UNAVAILABLE)
                looks = service.calls["GetTask"]
                await service.until(lambda least=looks + 2: service.calls["GetTask"] >= least)  # type: ignore[misc]
            assert key in engine._reconciler.live
            service.answer(phase=PHASES.SUCCEEDED)
            assert (await engine.wait(key)).outcome is Outcome.COMPLETED


async def test_budget_of_failed_looks_fails_the_task_and_deletes_its_job() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    async with serving(service) as server, engine_at(server.endpoint, webApi=TWO_FAILURES) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            await service.until(lambda: service.calls["GetTask"] > 0)
            service.fail("GetTask", grpc.StatusCode.INTERNAL, "no route to the vendor", times=2)
            status = await engine.wait(key)
            await engine.settled()
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert status.error.code == "AutoRefreshCacheFailed"
    assert status.error.message == (
        f"2 looks at the job in a row failed, the last: GetTask of connector 'defaultConnector' ({server.endpoint}): "
        "INTERNAL: no route to the vendor"
    )
    assert service.job.is_deleted


async def test_server_may_be_restarted_under_running_jobs() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(30):
            keys = [await submit(engine, run_name=f"r{number}") for number in range(5)]
            await service.until(lambda: len(service.looked_at) == 5)
            await server.stop()
            await server.start()
            service.answer(phase=PHASES.SUCCEEDED)
            for key in keys:
                assert (await engine.wait(key)).outcome is Outcome.COMPLETED
    assert len(service.asked) == 5


async def test_connector_that_wants_fewer_looks_is_asked_later_and_nothing_is_counted() -> None:
    service = Service()
    service.fail(
        "GetTask",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "slow down",
        trailing_metadata=(("grpc-retry-pushback-ms", "100"),),
    )
    web = {"caching": {"resyncInterval": "5s", "maxSystemFailures": 0}}
    async with (
        serving(service) as server,
        engine_at(server.endpoint, webApi=web, pollIntervals={"job": "1s"}) as engine,
    ):
        with anyio.fail_after(20):
            status = await run(engine)
    assert status.outcome is Outcome.COMPLETED


async def test_service_behind_a_connector_that_wants_to_be_left_alone_keeps_no_other_job_waiting() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    busy = (("grpc-retry-pushback-ms", "9000"),)
    service.fail("GetTask", grpc.StatusCode.UNAVAILABLE, "429 of the vendor", trailing_metadata=busy)
    web = {"caching": {"resyncInterval": "5s", "maxSystemFailures": 0}}
    async with (
        serving(service) as server,
        engine_at(server.endpoint, webApi=web, pollIntervals={"job": "1s"}) as engine,
    ):
        with anyio.fail_after(20):
            first = await submit(engine, run_name="first")
            await service.until(lambda: service.calls["GetTask"] == 1)
            second = await submit(engine, run_name="second")
            await service.until(lambda: len(service.looked_at) == 2)
            service.answer(phase=PHASES.SUCCEEDED)
            assert (await engine.wait(second)).outcome is Outcome.COMPLETED
        looks = [each.resource_meta for each in service.requests if hasattr(each, "resource_meta")]
        assert looks.count(looks[0]) == 1
        with anyio.fail_after(20):
            assert (await engine.wait(first)).outcome is Outcome.COMPLETED


async def test_task_type_of_a_connector_that_starts_late_waits_for_it() -> None:
    service = Service()
    async with serving(service) as server:
        await server.stop()
        async with engine_at(server.endpoint) as engine:
            with anyio.fail_after(30):
                key = await submit(engine)
                why = await waits(engine, key, "not heard of yet")
                await server.start()
                status = await engine.wait(key)
    assert "connector 'defaultConnector'" in why
    assert status.outcome is Outcome.COMPLETED


async def test_type_that_no_connector_offers_is_refused() -> None:
    async with serving() as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine, template("nobodys"))
    assert status.outcome is Outcome.NO_PLUGIN


async def test_delete_is_repeated_until_the_connector_answers() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    service.fail("DeleteTask", UNAVAILABLE, times=2)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            await service.until(lambda: service.calls["GetTask"] > 0)
            await engine.abort(key)
            await engine.settled()
    assert (service.job.is_deleted, service.calls["DeleteTask"]) == (True, 3)


async def test_job_that_can_not_be_deleted_does_not_hold_its_task_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("propfan.engine.reconcile.web_runner._DELETE_TRIES", 2)
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    service.fail("DeleteTask", grpc.StatusCode.INTERNAL, "no right to cancel", times=9)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            await service.until(lambda: service.calls["GetTask"] > 0)
            await engine.abort(key)
            await engine.settled()
    assert service.calls["DeleteTask"] == 3


# -- The answer of a creation is lost --------------------------------------------------------------


async def test_creation_whose_answer_comes_too_late_finds_its_job() -> None:
    service = Service()

    async def too_late(request: Any, context: Any) -> None:
        await anyio.sleep_forever()

    service.after["CreateTask"].append(too_late)
    deployment = {"timeouts": {"CreateTask": "300ms"}}
    async with serving(service) as server, engine_at(server.endpoint, deployment=deployment) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            why = await waits(engine, key, "no answer within 0.3 s")
            status = await engine.wait(key)
    assert "plugins.connector-service.defaultConnector.timeouts.CreateTask allows more" in why
    assert status.outcome is Outcome.COMPLETED
    assert (len(service.created), len(service.asked)) == (1, 2)


async def test_connector_that_never_answers_a_creation_fails_the_task_and_its_job_is_looked_for_and_deleted() -> None:
    service = Service()

    async def too_late(request: Any, context: Any) -> None:
        await anyio.sleep_forever()

    service.after["CreateTask"] += [too_late, too_late]
    deployment = {"timeouts": {"CreateTask": "200ms"}}
    async with (
        serving(service) as server,
        engine_at(server.endpoint, deployment=deployment, webApi=TWO_FAILURES) as engine,
    ):
        with anyio.fail_after(20):
            status = await run(engine)
            await engine.settled()
    assert status.error is not None
    assert status.error.code == "CreationUnanswered"
    assert "took the job 2 times and never answered" in status.error.message
    assert (len(service.created), service.job.is_deleted) == (1, True)


async def test_abort_while_a_creation_is_under_way_waits_for_its_job_and_deletes_it() -> None:
    service, go_on = Service(), anyio.Event()

    async def hold(request: Any, context: Any) -> None:
        await go_on.wait()

    service.after["CreateTask"].append(hold)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine)
            await service.until(lambda: bool(service.created))
            await engine.abort(key)
            assert (await engine.wait(key)).outcome is Outcome.ABORTED
            go_on.set()
            await engine.settled()
    assert (service.job.is_deleted, len(service.asked)) == (True, 1)


# -- The engine is restarted -----------------------------------------------------------------------


async def test_restarted_engine_goes_on_with_the_job_and_creates_none(tmp_path: Path) -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    async with serving(service) as server:
        with anyio.fail_after(30):
            async with engine_at(server.endpoint, tmp_path) as engine:
                keys = [await submit(engine, run_name=f"r{number}") for number in range(4)]
                await service.until(lambda: len(service.looked_at) == 4)
            service.answer(phase=PHASES.SUCCEEDED)
            async with engine_at(server.endpoint, tmp_path, pollIntervals={"job": "1s"}) as engine:
                for key in keys:
                    assert (await engine.wait(key)).outcome is Outcome.COMPLETED
    assert len(service.asked) == 4


async def test_engine_that_died_during_a_creation_repeats_it_under_the_same_key(tmp_path: Path) -> None:
    service = Service()

    async def too_late(request: Any, context: Any) -> None:
        await anyio.sleep_forever()

    service.after["CreateTask"].append(too_late)
    async with serving(service) as server:
        with anyio.fail_after(30):
            async with engine_at(server.endpoint, tmp_path) as engine:
                key = await submit(engine)
                await service.until(lambda: bool(service.created))
            async with engine_at(server.endpoint, tmp_path) as engine:
                assert (await engine.wait(key)).outcome is Outcome.COMPLETED
    assert (len(service.created), len(service.asked), len(set(service.asked))) == (1, 2, 1)


async def test_task_aborted_after_such_a_death_leaves_no_job(tmp_path: Path) -> None:
    service = Service()

    async def too_late(request: Any, context: Any) -> None:
        await anyio.sleep_forever()

    service.after["CreateTask"].append(too_late)
    async with serving(service) as server:
        with anyio.fail_after(30):
            async with engine_at(server.endpoint, tmp_path) as engine:
                key = await submit(engine)
                await service.until(lambda: bool(service.created))
                await engine.abort(key)
            async with engine_at(server.endpoint, tmp_path) as engine:
                assert (await engine.wait(key)).outcome is Outcome.ABORTED
                await engine.settled()
    assert (len(service.created), service.job.is_deleted) == (1, True)


async def test_state_that_can_not_be_read_fails_the_task_by_name(tmp_path: Path) -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    async with serving(service) as server:
        with anyio.fail_after(30):
            async with engine_at(server.endpoint, tmp_path) as engine:
                key = await submit(engine)
                await service.until(lambda: service.calls["GetTask"] > 1)
                seen = msgspec.json.decode((await engine.cluster.get(TASK_ACTION, *key)).raw)
                saved = msgspec.json.decode(base64.b64decode(seen["status"]["pluginState"]))
                saved["plugin_data"]["content"] = base64.b64encode(b"\xc1 no state").decode()
            async with engine_at("localhost:1", tmp_path) as engine:
                patch = {"status": {"pluginState": msgspec.json.encode(saved)}}
                await engine.cluster.patch(TASK_ACTION, *key, patch, subresource="status")
            async with engine_at(server.endpoint, tmp_path) as engine:
                status = await engine.wait(key)
    assert status.error is not None
    assert status.error.code == "CorruptedPluginState"
    assert f"the job of {key}" in status.error.message


# -- Secrets and certificates ----------------------------------------------------------------------

CUSTOM = {"secrets": {"token": "VENDOR_TOKEN", "unset": None}, "configs": {"region": "eu"}, "rows": 3}


def contents_of(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


async def test_connection_holds_the_secrets_as_they_are_and_state_only_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYTE_SECRET_VENDOR_TOKEN", "hunter2")
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    async with serving(service) as server, engine_at(server.endpoint, tmp_path) as engine:
        with anyio.fail_after(20):
            key = await submit(engine, template(custom=CUSTOM))
            await service.until(lambda: service.calls["GetTask"] > 1)
            await engine.abort(key)
            await engine.settled()
            raw = (await engine.cluster.get(TASK_ACTION, *key)).raw
    sent = [request.connection for request in service.requests if hasattr(request, "connection")]
    assert len(sent) >= 4  # created, looked at twice, deleted
    assert {(each.secrets["token"], len(each.secrets), each.configs["region"]) for each in sent} == {
        ("hunter2", 1, "eu")
    }
    state = base64.b64decode(msgspec.json.decode(raw)["status"]["pluginState"])
    data = base64.b64decode(msgspec.json.decode(state)["plugin_data"]["content"])
    assert all(b"hunter2" not in each for each in (raw, state, data, *contents_of(tmp_path)))
    assert b"VENDOR_TOKEN" in data


async def test_missing_secret_is_named() -> None:
    async with serving() as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine, template(custom=CUSTOM, retries=3))
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert status.error.code == "SecretNotFound"
    assert "secret 'VENDOR_TOKEN', which the task's connection needs as 'token'" in status.error.message
    assert "FLYTE_SECRET_VENDOR_TOKEN" in status.error.message
    assert server.service.calls["CreateTask"] == 0


async def test_secret_that_is_away_for_a_moment_ends_no_job_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYTE_SECRET_VENDOR_TOKEN", "hunter2")
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            key = await submit(engine, template(custom=CUSTOM))
            await service.until(lambda: service.calls["GetTask"] > 0)
            monkeypatch.delenv("FLYTE_SECRET_VENDOR_TOKEN")
            await waits(engine, key, "secret 'VENDOR_TOKEN'")
            monkeypatch.setenv("FLYTE_SECRET_VENDOR_TOKEN", "hunter3")
            service.answer(phase=PHASES.SUCCEEDED)
            assert (await engine.wait(key)).outcome is Outcome.COMPLETED
    assert service.requests[-1].connection.secrets["token"] == "hunter3"


async def test_certificate_that_is_not_trusted_fails_the_task_and_says_which_setting_helps() -> None:
    pair = Authority().pair("connector")
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    async with (
        serving(credentials=credentials) as server,
        engine_at(server.endpoint, deployment={"insecure": False}, supportedTaskTypes=["job"]) as engine,
    ):
        with anyio.fail_after(30):
            status = await run(engine)
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert status.error.code == "CertificateNotTrusted"
    assert "plugins.connector-service.defaultConnector.caSecret" in status.error.message


async def test_trusted_authority_and_auth_metadata_come_from_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    pair = authority.pair("connector")
    monkeypatch.setenv("FLYTE_SECRET_CA", authority.certificate.decode())
    monkeypatch.setenv("FLYTE_SECRET_BEARER", "Bearer 42")
    deployment = {
        "insecure": False,
        "caSecret": "CA",
        "metadata": {"x-tenant": "shop"},
        "metadataSecrets": {"authorization": "BEARER"},
    }
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    async with (
        serving(credentials=credentials) as server,
        engine_at(server.endpoint, deployment=deployment) as engine,
    ):
        with anyio.fail_after(30):
            status = await run(engine)
    assert status.outcome is Outcome.COMPLETED
    assert {(each["x-tenant"], each["authorization"]) for each in server.service.metadata} == {("shop", "Bearer 42")}


async def test_plain_server_behind_a_tls_setting_is_told() -> None:
    async with (
        serving() as server,
        engine_at(server.endpoint, deployment={"insecure": False}, supportedTaskTypes=["job"]) as engine,
    ):
        with anyio.fail_after(30):
            key = await submit(engine)
            why = await waits(engine, key, "insecure: true")
    assert "plugins.connector-service.defaultConnector.insecure: true" in why


# -- Quotas and pace -------------------------------------------------------------------------------


async def test_tasks_wait_for_quota_in_their_order_and_get_it_as_it_becomes_free() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    web = {"resourceQuotas": {"default": 1}}
    async with serving(service) as server, engine_at(server.endpoint, webApi=web) as engine:
        with anyio.fail_after(30):
            first = await submit(engine, run_name="r0")
            await service.until(lambda: service.calls["GetTask"] > 0)
            second = await submit(engine, run_name="r1")
            await waits(engine, second, "Quota for task has exceeded")
            third = await submit(engine, run_name="r2")
            why = await waits(engine, third, "Quota for task has exceeded")
            assert "1 of the 1 tokens of quota 'default' are taken (resourceQuotas)" in why
            assert len(service.created) == 1
            service.answer(phase=PHASES.SUCCEEDED)
            for key in (first, second, third):
                assert (await engine.wait(key)).outcome is Outcome.COMPLETED
    assert [key.split("-a0-")[0] for key in service.created] == ["r0", "r1", "r2"]


async def test_task_that_stops_waiting_leaves_its_place_to_the_next() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    web = {"resourceQuotas": {"default": 1}}
    async with serving(service) as server, engine_at(server.endpoint, webApi=web) as engine:
        with anyio.fail_after(30):
            first = await submit(engine, run_name="r0")
            await service.until(lambda: service.calls["GetTask"] > 0)
            waiting = [await submit(engine, run_name=f"r{number}") for number in (1, 2)]
            for key in waiting:
                await waits(engine, key, "Quota for task has exceeded")
            await engine.abort(waiting[0])
            assert (await engine.wait(waiting[0])).outcome is Outcome.ABORTED
            service.answer(phase=PHASES.SUCCEEDED)
            for key in (first, waiting[1]):
                assert (await engine.wait(key)).outcome is Outcome.COMPLETED
    assert len(service.created) == 2


async def test_restarted_engine_counts_the_quota_that_is_held(tmp_path: Path) -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    web = {"resourceQuotas": {"default": 1}}
    async with serving(service) as server:
        with anyio.fail_after(30):
            async with engine_at(server.endpoint, tmp_path, webApi=web) as engine:
                first = await submit(engine, run_name="r0")
                await service.until(lambda: service.calls["GetTask"] > 0)
                second = await submit(engine, run_name="r1")
                await waits(engine, second, "Quota for task has exceeded")
            async with engine_at(server.endpoint, tmp_path, webApi=web, pollIntervals={"job": "1s"}) as engine:
                await waits(engine, second, "Quota for task has exceeded")
                assert len(service.created) == 1
                service.answer(phase=PHASES.SUCCEEDED)
                for key in (first, second):
                    assert (await engine.wait(key)).outcome is Outcome.COMPLETED
