from __future__ import annotations

from io import StringIO

import msgspec
import pytest
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import conversion, harness

FAST = harness.Measurement(1000.0, 900.0, 950.0, 1100.0, 15, 10, 64)


def test_measurement_orders_its_times_and_sees_what_is_held() -> None:
    found = harness.measure(lambda: bytearray(100_000), quick=True)
    assert 0 < found.least_ns <= found.low_ns <= found.median_ns <= found.high_ns
    assert found.allocated_bytes >= 100_000


def test_targets_are_judged_by_the_tenth_percentile() -> None:
    assert harness.at_most("a", 1.0, FAST, "goal", "note") == harness.Target(
        "a", "<= 1.0 us (goal)", "0.95 us (median 1.00, least 0.90)", is_met=True
    )
    missed = harness.at_most("a", 0.94, FAST, "goal", "note")
    assert (missed.is_met, missed.note) == (False, "note")
    assert harness.at_least("b", 5, 4.9).is_met is False


def test_suites_are_the_modules_with_a_run() -> None:
    assert "conversion" in command.suites()
    assert "harness" not in command.suites()


def test_report_shows_every_row_and_target() -> None:
    report = harness.Report(
        "name",
        [harness.Table("table", ["case", "us"], [{"case": "x", "us": 1}, {"case": "y", "us": None}])],
        [harness.at_least("ratio", 5, 6.0), harness.at_least("other", 5, 4.0, "because")],
        ["a note"],
        harness.environment(),
    )
    text = StringIO()
    command.show(report, Console(file=text, width=200))
    for part in ("name", "table", "x", "a note", "ratio", "6.0x", "no. because"):
        assert part in text.getvalue()
    assert msgspec.json.decode(msgspec.json.encode(report), type=harness.Report).targets == report.targets


def test_unknown_suite_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["small", "rich"])
def test_measured_builds_say_the_same_warm_and_cold(size: str) -> None:
    warm, cold = (make(conversion.Recorded(f"container_{size}")) for make in (conversion.warm, conversion.cold))
    cold_pods = {cold() for _ in range(conversion._EXECUTIONS)}
    assert {warm() for _ in range(conversion._EXECUTIONS)} == cold_pods
    assert len(cold_pods) == conversion._EXECUTIONS
