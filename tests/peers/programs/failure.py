"""A task that raises: what the client is told."""

import client
import flyte

env = flyte.TaskEnvironment(name="failure", image="python:3.11")


@env.task
async def main(x: int) -> int:
    raise ValueError(f"no good: {x}")


if __name__ == "__main__":
    client.connect()
    client.answer(client.outputs(main, 3))
