"""A task called with other resources, environment and name; run context with labels."""

import os

import client
import flyte
from flyte.remote import Run

env = flyte.TaskEnvironment(name="overrides", image="python:3.11", env_vars={"COLOUR": "red", "SIZE": "1"})


@env.task
async def child() -> str:
    return os.environ["COLOUR"] + os.environ["SIZE"]


@env.task
async def main() -> list[str]:
    other = child.override(env_vars={"COLOUR": "blue", "SIZE": "2"}, resources=flyte.Resources(cpu="250m"))
    return [await child(), await other(), os.environ.get("EXTRA", "")]


if __name__ == "__main__":
    client.connect()
    context = flyte.with_runcontext(env_vars={"EXTRA": "more"}, labels={"team": "blue"}, name=client.new_name("over"))
    run = context.run(main)
    run.wait(quiet=True)
    found = [other.name == run.name for other in Run.listall(with_labels={"team": "blue"})]
    client.answer([tuple(run.outputs())[0], any(found)])
