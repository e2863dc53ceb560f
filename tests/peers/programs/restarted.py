"""Children that take a while; the control plane dies meanwhile. Each start of a child leaves a line in a file."""

import asyncio
import sys
from pathlib import Path

import client
import flyte

env = flyte.TaskEnvironment(name="restarted", image="python:3.11")


@env.task
async def work(x: int, ledger: str) -> int:
    with Path(ledger).open("a") as file:
        file.write(f"{x}\n")
    await asyncio.sleep(6)
    return x


@env.task
async def main(n: int, ledger: str) -> int:
    return sum(await asyncio.gather(*(work(x, ledger) for x in range(n))))


if __name__ == "__main__":
    client.connect()
    client.answer(client.outputs(main, 2, sys.argv[2]))
