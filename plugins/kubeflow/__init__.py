"""Runs ``pytorch``, ``tensorflow`` and ``mpi`` tasks as jobs of the Kubeflow training operator."""

from __future__ import annotations

from propfan.plugins.kubeflow.mpi import MpiPlugin
from propfan.plugins.kubeflow.mpi import entry as mpi_entry
from propfan.plugins.kubeflow.plugin import KubeflowConfig
from propfan.plugins.kubeflow.pytorch import PyTorchPlugin
from propfan.plugins.kubeflow.pytorch import entry as pytorch_entry
from propfan.plugins.kubeflow.tensorflow import TensorflowPlugin
from propfan.plugins.kubeflow.tensorflow import entry as tensorflow_entry

__all__ = [
    "KubeflowConfig",
    "MpiPlugin",
    "PyTorchPlugin",
    "TensorflowPlugin",
    "mpi_entry",
    "pytorch_entry",
    "tensorflow_entry",
]
