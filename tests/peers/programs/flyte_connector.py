"""A connector written with the ``flyte`` SDK. Its jobs are files: their content is the state that a test wants."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
from flyte.connectors.utils import convert_to_flyte_phase
from flyteidl2.core.execution_pb2 import TaskLog

JOBS = Path(os.environ["CONNECTOR_JOBS"])


@dataclass
class FileJob(ResourceMeta):
    name: str


class FileConnector(AsyncConnector[FileJob]):
    """Names a job by its attempt, so that a creation that is repeated finds it."""

    name = "File Connector"
    task_type_name = "file_job"
    metadata_type = FileJob

    async def create(
        self,
        task_template: Any,
        output_prefix: str,
        inputs: Any = None,
        task_execution_metadata: Any = None,
        **kwargs: Any,
    ) -> FileJob:
        identity = task_execution_metadata.task_execution_id
        name = f"{identity.node_execution_id.execution_id.name}-{identity.retry_attempt}"
        if inputs and inputs.get("refuse"):
            raise ValueError("the vendor refuses this job")
        file = JOBS / name
        created = int((JOBS / f"{name}.creations").read_text()) if (JOBS / f"{name}.creations").exists() else 0
        (JOBS / f"{name}.creations").write_text(str(created + 1))
        if not file.exists():
            file.write_text("pending")
        (JOBS / f"{name}.secrets").write_text(",".join(f"{key}={value}" for key, value in sorted(kwargs.items())))
        return FileJob(name)

    async def get(self, resource_meta: FileJob, **kwargs: Any) -> Resource:
        state, _, message = (JOBS / resource_meta.name).read_text().partition(":")
        outputs = {"rows": 3, "table": f"sales/{kwargs.get('region', '')}"} if state == "success" else None
        link = TaskLog(uri=f"https://vendor/{resource_meta.name}", name="Vendor")
        return Resource(
            phase=convert_to_flyte_phase(state),
            message=message,
            log_links=[link],
            outputs=outputs,
            custom_info={"state": state},
        )

    async def delete(self, resource_meta: FileJob, **kwargs: Any) -> None:
        (JOBS / resource_meta.name).write_text("cancelled")


ConnectorRegistry.register(FileConnector())
