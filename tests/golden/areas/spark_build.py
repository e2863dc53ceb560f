"""From a task template to a SparkApplication."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from propfan.plugins.spark import entry
from tests.golden.areas import jobs
from tests.golden.comparison import ABSENT, Difference

NO_FILE: Final = "no file, which the definition refuses"

run = jobs.builds(entry)


def compare(case_input: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """The backend leaves the file out where a task names only a class."""
    difference = (".resource.spec.mainApplicationFile", (None, ABSENT), "spark-internal")
    return [
        msgspec.structs.replace(d, cause=NO_FILE)
        if d.path == difference[0] and d.expected in difference[1] and d.actual == difference[2]
        else d
        for d in jobs.compare(case_input, expected, actual)
    ]
