from __future__ import annotations

import json
import pickle
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan._speedups import podphase, pods, pure_twin
from propfan.pluginmachinery.phases import LinkType, TaskLog
from propfan.pluginmachinery.podphase import RESULTS
from tests.unit._speedups import pod_strategies

PURE: Any = pure_twin("podphase")
TWINS = pytest.mark.parametrize("twin", [PURE, podphase], ids=["pure", "in use"])

LIMITS = (timedelta(minutes=3), "3m0s", timedelta(), "0s", timedelta(minutes=3), "3m0s")
LOGS = (
    TaskLog("https://x", "T"),
    TaskLog("https://editor", "Editor", link_type=LinkType.IDE),
    TaskLog("https://second", "Editor", link_type=LinkType.IDE),
)


def rules(twin: Any, pending: timedelta | None) -> Any:
    return twin.PodPhases(RESULTS, twin.Limits(*LIMITS, pending), str.upper)


@given(
    pod=pod_strategies.pods,
    pending=st.sampled_from([None, timedelta(seconds=60)]),
    logs=st.sampled_from([(), LOGS]),
    phase=st.integers(0, 10),
    version=st.integers(0, 2**32),
)
def test_twins_agree(pod: Any, pending: timedelta | None, logs: tuple[TaskLog, ...], phase: int, version: int) -> None:
    decoded = pods.decode(json.dumps(pod).encode(), environment=True)
    of_twins = []
    for twin in (PURE, podphase):
        info = rules(twin, pending).phase_info(decoded, logs, pod_strategies.NOW, phase, version, "before")
        of_twins.append(
            (
                info,
                repr(info),
                pickle.dumps(info),
                twin.primary_container_name(decoded),
                twin.is_ready(decoded),
                twin.has_debugger(decoded, 0),
                twin.is_terminal(decoded),
                twin.completion_time(decoded),
                repr(rules(twin, pending).pod_log_context(decoded)),
            )
        )
    assert of_twins[0] == of_twins[1]


@TWINS
@pytest.mark.parametrize(
    ("function", "arguments"), [("is_terminal", (None,)), ("completion_time", ("pod",)), ("has_debugger", (None, 0))]
)
def test_what_is_no_pod_is_refused(twin: Any, function: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(AttributeError):
        getattr(twin, function)(*arguments)


@TWINS
@pytest.mark.parametrize("index", [1, 7, 2**70])
def test_container_that_is_not_there_has_no_debugger(twin: Any, index: int) -> None:
    assert twin.has_debugger(pods.decode(b'{"spec":{"containers":[{"name":"a"}]}}'), index) is False


@TWINS
@pytest.mark.parametrize(
    ("rule", "more"), [("succeeded", ()), ("failed", ("main",)), ("pending", (pod_strategies.NOW,))]
)
def test_rule_needs_a_status(twin: Any, rule: str, more: tuple[Any, ...]) -> None:
    with pytest.raises(AttributeError, match="NoneType"):
        getattr(rules(twin, None), rule)(None, *more)
