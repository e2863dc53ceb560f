"""A DaskJob's status to a phase."""

from __future__ import annotations

from propfan.plugins.dask import entry
from tests.golden.areas import jobs

run = jobs.phases(entry, has_process=False)
compare = jobs.compare
