"""From a Kubeflow job of PyTorch to a phase."""

from __future__ import annotations

from propfan.plugins.kubeflow.pytorch import entry
from tests.golden.areas import job_differences, jobs

run = jobs.phases(entry)
compare = job_differences.compare_phases
