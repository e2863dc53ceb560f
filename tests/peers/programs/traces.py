"""Functions that are traced within a task."""

import client
import flyte
from flyte.remote import Action

env = flyte.TaskEnvironment(name="traces", image="python:3.11")


@flyte.trace
async def step(x: int) -> str:
    return f"traced {x}"


@env.task
async def main(x: int) -> str:
    return await step(x)


if __name__ == "__main__":
    client.connect()
    run = flyte.run(main, 5)
    run.wait(quiet=True)
    kinds = sorted(action.pb2.metadata.action_type for action in Action.listall(for_run_name=run.name))
    client.answer([tuple(run.outputs())[0], kinds])
