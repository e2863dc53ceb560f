"""From a Kubeflow job of MPI to a phase."""

from __future__ import annotations

from propfan.plugins.kubeflow.mpi import entry
from tests.golden.areas import job_differences, jobs

run = jobs.phases(entry)
compare = job_differences.compare_phases
