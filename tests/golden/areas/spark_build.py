"""From a task template to a SparkApplication."""

from __future__ import annotations

from propfan.plugins.spark import entry
from tests.golden.areas import jobs

run = jobs.builds(entry)
compare = jobs.compare
