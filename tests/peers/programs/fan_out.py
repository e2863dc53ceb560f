"""A parent with many children at once, in a group."""

import asyncio

import client
import flyte

env = flyte.TaskEnvironment(name="fan_out", image="python:3.11")


@env.task
async def square(x: int) -> int:
    return x * x


@env.task
async def main(n: int) -> int:
    with flyte.group("squares"):
        return sum(await asyncio.gather(*(square(x) for x in range(n))))


if __name__ == "__main__":
    client.connect()
    client.answer(client.outputs(main, 5))
