"""A human says yes."""

import time

import client
import flyte
from flyte.remote import Condition

env = flyte.TaskEnvironment(name="conditions", image="python:3.11")


@env.task
async def main() -> str:
    condition = await flyte.new_condition.aio("approve", prompt="Go on?", data_type=bool)
    return f"said {await condition.wait.aio()}"


if __name__ == "__main__":
    client.connect()
    run = flyte.run(main)
    while (condition := Condition.get("approve", run_name=run.name)) is None or "PAUSED" not in str(condition.phase):
        time.sleep(0.3)
    condition.signal(True)
    run.wait(quiet=True)
    client.answer(tuple(run.outputs())[0])
