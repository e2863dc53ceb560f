"""From a clustered task to its JobSet."""

from __future__ import annotations

from propfan.plugins.clustered import entry
from tests.golden.areas import jobs

run = jobs.builds(entry)
compare = jobs.compare
