"""From a task to its Kubeflow job of PyTorch."""

from __future__ import annotations

from propfan.plugins.kubeflow.pytorch import entry
from tests.golden.areas import jobs

run = jobs.builds(entry)
compare = jobs.compare
