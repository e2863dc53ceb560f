"""flyte.map over a list, one of whose items fails."""

import client
import flyte

env = flyte.TaskEnvironment(name="mapping", image="python:3.11")


@env.task
def half(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x // 2


@env.task
def main(xs: list[int]) -> list[str]:
    return [type(got).__name__ if isinstance(got, Exception) else str(got) for got in flyte.map(half, xs)]


if __name__ == "__main__":
    client.connect()
    client.answer(client.outputs(main, [4, 3, 8]))
