"""A synchronous connector."""

from __future__ import annotations

from propfan.pluginmachinery.connector import RemotePhase, Resource, SyncConnector, TaskCategory, TaskRequest


class Greeter(SyncConnector):
    name = "Greeter"
    categories = (TaskCategory("greet"),)

    async def do(self, task: TaskRequest) -> Resource:
        return Resource(RemotePhase.SUCCEEDED, outputs={"greeting": f"hello {task.inputs()['name']}"})
