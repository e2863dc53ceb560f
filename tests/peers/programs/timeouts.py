"""A child that takes too long."""

import asyncio
from datetime import timedelta

import client
import flyte
import flyte.errors

env = flyte.TaskEnvironment(name="timeouts", image="python:3.11")


@env.task(timeout=timedelta(seconds=2))
async def endless() -> int:
    await asyncio.sleep(600)
    return 1


@env.task
async def main() -> str:
    try:
        await endless()
    except flyte.errors.TaskTimeoutError as error:
        return type(error).__name__
    return "in time"


if __name__ == "__main__":
    client.connect()
    client.answer(client.outputs(main))
