"""The service account that a task's pods run under."""

from __future__ import annotations

from flyteidl2.core import security_pb2

from propfan.pluginmachinery.contexts import TaskExecutionMetadata
from propfan.pluginmachinery.podspec.build import parse


def service_account(metadata: TaskExecutionMetadata) -> str:
    """Whom the task asks to run as, else the execution's default; empty when neither says.

    Raises:
        DecodeError: the execution's security context is none.
    """
    if metadata.security_context is not None:
        security = parse(security_pb2.SecurityContext, metadata.security_context, "security_context")
        if account := security.run_as.k8s_service_account:
            return account
    return metadata.k8s_service_account
