"""From a task to its Kubeflow job of MPI."""

from __future__ import annotations

from propfan.plugins.kubeflow.mpi import entry
from tests.golden.areas import job_differences, jobs

run = jobs.builds(entry)
compare = job_differences.compare_slots
