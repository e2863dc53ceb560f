"""A run with a child that the client aborts."""

import asyncio
import time

import client
import flyte

env = flyte.TaskEnvironment(name="aborting", image="python:3.11")


@env.task
async def endless() -> int:
    await asyncio.sleep(600)
    return 1


@env.task
async def main() -> int:
    return await endless()


if __name__ == "__main__":
    client.connect()
    run = flyte.run(main)
    while list(client.phases(run.name).values()) != ["RUNNING", "RUNNING"]:
        time.sleep(0.3)
    run.abort("enough")
    run.wait(quiet=True)
    while set(client.phases(run.name).values()) != {"ABORTED"}:
        time.sleep(0.3)
    client.answer(sorted(client.phases(run.name).values()))
