"""What a daemon answers to those who look at it."""

from __future__ import annotations

import aiohttp
import pytest

from propfan.engine.daemon import probes
from propfan.engine.daemon.metrics import CONTROLLER, Metrics, gauge
from propfan.pluginmachinery.errors import ConfigError

pytestmark = pytest.mark.anyio


async def ask(address: str, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as answer:
        return answer.status, await answer.text()


async def test_health_readiness_and_metrics() -> None:
    metrics, readiness = Metrics(), probes.Readiness()
    async with probes.serve("127.0.0.1:0", metrics.registry, readiness) as address:
        assert await ask(address, "/healthz") == (200, "ok\n")
        assert await ask(address, "/readyz") == (503, "starting\n")
        readiness.why_not = lambda: ""
        assert await ask(address, "/readyz") == (200, "ok\n")
        metrics.rounds.labels(CONTROLLER, "success").inc()
        metrics.observe(lambda: [gauge("workqueue_depth", "Waiting", {(CONTROLLER,): 3}, ["name"])])
        status, text = await ask(address, "/metrics")
        assert status == 200
        assert 'controller_runtime_reconcile_total{controller="taskaction",result="success"} 1.0' in text
        assert 'workqueue_depth{name="taskaction"} 3.0' in text
        assert "process_resident_memory_bytes" in text
        assert "_created" not in text
        assert (await ask(address, "/other"))[0] == 404


async def test_two_daemons_in_one_process_have_their_own_numbers() -> None:
    first, second = Metrics(), Metrics()
    first.terms.inc()
    assert first.registry.get_sample_value("propfan_terms_total") == 1
    assert second.registry.get_sample_value("propfan_terms_total") == 0


async def test_an_address_that_is_taken_is_refused_by_its_setting() -> None:
    metrics = Metrics()
    async with probes.serve("127.0.0.1:0", metrics.registry, probes.Readiness()) as address:
        with pytest.raises(ConfigError, match=r"serving\.metrics-address"):
            async with probes.serve(address, metrics.registry, probes.Readiness()):
                pass


@pytest.mark.parametrize("address", ["", "host", "host:", "host:http", ":65536"])
def test_what_is_no_address_is_refused_by_its_setting(address: str) -> None:
    with pytest.raises(ConfigError, match=r"serving\.metrics-address"):
        probes.split(address)


@pytest.mark.parametrize(("address", "parts"), [(":80", ("", 80)), ("[::1]:80", ("::1", 80)), ("h:0", ("h", 0))])
def test_forms_of_an_address(address: str, parts: tuple[str, int]) -> None:
    assert probes.split(address) == parts
