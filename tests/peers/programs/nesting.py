"""Three levels, and a failure that keeps its type and message on its way up."""

import client
import flyte
import flyte.errors

env = flyte.TaskEnvironment(name="nesting", image="python:3.11")


@env.task
async def leaf(x: int) -> int:
    if x < 0:
        raise KeyError("negative")
    return x + 1


@env.task
async def middle(x: int) -> int:
    return await leaf(x) + 1


@env.task
async def main(x: int) -> list[str]:
    good = await middle(x)
    try:
        await leaf(-1)
    except flyte.errors.RuntimeUserError as error:
        return [str(good), error.code, str(error)]
    return [str(good)]


if __name__ == "__main__":
    client.connect()
    client.answer(client.outputs(main, 1))
