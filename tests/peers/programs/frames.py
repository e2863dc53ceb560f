"""Data frames between tasks."""

import client
import flyte
import pandas as pd

env = flyte.TaskEnvironment(name="frames", image="python:3.11")


@env.task
async def make(n: int) -> pd.DataFrame:
    return pd.DataFrame({"n": range(n), "square": [x * x for x in range(n)]})


@env.task
async def main(n: int) -> int:
    frame = await make(n)
    return int(frame["square"].sum())


if __name__ == "__main__":
    client.connect()
    client.answer(client.outputs(main, 4))
