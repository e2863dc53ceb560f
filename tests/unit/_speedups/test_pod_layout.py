from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from propfan import _speedups
from propfan._speedups import pod_layout, pods, pure_twin

PURE = pure_twin("pod_layout")
TWINS = pytest.mark.parametrize("twin", [PURE, pod_layout], ids=["pure", "in use"])
SOURCE = Path(pods.__file__).read_text(encoding="utf-8")

ONE_WORD_MORE = SOURCE.replace("gc=False,", "weakref=True,")
OTHER_ORDER = SOURCE.replace(
    'class Waiting(_Part, frozen=True):\n    reason: str = ""\n',
    'class _First(_Part, frozen=True):\n    reason: str = ""\n\n\nclass Waiting(_First, frozen=True):\n',
)
IMPORT = """
import sys, types
pods = types.ModuleType("propfan._speedups.pods")
sys.modules[pods.__name__] = pods
exec(sys.stdin.read(), vars(pods))
from propfan._speedups import podphase
waiting = pods.Waiting(reason="reason", message="message")
status = pods.ContainerStatus(state=pods.State(waiting=waiting))
podphase.is_ready(pods.Pod(status=pods.Status(container_statuses=(status,))))
"""


def import_with(source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own in which pods are those of ``source``."""
    variables = {name: value for name, value in os.environ.items() if name != "PROPFAN_PURE"} | environment
    return subprocess.run(
        [sys.executable, "-c", IMPORT], input=source, env=variables, capture_output=True, text=True, check=False
    )


@TWINS
def test_fields_lie_where_they_are_read(twin: Any) -> None:
    twin.check()


@TWINS
def test_every_part_that_is_read_in_place_is_checked(twin: Any) -> None:
    layout = Path(str(PURE.__file__)).with_suffix(".pxd").read_text(encoding="utf-8")
    declared = {line.split("pods.")[1].split()[0] for line in layout.splitlines() if "ctypedef class" in line}
    assert {part.__name__ for part in twin._READ} == declared


@pytest.mark.skipif(_speedups.backends()["pod_layout"] != "compiled", reason="plain Python has no layout")
@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (ONE_WORD_MORE, "ValueError: propfan._speedups.pods.Annotations size changed"),
        (OTHER_ORDER, "ImportError: propfan._speedups.pods.Waiting: its fields lie elsewhere"),
    ],
    ids=["one word more", "other order"],
)
def test_another_layout_is_refused_at_import(source: str, problem: str) -> None:
    assert source != SOURCE
    refused = import_with(source)
    assert refused.returncode == 1, refused.stderr
    assert problem in refused.stderr


@pytest.mark.parametrize("source", [SOURCE, ONE_WORD_MORE, OTHER_ORDER], ids=["own", "one word more", "other order"])
def test_plain_python_reads_any_layout(source: str) -> None:
    done = import_with(source, PROPFAN_PURE="1")
    assert done.returncode == 0, done.stderr
