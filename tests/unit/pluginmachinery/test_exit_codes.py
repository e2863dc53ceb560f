"""Whose failure an exit code is."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from propfan.pluginmachinery import exit_codes, podphase
from propfan.pluginmachinery.errors import ENGINE_STOPPED
from propfan.pluginmachinery.phases import ErrorKind, Phase, PhaseInfo, retryable_failure, system_retryable_failure

NOW = datetime(2026, 1, 1, tzinfo=UTC)
INTERRUPTED = system_retryable_failure("Interrupted", "terminated with exit code", NOW)


def pod(*codes: int, reason: str = "", container_reason: str = "Error") -> podphase.ObservedPod:
    statuses = [
        {"name": f"c{n}", "state": {"terminated": {"exitCode": code, "reason": container_reason}}}
        for n, code in enumerate(codes)
    ]
    status = {"phase": "Failed", "reason": reason, "containerStatuses": statuses}
    return podphase.decode_pod(msgspec.json.encode({"metadata": {"name": "p"}, "status": status}), "pod p")


def charged_to(info: PhaseInfo) -> tuple[Phase, ErrorKind | None, str]:
    return info.phase, info.error.kind if info.error else None, info.error.code if info.error else ""


@pytest.mark.parametrize("code", [1, 3, 127, 139])
def test_a_code_of_its_own_is_the_users(code: int) -> None:
    info = exit_codes.charge(INTERRUPTED, pod(0, code))
    assert charged_to(info) == (Phase.RETRYABLE_FAILURE, ErrorKind.USER, "Error")
    assert info.error is not None
    assert INTERRUPTED.error is not None
    assert info.error.message == INTERRUPTED.error.message


@pytest.mark.parametrize("codes", [(137,), (143,), (247,), (1, 137), (0,), ()])
def test_a_container_that_was_stopped_is_the_systems(codes: tuple[int, ...]) -> None:
    assert exit_codes.charge(INTERRUPTED, pod(*codes)) is INTERRUPTED


def test_a_reason_of_kubernetes_stands() -> None:
    assert exit_codes.charge(INTERRUPTED, pod(1, reason="NodeShutdown")) is INTERRUPTED


def test_other_verdicts_stand() -> None:
    oom = retryable_failure("OOMKilled", "out of memory", NOW)
    assert exit_codes.charge(oom, pod(1)) is oom


def test_what_the_engine_stopped_says_so() -> None:
    info = exit_codes.charge(INTERRUPTED, pod(143, reason=ENGINE_STOPPED))
    assert charged_to(info) == (Phase.RETRYABLE_FAILURE, ErrorKind.SYSTEM, ENGINE_STOPPED)
