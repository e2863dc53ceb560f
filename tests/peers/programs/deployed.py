"""Tasks that are deployed first and run by name and version, with default inputs."""

import client
import flyte
from flyte.remote import Task

env = flyte.TaskEnvironment(name="deployed", image="python:3.11")


@env.task
async def main(x: int = 4) -> int:
    return x + 1


if __name__ == "__main__":
    client.connect()
    flyte.deploy(env, version="v1")
    named = Task.get("deployed.main", version="v1")
    latest = Task.get("deployed.main", auto_version="latest")
    listed = [task.name for task in Task.listall()]
    client.answer([client.outputs(named, x=6), client.outputs(latest), "deployed.main" in listed])
