"""From a JobSet to a phase, with links by the names that the backend expects pods to have."""

from __future__ import annotations

import msgspec

from propfan.pluginmachinery.entries import SetupContext
from propfan.plugins.clustered import ClusteredPlugin, entry
from tests.golden.areas import job_differences, jobs


def _load(setup: SetupContext) -> ClusteredPlugin:
    sections = {**setup.sections, "clustered-task": {"exact-pod-names": False}}
    return ClusteredPlugin(msgspec.structs.replace(setup, sections=sections))


run = jobs.phases(msgspec.structs.replace(entry, load=_load))
compare = job_differences.compare_phases
